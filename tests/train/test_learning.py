"""Training learns, does what PyTorch does, and repeats itself."""

import math

import pytest
import torch
from tests.conftest import small_snn
from tests.train.making import data, figures, network, train, watched

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.checkpoints import fingerprint
from robustspike.data.augment import cutout
from robustspike.defences import Objective, at, sr, sr_star, vanilla
from robustspike.draws import Draws, uniform_per_step
from robustspike.models import digits_cnn
from robustspike.train import clean_accuracy

pytestmark = pytest.mark.usefixtures("one_thread")

ATTACKED = at(PGD(Linf(0.1), steps=2))


def test_vanilla_training_learns_digits(trained, digits):
    losses = [row.loss for row in trained.log]
    assert losses[-1] < 0.5 * losses[0]
    assert clean_accuracy(trained.model, digits.test) > 0.7


@pytest.mark.parametrize(
    "objective", [vanilla(), sr(0.1), at(PGD(Linf(0.05), steps=2)), sr_star(PGD(Linf(0.05), 1), 0.1)]
)
def test_every_objective_trains(objective, digits):
    torch.manual_seed(0)
    model, split = digits_cnn(time_steps=1, threshold=0.5), digits.train.subset(64)
    _, log = train(model, objective, split, epochs=5, lr=0.05, crop_padding=0, flip=False)
    assert log[-1].loss < 0.8 * log[0].loss
    assert [row.epoch for row in log] == list(range(5))
    assert all(p.isfinite().all() for p in model.parameters())


def test_one_epoch_of_plain_sgd_is_what_torch_does():
    """Batches of torch.randperm under the epoch's seed, momentum and weight decay, no augmentation."""
    model, log = train(epochs=1, crop_padding=0, flip=False, momentum=0.8, weight_decay=0.01, seed=7)
    other, split, losses = network().train(), data(), []
    optimizer = torch.optim.SGD(other.parameters(), 0.01, 0.8, weight_decay=0.01)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(7 * 1_000_003))
    for which in order.split(8):
        optimizer.zero_grad()
        loss = vanilla()(other, split.images[which], split.labels[which])
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(which))
    for name, value in model.state_dict().items():  # up to the rounding of fused steps
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-5, atol=1e-7)
    assert log[0].loss == pytest.approx(sum(losses) / 20)


class Late(torch.nn.Module):
    """Its second layer takes part from the second step on."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(64, 4), torch.nn.Linear(64, 4)])
        for layer in self.layers:
            torch.nn.init.constant_(layer.weight, 0.1)
            torch.nn.init.zeros_(layer.bias)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return sum(layer(x.flatten(1)) for layer in self.layers[: max(1, self.calls)])


def test_a_parameter_that_gets_a_gradient_later_is_stepped_as_torch_does():
    options = {"epochs": 1, "crop_padding": 0, "flip": False, "weight_decay": 0.01, "schedule": "constant"}
    model, other = Late(), Late()
    train(model, seed=7, **options)
    optimizer, split = torch.optim.SGD(other.parameters(), 0.01, 0.9, weight_decay=0.01, foreach=False), data()
    for which in torch.randperm(20, generator=torch.Generator().manual_seed(7 * 1_000_003)).split(8):
        optimizer.zero_grad()
        vanilla()(other, split.images[which], split.labels[which]).backward()
        optimizer.step()
    for (name, value), t in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, t, rtol=1e-5, atol=1e-7, msg=name)


def test_a_clipped_step_is_what_torch_does():
    """Plain SGD moves the weights by lr · gradient, and the gradient's norm is 0.01 after clipping."""
    start, options = network(), {"epochs": 1, "batch_size": 20, "momentum": 0, "weight_decay": 0, "lr": 0.5}
    model, _ = train(clip_norm=0.01, **options)
    moved = [(p - q).detach() for p, q in zip(model.parameters(), start.parameters(), strict=True)]
    assert math.sqrt(sum(float(m.square().sum()) for m in moved)) == pytest.approx(0.5 * 0.01, rel=1e-4)
    assert fingerprint(train(clip_norm=1e6, **options)[0]) == fingerprint(train(**options)[0])


