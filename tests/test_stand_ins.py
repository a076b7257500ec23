"""Stand-ins: the ReLU network bit for bit, twins that are new, learn, repeat and leave everything else alone."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from tests.conftest import InDouble, record_of, small_snn
from torch import nn

from robustspike.attacks import PGD, Transfer, WorstOf, fgsm
from robustspike.balls import L2, Linf
from robustspike.checkpoints import architecture, fingerprint, settings_text
from robustspike.data import Split
from robustspike.defences import vanilla
from robustspike.draws import Draws
from robustspike.gradients import BPTR, BPTT, CBA, RGA, cross_entropy, estimating, frozen, input_gradient
from robustspike.models import digits_cnn, wrn16
from robustspike.neurons import spiking_layers
from robustspike.stand_ins import ReLUNetwork, relu_network, relu_twin, undefended_twin
from robustspike.surrogates import ArcTan, Triangle
from robustspike.train import clean_accuracy, fit

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"flip": False, "crop_padding": 0, "accelerator": "cpu", "schedule": "one-cycle", "batch_size": 32}
TWINS = [undefended_twin, relu_twin]
twins = pytest.mark.parametrize("make", TWINS)


def batch(n=8):
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x, torch.arange(n) % 4, Draws.of(11, torch.arange(n))


def tiny(n=16, classes=4):
    return Split(torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(n) % classes)


def state(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


# The ReLU network of the same weights


@pytest.mark.parametrize("options", [{}, {"encoder": "phase"}, {"encoder": "poisson"}, {"readout": "spikes"}], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_its_logits_and_gradients_are_those_of_cba_bit_for_bit(options, training):
    model, (x, y, _) = small_snn(**options).double().train(training), batch()
    with estimating(model, CBA()):
        expected = model(x)
    network = relu_network(model)
    assert torch.equal(network(x), expected)
    assert torch.equal(input_gradient(network, x, y), input_gradient(model, x, y, CBA()))
    with estimating(network, BPTT()):
        assert torch.equal(network(x), expected)
    spiking = model.eval()(x)
    assert not model.time_collapsed
    assert not torch.allclose(spiking, relu_network(model)(x))


def test_a_relu_by_hand():
    model = small_snn().double().eval()
    x, m = batch()[0], model.layers
    features = m[1](m[0](x)).relu()
    torch.testing.assert_close(relu_network(model)(x), model.head(m[4](m[3](features))), rtol=0, atol=1e-12)


def test_it_shares_the_parameters_and_has_none_of_its_own():
    model = small_snn().double()
    network = relu_network(model)
    assert [id(p) for p in network.parameters()] == [id(p) for p in model.parameters()]
    assert [id(b) for b in network.buffers()] == [id(b) for b in model.buffers()]
    before = network(batch()[0])
    with torch.no_grad():
        model.head.bias += 1.0
    torch.testing.assert_close(network(batch()[0]), before + 1.0)


def test_it_is_another_function_with_a_fingerprint_of_its_own_in_every_process():
    model = small_snn()
    network = relu_network(model)
    assert architecture(network) != architecture(model)
    assert fingerprint(network) != fingerprint(model)
    assert fingerprint(network) == fingerprint(relu_network(copy.deepcopy(model)))
    code = (
        "from tests.conftest import small_snn; from robustspike.checkpoints import settings_text; "
        "from robustspike.attacks import *; from robustspike.balls import Linf; "
        "from robustspike.stand_ins import relu_network; "
        "print(settings_text(Transfer(PGD(Linf(0.1)), relu_network(small_snn()))))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.strip() == settings_text(Transfer(PGD(Linf(0.1)), network))
    assert "ReLUNetwork[" in said.stdout


@pytest.mark.parametrize("estimator", [RGA(), BPTT(ArcTan()), CBA()], ids=str)
def test_an_estimator_other_than_its_own_gradient_is_refused(estimator):
    model, (x, y, draws) = small_snn().double(), batch()
    before = record_of(model)
    with pytest.raises(ValueError, match=r"^a ReLU network has no spikes .* attack it with BPTT\(\)"):
        Transfer(PGD(Linf(0.1), estimator=estimator), relu_network(model))(model, x, y, draws)
    assert record_of(model) == before


def test_a_network_without_spikes_is_refused():
    with pytest.raises(ValueError, match=r"^found no spiking layer in Linear that could carry CBA\(\)"):
        relu_network(nn.Linear(2, 2))


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.4)], ids=str)
def test_examples_of_the_relu_network_are_those_that_cba_finds(ball):
    (x, y, draws), model = batch(), small_snn().double().train()
    before = record_of(model)
    through = PGD(ball, steps=3, estimator=CBA()).run(model, x, y, draws)
    transferred = Transfer(PGD(ball, steps=3, early_stop=True), relu_network(model)).run(model, x, y, draws)
    for name in set(vars(through)) - {"queries"}:  # through CBA the network itself is asked too
        assert torch.equal(getattr(transferred, name), getattr(through, name)), name
    assert record_of(model) == before
    assert (ball.distance(transferred.x_adv, x) <= ball.eps + 1e-9).all()


# Transfer from a stand-in


@pytest.mark.parametrize("estimator", [BPTT(), BPTR(), RGA(), CBA()], ids=str)
@pytest.mark.parametrize("make", [fgsm, PGD])
def test_transfer_from_oneself_is_the_white_box_attack_without_early_stopping(make, estimator):
    model, (x, y, draws) = small_snn().double(), batch()
    white = make(Linf(0.1), estimator=estimator).run(model, x, y, draws)
    stopping = Transfer(make(Linf(0.1), estimator=estimator, early_stop=True), source=model)
    transferred = stopping.run(small_snn(threshold=0.5).double(), x, y, draws)
    for name in vars(white):
        assert torch.equal(getattr(transferred, name), getattr(white, name)), name
    assert stopping.kind == "black-box"


def test_stand_ins_join_a_worst_case():
    model, (x, y, draws) = small_snn().double(), batch()
    twin = undefended_twin(model, tiny(), epochs=1, **QUICK)
    attack = WorstOf((Transfer(fgsm(Linf(0.1)), relu_network(model)), Transfer(fgsm(Linf(0.1)), twin)))
    assert attack.ball == Linf(0.1)
    assert (attack(model, x, y, draws) - x).abs().max() <= 0.1 + 1e-12


# Twins


@twins
@pytest.mark.parametrize(
    "model",
    [
        digits_cnn(time_steps=2, encoder="phase", mean=(0.3,), std=(0.4,)),
        wrn16(time_steps=1, in_channels=1, image_size=8),
        small_snn(),
        small_snn().double(),
        InDouble(small_snn()),
        digits_cnn(time_steps=2).double(),
        digits_cnn(time_steps=2).bfloat16(),
    ],
    ids=["digits-cnn", "wrn16", "own layers", "own layers in double", "wrapped", "double", "bfloat16"],
)
def test_a_twin_is_the_same_network_with_other_weights(make, model):
    twin = make(model, tiny(8), epochs=1, **QUICK)
    assert isinstance(twin, ReLUNetwork) == (make is relu_twin)
    inner = twin.network if make is relu_twin else twin
    assert architecture(inner) == architecture(model)
    assert not twin.training
    theirs, mine = dict(model.named_parameters()), dict(inner.named_parameters())
    assert list(mine) == list(theirs)
    assert {p.data_ptr() for p in mine.values()}.isdisjoint(p.data_ptr() for p in theirs.values())
    for name, parameter in mine.items():
        assert parameter.shape == theirs[name].shape
        assert parameter.dtype == theirs[name].dtype
        assert parameter.isfinite().all()
        assert parameter.dim() < 2 or not torch.equal(parameter, theirs[name]), name
    assert twin(batch(2)[0].to(mine.popitem()[1].dtype)).isfinite().all()


@twins
def test_a_twin_learns(make, digits, trained):
    twin = make(trained.model, digits.train.subset(384), epochs=2, **QUICK)
    assert clean_accuracy(twin, digits.test.subset(200)) > 0.5
    weights = trained.model.head.weight
    assert not torch.allclose((twin.network if make is relu_twin else twin).head.weight, weights, atol=0.01)


def test_a_relu_twin_learns_as_a_relu_network(digits):
    twin = relu_twin(digits_cnn(time_steps=2), digits.train.subset(384), epochs=2, **QUICK)
    assert clean_accuracy(twin, digits.test.subset(200)) > clean_accuracy(twin.network, digits.test.subset(200)) + 0.1


@twins
def test_a_twin_is_decided_by_its_seed_alone(make):
    model = small_snn()
    first, again, other = (state(make(model, tiny(), epochs=1, seed=seed, **QUICK)) for seed in (0, 0, 1))
    for name in first:
        assert torch.equal(first[name], again[name]), name
    weights = [name for name in first if name.endswith("weight")]
    assert not any(torch.equal(first[name], other[name]) for name in weights)
    fit(model, tiny(), vanilla(), epochs=1, progress=False, **QUICK)
    shifted = state(make(model, tiny(), epochs=1, seed=0, **QUICK))
    assert all(torch.equal(first[name], shifted[name]) for name in first)  # whatever the model has learned


def test_a_twin_is_no_copy_of_a_network_made_and_trained_with_the_same_seed():
    torch.manual_seed(0)
    model = digits_cnn(time_steps=2)
    fit(model, tiny(), vanilla(), epochs=1, progress=False, seed=0, **QUICK)
    twin = undefended_twin(model, tiny(), epochs=1, seed=0, **QUICK)
    with torch.no_grad():
        assert (twin.layers[0].weight - model.layers[0].weight).norm() > model.layers[0].weight.norm() / 2


@twins
def test_making_a_twin_leaves_everything_else_alone(make, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for options in ({}, {"encoder": "poisson"}):
        model, data = small_snn(**options).train(), tiny()
        model.layers[1].eval()
        for k, p in enumerate(model.parameters()):
            p.requires_grad_(k % 2 == 0)
            p.grad = torch.full_like(p, 0.5)
        images, before, generator = data.images.clone(), record_of(model), torch.get_rng_state()
        twin = make(model, data, epochs=1, **QUICK)
        assert record_of(model) == before
        assert torch.equal(torch.get_rng_state(), generator)
        assert torch.equal(data.images, images)
        assert all(p.requires_grad for p in twin.parameters())
        assert not twin._forward_pre_hooks
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@twins
def test_killed_half_way_it_leaves_nothing(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, steps = small_snn(), []
    before, generator = record_of(model), torch.get_rng_state()

    def killed(self, which, *_):
        steps.append(len(which))
        if len(steps) == 2:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr("robustspike.train.steps.Stepper.__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        make(model, tiny(), epochs=1, **(QUICK | {"batch_size": 8}))
    assert steps == [8, 8]
    assert record_of(model) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(tmp_path.iterdir()) == []


@twins
def test_a_model_that_is_being_looked_through_makes_the_same_twin(make):
    model = small_snn()
    plain = state(make(model, tiny(), epochs=1, **QUICK))
    with estimating(model, CBA()), frozen(model):
        twin = make(model, tiny(), epochs=1, **QUICK)
    assert all(layer.gradient_rule is None for layer in spiking_layers(twin).values())
    assert all(torch.equal(plain[name], t) for name, t in state(twin).items())


class Scaled(nn.Module):
    """A parameter that nobody can draw anew."""

    def __init__(self, can_reset=False):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
        if can_reset:
            self.reset_parameters = lambda: (nn.init.ones_(self.scale), nn.init.zeros_(self.shift))

    def forward(self, x):
        return self.scale * x + self.shift


@twins
def test_parameters_that_nothing_draws_anew_are_named(make):
    model = small_snn()
    model.layers.insert(1, Scaled())
    before = record_of(model)
    with pytest.raises(
        ValueError, match=r"^cannot draw layers\.1\.scale, layers\.1\.shift of SNN anew: .* the source of"
    ):
        make(model, tiny(), epochs=1, **QUICK)
    assert record_of(model) == before
    for _ in range(2):
        model.layers.insert(1, Scaled())
    with pytest.raises(ValueError, match=r"layers\.2\.shift and 2 more of SNN"):
        make(model, tiny(), epochs=1, **QUICK)


def test_a_module_that_resets_itself_is_drawn_anew():
    class Resets(Scaled):
        def reset_parameters(self):
            nn.init.constant_(self.scale, 2.0)
            nn.init.constant_(self.shift, 1.0)

    model = nn.Sequential(nn.Flatten(), Resets(), nn.Linear(64, 4))
    twin = undefended_twin(model, tiny(), epochs=1, lr=1e-9, **QUICK)
    assert (twin[1].scale.item(), twin[1].shift.item()) == pytest.approx((2.0, 1.0))
    with pytest.raises(ValueError, match="found no spiking layer"):
        relu_twin(model, tiny(), epochs=1, **QUICK)


def test_running_statistics_are_forgotten():
    model = small_snn()
    model.layers[1].running_mean.fill_(100.0)
    twin = undefended_twin(model, tiny(), epochs=1, **QUICK)
    assert twin.layers[1].running_mean.abs().max() < 10


def test_networks_of_ours_that_were_changed_are_copied_as_they_are():
    class Homemade:
        def slope(self, d):
            return Triangle().slope(d)

    changed = digits_cnn(time_steps=2)
    changed.head = nn.Linear(256, 7)
    for model in (changed, digits_cnn(time_steps=2, surrogate=Homemade())):
        assert architecture(undefended_twin(model, tiny(), epochs=1, **QUICK)) == architecture(model)
    assert undefended_twin(changed, tiny(), epochs=1, **QUICK).head.out_features == 7


@twins
@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        (tiny(0), {}, "training split is empty|validation split is empty"),
        (tiny(8, classes=8), {}, "labels go up to 7, but the model has only 4 classes"),
        (tiny(), {"epochs": 0}, "epochs and batch_size must be ≥ 1"),
        (tiny(), {"lr": -1.0}, "lr must be positive"),
    ],
)
def test_what_fit_refuses_is_refused(make, data, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(small_snn(), data, **({"epochs": 1} | QUICK | options))


def test_options_reach_the_training(digits):
    seen = []

    class Told(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    model = nn.Sequential(nn.Flatten(), Told(64, 10))
    undefended_twin(model, digits.train.subset(30), epochs=2, **(QUICK | {"batch_size": 15}))
    assert [n for n in seen if n > 1] == [15] * 4


def test_the_relu_network_breaks_what_an_attack_without_gradient_does_not(digits, trained):
    model, data, ball = trained.model, digits.test.subset(64), Linf(0.3)
    x, y = data.images, data.labels
    right = model(x).argmax(1) == y

    def robust(attack):
        with torch.no_grad():
            return (model(attack(model, x, y, Draws.of(0, data.ids))).argmax(1) == y)[right].float().mean().item()

    masked = PGD(ball, steps=5, loss=lambda z, y: 0 * cross_entropy(z, y))
    assert robust(masked) > robust(Transfer(PGD(ball, steps=5), relu_network(model))) + 0.1