def test_the_weight_decay_of_the_objective_is_the_default():
    objective = Objective("mine", vanilla().parts, weight_decay=0.3)
    assert fingerprint(train(objective=objective)[0]) == fingerprint(train(weight_decay=0.3)[0])
    assert fingerprint(train(objective=objective)[0]) != fingerprint(train()[0])


def test_adam_takes_its_own_default_rate():
    assert train(optimizer="adam", lr=None, schedule="constant")[1][0].lr == 1e-3
    assert train(lr=None, schedule="constant")[1][0].lr == 0.1


# What the objective is given


def test_the_objective_hears_the_progress_and_retracts_after_each_step(monkeypatch):
    heard, order = [], []
    call = Objective.__call__

    def noting(self, model, x, y, *, progress=1.0, draws=None):
        heard.append(progress)
        order.append("loss")
        return call(self, model, x, y, progress=progress, draws=draws)

    def retract(model):
        order.append("retract")
        with torch.no_grad():
            model.head.bias.zero_()

    monkeypatch.setattr(Objective, "__call__", noting)
    model, _ = train(objective=Objective("mine", vanilla().parts, retract=(retract,)), epochs=2)
    assert heard == pytest.approx([k / 6 for k in range(6)])
    assert order == ["loss", "retract"] * 6
    assert (model.head.bias == 0).all()


def test_the_streams_of_the_objective_belong_to_samples_and_epochs(monkeypatch):
    keys = []

    def call(self, model, x, y, *, progress, draws):
        keys.append(dict(zip(map(tuple, x.flatten(1).tolist()), draws.keys.tolist(), strict=True)))
        return model(x).sum()

    monkeypatch.setattr(Objective, "__call__", call)
    split = data()
    train(split=split, epochs=2, seed=3, crop_padding=0, flip=False)
    for epoch in range(2):
        found = keys[3 * epoch] | keys[3 * epoch + 1] | keys[3 * epoch + 2]
        streams = Draws.of(3, split.ids).fork("objective").fork(epoch).keys.tolist()
        assert found == dict(zip(map(tuple, split.images.flatten(1).tolist()), streams, strict=True))


def test_torch_is_seeded_anew_for_every_step_and_for_what_follows_it():
    """However many numbers a step draws, the next one gets the same; after the step, others."""
    drawn = []

    def run(spent):
        def hook(batch, loss, call):
            drawn.append(torch.rand(spent if call == 1 else 1)[0].item())
            return loss

        def retract(model):
            drawn.append(torch.rand(1).item())

        train(objective=watched(hook, retract=(retract,)), epochs=2)
        return drawn[-12:]

    first = run(spent=1)
    assert first == run(spent=100)
    assert len(set(first)) == 12


# Repeating


def test_the_same_seed_gives_the_same_weights_and_another_others():
    first, log = train(objective=ATTACKED, seed=3)
    torch.manual_seed(55)
    again, log_again = train(network(), ATTACKED, seed=3)
    assert fingerprint(again) == fingerprint(first)
    assert [row.loss for row in log_again] == [row.loss for row in log]
    assert fingerprint(train(objective=ATTACKED, seed=4)[0]) != fingerprint(first)


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_the_global_random_numbers_are_left_alone(encoder):
    model = small_snn(encoder=encoder)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(model, ATTACKED, validation=data(8, seed=1), validation_attack=PGD(Linf(0.1), steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_random_numbers_do_not_matter():
    found = []
    for seed in (1, 2):
        model = small_snn(encoder="poisson")
        torch.manual_seed(seed)
        options = {"validation": data(40, seed=1), "validation_attack": PGD(Linf(0.1), steps=1)}
        model, log = train(model, ATTACKED, **options)
        found.append((figures(log), fingerprint(model)))
    assert found[0] == found[1]


def seen_images(epochs=2, **options):
    """The images of each epoch as the objective sees them, in order."""
    seen = []

    def hook(batch, loss, call):
        seen.append(batch.point.x.clone())
        return loss

    train(objective=watched(hook), epochs=epochs, **options)
    return torch.cat(seen).unflatten(0, (epochs, -1))


def sorted_images(x):
    return sorted(map(tuple, x.flatten(1).tolist()))


def test_every_epoch_has_its_own_order_and_its_own_augmentation():
    first, second = seen_images(crop_padding=0, flip=False)
    assert not torch.equal(first, second)
    assert sorted_images(first) == sorted_images(second) == sorted_images(data().images)
    first, second = seen_images(crop_padding=1, flip=True)
    assert sorted_images(first) != sorted_images(second)
    assert sorted_images(first) != sorted_images(data().images)


def test_an_augmentation_by_name():
    split = data()
    images = seen_images(augmentation="cutout", crop_padding=0, flip=False, seed=5)
    for epoch in range(2):
        expected = cutout(split.images, Draws.of(5, split.ids).fork("augment").fork(epoch))
        assert sorted_images(images[epoch]) == sorted_images(expected)


def test_a_stochastic_model_draws_per_sample_in_training():
    """The same numbers whatever the mini-batch: with a learning rate of almost 0 nothing else tells the runs apart."""
    options = {"epochs": 1, "lr": 1e-30, "crop_padding": 0, "flip": False}
    drawn = {}

    def hook(batch, loss, call):
        numbers = uniform_per_step(batch.point.x, 1)[0] if call else None
        drawn.setdefault("global", []).append(numbers.flatten()[0].item())
        for x, logits in zip(batch.point.x, batch.point.logits, strict=True):
            drawn.setdefault(tuple(x.flatten().tolist()), []).append(logits.detach())
        return loss

    for size in (5, 10):
        model = small_snn(encoder="poisson")
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 0.0
                layer.forward = lambda x, layer=layer: torch.nn.functional.batch_norm(
                    x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False
                )
        train(model, watched(hook), batch_size=size, **options)
    pairs = [value for key, value in drawn.items() if key != "global"]
    assert len(pairs) == 20
    for first, second in pairs:
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_the_generators_of_other_devices_are_left_alone(monkeypatch):
    """What is trained on the CPU seeds no GPU, be it only for the next step."""

    def refuse(seed):
        raise AssertionError("seeded")

    expected = fingerprint(train(objective=ATTACKED)[0])
    split = data(8, seed=1)
    model = network()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    again, _ = train(model, ATTACKED, validation=split, validation_attack=PGD(Linf(0.1), steps=1))
    assert fingerprint(again) == expected


def test_writing_and_validating_change_no_weight(tmp_path):
    plain = fingerprint(train()[0])
    options = {"validation": data(8, seed=1), "validation_attack": PGD(Linf(0.1), steps=1), "save_every": 1}
    assert fingerprint(train(out=tmp_path, tensorboard=True, **options)[0]) == plain


# Precision


def test_bfloat16_keeps_the_weights_in_float32_and_differs(tmp_path):
    model, log = train(precision="bf16-mixed", out=tmp_path)
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
    assert all(math.isfinite(row.loss) for row in log)
    exact, exact_log = train()
    assert fingerprint(model) != fingerprint(exact)
    assert log[-1].loss == pytest.approx(exact_log[-1].loss, rel=0.2)
    again, _ = train(precision="bf16-mixed")
    assert fingerprint(again) == fingerprint(model)


def products():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "expected"), [("tf32", ("high", True)), ("32-true", ("highest", False)), ("bf16-mixed", None)]
)
@pytest.mark.parametrize("before", [("highest", True), ("medium", False)])
def test_the_precision_of_products_is_as_said_while_training_and_only_then(monkeypatch, precision, expected, before):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before[1])
    usual = torch.get_float32_matmul_precision()
    found = []

    def hook(batch, loss, call):
        found.append(products())
        return loss

    def failing(batch, loss, call):
        raise KeyError("a bug")

    try:
        torch.set_float32_matmul_precision(before[0])
        train(objective=watched(hook), precision=precision, epochs=1)
        assert set(found) == {expected or before}
        assert products() == before
        with pytest.raises(KeyError):
            train(objective=watched(failing), precision=precision)
        assert products() == before
    finally:
        torch.set_float32_matmul_precision(usual)
