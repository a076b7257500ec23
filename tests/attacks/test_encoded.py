"""Luu's protocol: optima by hand, a plain loop in training mode, codes and balls, modes and buffers, early stopping."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.attacks.encoded import EncodedPGD, encoded_fgsm
from robustspike.balls import L2, Linf
from robustspike.checkpoints import settings_text
from robustspike.draws import Draws, uniform_per_step
from robustspike.encoders import Direct, Frames, Phase
from robustspike.gradients import ASSG, BPTR, BPTT, CBA, RGA, errs, estimating, frozen
from robustspike.neurons import spiking_layers
from robustspike.surrogates import with_slope

pytestmark = pytest.mark.usefixtures("one_thread")
EPS = 0.1
CODES = {
    "direct": {},
    "phase": {"encoder": "phase"},
    "poisson": {"encoder": "poisson"},
    "frames": {"encoder": "frames"},
}
codes = pytest.mark.parametrize("options", CODES.values(), ids=CODES)


def batch(n=8, options=None, dtype=torch.float64):
    steps = [2] * ((options or {}).get("encoder") == "frames")
    x = torch.rand(n, *steps, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    x[0], x[1] = 0.0, 1.0  # the corners of the box too
    return x, torch.arange(n) % 4, Draws.of(11, torch.arange(n))


class Weighing(nn.Module):
    """z_0 = Σ_t w_t·c_t and z_1 = 0 for the code c of x [N, F], w [T, F]."""

    def __init__(self, w):
        super().__init__()
        self.encoder = Direct(len(w))
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        z = (self.encoder(x) * self.w[:, None]).sum((0, 2))
        return torch.stack([z, torch.zeros_like(z)], 1)


# What it does


@pytest.mark.parametrize("make", [encoded_fgsm, lambda ball: EncodedPGD(ball, step_size=0.05, random_start=False)])
def test_every_step_moves_by_its_own_sign(make):
    w = [[1.0, -2.0], [-3.0, 0.5]]
    model, x = Weighing(w), torch.full((2, 2), 0.5, dtype=torch.float64)
    x_adv = make(Linf(EPS))(model, x, torch.tensor([0, 1]))
    expected = 0.5 - EPS * torch.tensor(w, dtype=torch.float64).sign()
    torch.testing.assert_close(x_adv, torch.stack([expected, 1 - expected]), rtol=0, atol=1e-12)
    with EncodedPGD(Linf(EPS)).presented(model, x) as code:
        drop = (model(code) - model(x_adv))[:, 0].tolist()
    assert drop == pytest.approx([EPS * 6.5, -EPS * 6.5])  # ε·Σ|w|; an image can move z_0 by ε·|Σ_t w_t| = 3.5 ε only
    pixels = PGD(Linf(EPS))(model, x, torch.tensor([0, 1]))
    assert (model(x) - model(pixels))[:, 0].tolist() == pytest.approx([EPS * 3.5, -EPS * 3.5])


@codes
@pytest.mark.parametrize("estimator", [BPTT(), RGA(), CBA()], ids=str)
def test_it_is_the_plain_loop_over_a_network_in_training_mode(options, estimator):
    model, attack = small_snn(**options).double().eval(), EncodedPGD(Linf(EPS), steps=3, estimator=estimator)
    x, y, draws = batch(options=options)
    with attack.presented(model, x, draws) as code:
        plain = copy.deepcopy(model).train()
        here = code + EPS * (2 * draws.uniform(code.shape[1:], torch.float64) - 1)
        here = here.clamp(0, 1)
        for _ in range(3):
            here = here.detach().requires_grad_()
            with estimating(plain, estimator):
                F.cross_entropy(plain(here), y).backward()
            here = here + 0.01 * here.grad.sign()
            here = (code + (here - code).clamp(-EPS, EPS)).clamp(0, 1)
    assert not torch.equal(plain.layers[1].running_mean, model.layers[1].running_mean)
    torch.testing.assert_close(attack(model, x, y, draws), here.detach(), rtol=0, atol=1e-12)


def test_training_mode_and_evaluation_mode_lead_elsewhere():
    class InEvaluationMode(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.encoder = model, model.encoder

        def forward(self, x):
            with frozen(self.model):
                self.model.encoder = self.encoder
                return self.model(x)

    model, attack = small_snn().double(), EncodedPGD(Linf(EPS), steps=3)
    assert not torch.equal(attack(model, *batch()), attack(InEvaluationMode(copy.deepcopy(model)), *batch()))


@codes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [encoded_fgsm, EncodedPGD, lambda ball: EncodedPGD(ball, early_stop=True)])
def test_every_entry_stays_within_eps_of_the_code_and_in_the_box(options, dtype, make):
    x, y, draws = batch(options=options, dtype=dtype)
    model, attack = small_snn(**options).to(dtype), make(Linf(EPS))
    x_adv = attack(model, x, y, draws)
    with attack.presented(model, x, draws) as code:
        assert code.shape == x_adv.shape == (8, 2, 1, 8, 8)
        assert x_adv.dtype == code.dtype == dtype
        assert (x_adv - code).abs().max() <= EPS + 1e-6
        assert (x_adv - code).abs().amax((0, 2, 3, 4)).min() > EPS / 2  # at both time steps
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert not x_adv.requires_grad


@codes
def test_eps_zero_returns_the_code_exactly(options):
    model, (x, y, draws) = small_snn(**options).double(), batch(options=options)
    for attack in (encoded_fgsm(Linf(0)), EncodedPGD(Linf(0)), EncodedPGD(Linf(0), early_stop=True)):
        with attack.presented(model, x, draws) as code:
            pass
        assert torch.equal(attack(model, x, y, draws), code)


def test_a_sample_depends_on_its_batch_through_batchnorm_only():
    x, y, draws = batch()
    alone = torch.tensor([5])
    for freeze, equal in ((False, False), (True, True)):
        model, attack = small_snn().double(), EncodedPGD(Linf(EPS))
        if freeze:
            model.layers[1] = nn.Identity()
        whole, single = attack(model, x, y, draws)[alone], attack(model, x[alone], y[alone], draws[alone])
        assert torch.allclose(whole, single, rtol=0, atol=1e-12) == equal


@pytest.mark.parametrize("estimator", [BPTR(), ASSG(), CBA(), BPTT()], ids=str)
def test_any_estimator_and_loss(estimator):
    attack = EncodedPGD(Linf(EPS), steps=2, estimator=estimator, loss=lambda z, y: -z.gather(1, y[:, None])[:, 0])
    attempt = attack.run(small_snn().double(), *batch())
    assert attempt.gradients.tolist() == [2] * 8
    assert attempt.queries.tolist() == attempt.nan.tolist() == [0] * 8


def test_what_an_estimator_remembers_it_keeps_from_step_to_step():
    seen = []

    class Remembering:
        remembers = True

        def __call__(self, layer, currents, memory):
            place = memory.place(layer)
            seen.append((place[1], memory.recall(place)))
            memory.store(place, torch.tensor(len(seen)))
            return layer.fire(currents)

    EncodedPGD(Linf(EPS), steps=3, estimator=Remembering())(small_snn().double(), *batch())
    assert seen == [(1, None), (1, (1,)), (1, (2,))]


# What it leaves alone


def unusual_model(**options):
    """Mixed modes, some frozen parameters, gradients in place: what a careless attack would disturb."""
    model = small_snn(**options).double().train()
    model.layers[1].eval()
    for k, p in enumerate(model.parameters()):
        p.requires_grad_(k % 2 == 0)
        p.grad = torch.full_like(p, 0.5) if k % 4 == 0 else None
    return model


@codes
@pytest.mark.parametrize("early_stop", [False, True])
def test_leaves_model_and_data_as_they_were(options, early_stop):
    (x, y, draws), model = batch(options=options), unusual_model(**options)
    before, x_before, encoder = record_of(model), x.clone(), model.encoder
    buffers = {name: id(buffer) for name, buffer in model.named_buffers()}
    EncodedPGD(Linf(EPS), early_stop=early_stop)(model, x, y, draws)
    assert record_of(model) == before
    assert model.encoder is encoder
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == buffers
    assert torch.equal(x, x_before)
    assert list(model._modules) == list(small_snn()._modules)


@pytest.mark.parametrize("failing_call", [1, 2])  # in training mode; later, in evaluation mode
def test_leaves_the_model_as_it_was_after_an_exception(failing_call, monkeypatch):
    model = unusual_model()
    before, encoder, calls = record_of(model), model.encoder, []
    whole = nn.Linear.forward

    def fails(self, x):
        calls.append(model.training)
        if len(calls) >= failing_call:
            raise RuntimeError("inside")
        return whole(self, x)

    monkeypatch.setattr(nn.Linear, "forward", fails)
    with pytest.raises(RuntimeError, match="inside"):
        EncodedPGD(Linf(EPS), early_stop=failing_call == 2)(model, *batch())
    assert calls == [True] if failing_call == 1 else calls == [False, True]
    assert record_of(model) == before
    assert model.encoder is encoder


def test_a_buffer_that_is_replaced_comes_back_too():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            if self.training:
                self.calls = self.calls + 1
            return x

    model = small_snn().double()
    model.layers.insert(0, Counting())
    buffer = model.layers[0].calls
    EncodedPGD(Linf(EPS))(model, *batch())
    assert model.layers[0].calls is buffer
    assert buffer.item() == 0


def test_gradients_are_taken_in_training_mode_and_answers_judged_in_evaluation_mode():
    model, seen = small_snn().double().eval(), []
    for layer in (model, model.layers[1]):
        layer.register_forward_hook(
            lambda m, *_: seen.append(
                (m.training, torch.is_grad_enabled(), any(p.requires_grad for p in m.parameters()))
            )
        )
    EncodedPGD(Linf(EPS), steps=2)(model, *batch())
    assert seen == [(True, True, False)] * 4
    seen.clear()
    EncodedPGD(Linf(1e-6), steps=2, early_stop=True)(model, *batch())
    assert seen == [*[(False, False, False)] * 2, *[(True, True, False)] * 2] * 2
    assert not model.training


# Chance


def noisy_snn():
    """Chance in the code and, by dropout, in training mode."""
    model = small_snn(encoder="poisson").double()
    model.layers.append(nn.Dropout(0.5))
    return model


def test_repeats_under_the_same_draws_and_leaves_the_global_generator_alone():
    model, data, attack = noisy_snn(), batch(), EncodedPGD(Linf(EPS), steps=3)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = attack.run(model, *data)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = attack.run(model, *data)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert not torch.equal(attack.run(model, *data[:2], data[2].fork(1)).x_adv, first.x_adv)


def test_without_draws_it_follows_the_global_generator():
    model, (x, y, _), attack = noisy_snn(), batch(), EncodedPGD(Linf(EPS), steps=3)
    torch.manual_seed(5)
    first, second = attack(model, x, y), attack(model, x, y)
    torch.manual_seed(5)
    assert torch.equal(attack(model, x, y), first)
    assert not torch.equal(first, second)


def test_dropout_differs_from_step_to_step():
    model, masks = noisy_snn(), []
    model.layers[-1].register_forward_hook(lambda m, args, out: masks.append(out == 0))
    EncodedPGD(Linf(1e-9), steps=3)(model, *batch())
    assert len(masks) == 3
    assert not torch.equal(masks[0], masks[1])


def test_a_stochastic_encoder_is_asked_once_with_the_draws_of_the_samples():
    model, (x, y, draws), attack = small_snn(encoder="poisson").double(), batch(), EncodedPGD(Linf(EPS))
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    attack(model, x, y, draws)
    assert calls == [1]
    part = torch.tensor([6, 2])
    with attack.presented(model, x, draws) as whole:
        pass
    with attack.presented(model, x[part], draws[part]) as some:
        assert torch.equal(some, whole[part])
    assert set(whole.unique().tolist()) == {0.0, 1.0}


def test_the_code_is_made_in_evaluation_mode():
    model = small_snn().double().train()
    model.encoder = nn.Sequential(nn.Dropout(0.5), model.encoder)
    x = batch()[0]
    with EncodedPGD(Linf(EPS)).presented(model, x) as code:
        assert torch.equal(code[:, 0], x)
        assert torch.equal(code[:, 1], x)
    assert model.encoder.training


# Early stopping


def linear_code_model(T=2):
    """Errs on label 0 where the mean of the code is below 0.4."""
    model = Weighing([[1.0 / T]] * T)
    model.register_forward_hook(lambda m, args, z: z - torch.tensor([0.4, 0.0], dtype=z.dtype))
    return model


def test_early_stopping_keeps_the_first_error_and_lets_the_others_go_on():
    model = linear_code_model()
    x, y = torch.tensor([[0.45], [0.9], [0.3]], dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    options = {"steps": 5, "step_size": 0.03, "random_start": False}
    attempt = EncodedPGD(Linf(0.3), early_stop=True, **options).run(model, x, y)
    assert attempt.x_adv[:, :, 0].flatten().tolist() == pytest.approx([0.39, 0.39, 0.75, 0.75, 0.3, 0.3])
    assert attempt.gradients.tolist() == attempt.queries.tolist() == [5] * 3
    only = EncodedPGD(Linf(0.3), early_stop=True, **options).run(model, x[[0, 2]], y[[0, 2]])
    assert only.gradients.tolist() == [2] * 2  # all broken at the third look
    assert only.queries.tolist() == [3] * 2
    to_the_end = EncodedPGD(Linf(0.3), **options)(model, x, y)
    assert to_the_end[:, 0, 0].tolist() == pytest.approx([0.3, 0.75, 0.15])


def test_early_stopping_never_loses_an_error_and_changes_nothing_for_the_others():
    model, (x, y, draws) = small_snn().double().eval(), batch(24)
    last, first = (EncodedPGD(Linf(EPS), early_stop=stop).run(model, x, y, draws) for stop in (False, True))
    with EncodedPGD(Linf(EPS)).presented(model, x), torch.no_grad():
        broken_last, broken_first = errs(model(last.x_adv), y), errs(model(first.x_adv), y)
    assert 0 < broken_last.sum() < 24
    assert (broken_first >= broken_last).all()
    assert torch.equal(first.x_adv[~broken_first], last.x_adv[~broken_first])
    assert not torch.equal(first.x_adv, last.x_adv)


def test_early_stopping_does_not_trust_one_lucky_draw():
    class Lucky(Weighing):
        stochastic = True

        def forward(self, x):
            return super().forward(x) * (2 * uniform_per_step(x[:, 0], 1)[0] - 1).sign()

    x, y, draws = torch.full((4, 1), 0.5, dtype=torch.float64), torch.zeros(4, dtype=torch.int64), batch(4)[2]
    attempt = EncodedPGD(Linf(EPS), early_stop=True).run(Lucky([[1.0], [1.0]]), x, y, draws)
    assert attempt.queries.tolist() == [0] * 4
    assert attempt.gradients.tolist() == [7] * 4


# Presenting a code


@codes
def test_a_model_takes_codes_only_while_they_are_presented(options):
    model, (x, _, draws) = small_snn(**options).double().eval(), batch(options=options)
    attack, encoder = EncodedPGD(Linf(EPS)), model.encoder
    with attack.presented(model, x, draws) as code:
        inside = model(code)
        assert isinstance(model.encoder, Frames)
        with estimating(model, RGA()):
            assert torch.equal(model(code), inside)
        with pytest.raises(ValueError, match=r"^small takes inputs \[N, 2, 1, 8, 8\], got \[8, 1, 8, 8\]"):
            model(code[:, 0])
    assert model.encoder is encoder
    if options.get("encoder") != "poisson":
        torch.testing.assert_close(model(x), inside, rtol=0, atol=1e-12)
    if options.get("encoder") != "frames":
        with pytest.raises(ValueError, match=r"^small takes inputs \[N, 1, 8, 8\]"):
            model(code)


@pytest.mark.parametrize("order", ["outside", "inside"])
def test_presenting_and_estimating_nest(order):
    model, x = small_snn(encoder="phase").double().eval(), batch()[0]
    with estimating(model, CBA()):
        expected = model(x)
    outer, inner = EncodedPGD(Linf(EPS)).presented, lambda m, x: estimating(m, CBA())
    if order == "inside":
        outer, inner = inner, outer
    with outer(model, x) as a, inner(model, x) as b:
        code = b if a is None else a
        torch.testing.assert_close(model(code), x_at_rate(model, code), rtol=0, atol=1e-12)
    with estimating(model, CBA()):
        assert torch.equal(model(x), expected)
    assert not model.time_collapsed
    assert all(layer.gradient_rule is None for layer in spiking_layers(model).values())


def x_at_rate(model, code):
    """The ReLU network's logits at the mean of the code."""
    features = model.layers[1](model.layers[0](code.mean(1))).relu()
    return model.head(model.layers[4](model.layers[3](features)))


def test_the_encoder_comes_back_after_an_exception():
    model = small_snn(encoder="phase").double()
    encoder = model.encoder
    with pytest.raises(KeyboardInterrupt), EncodedPGD(Linf(EPS)).presented(model, batch()[0]):
        raise KeyboardInterrupt
    assert model.encoder is encoder
    assert isinstance(encoder, Phase)


def test_the_code_presented_is_a_copy():
    x = torch.full((1, 3), 0.5)
    with EncodedPGD(Linf(EPS)).presented(Weighing([[1.0] * 3] * 2), x) as code:
        code.zero_()
    assert (x == 0.5).all()


# Names and refusals


def test_names_kinds_and_caveats():
    ball = Linf("8/255")
    assert EncodedPGD(ball) == EncodedPGD(ball, steps=7, step_size=0.01, random_start=True)
    assert EncodedPGD(ball).name == "encoded PGD-7"
    assert EncodedPGD(ball, step_size=0.02, random_start=False).name == "encoded PGD-7, from the code, step 0.02"
    assert EncodedPGD(ball, steps=10, step_size=None).name == "encoded PGD-10, step 0.00784"
    assert EncodedPGD(ball, label="Luu").name == "Luu"
    assert encoded_fgsm(ball).name == "encoded FGSM"
    assert (EncodedPGD(ball).kind, encoded_fgsm(ball).kind) == ("white-box", "one-step")
    assert encoded_fgsm(ball, RGA()).estimator == RGA()
    assert encoded_fgsm(ball).step_size == ball.eps
    assert "Luu 2025" in EncodedPGD.caveat
    assert "\n" not in EncodedPGD.caveat
    assert settings_text(EncodedPGD(ball)) == settings_text(EncodedPGD(Linf(8 / 255)))
    assert settings_text(EncodedPGD(ball)) != settings_text(EncodedPGD(ball, steps=8))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ball": L2(0.5)}, r"^EncodedPGD needs an Linf ball, .* got L2\(eps=0.5\); use PGD"),
        ({"steps": 0}, r"^steps must be ≥ 1, got 0"),
        ({"step_size": 0.0}, r"^step_size must be positive and finite, in units of the code, got 0.0"),
        ({"step_size": float("nan")}, r"^step_size must be positive"),
    ],
)
def test_bad_settings_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        EncodedPGD(**{"ball": Linf(EPS)} | options)


class Coder(nn.Module):
    def __init__(self, code):
        super().__init__()
        self.code = code

    def forward(self, x):
        return self.code(x)


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        (None, r"^an attack on the code needs a model with a module `encoder` .* got Weighing; attack its pixels"),
        (torch.relu, r"^an attack on the code needs a model with a module `encoder`"),
        (Coder(lambda x: x.t()), r"Coder made \[2, 3\] from \[3, 2\]"),
        (Coder(lambda x: x), r"Coder made \[3, 2\] from \[3, 2\]"),
        (Coder(lambda x: x.expand(5, 4, 3, 2)), r"Coder made \[5, 4, 3, 2\] from \[3, 2\]"),
        (Coder(lambda x: 2 * x.expand(5, 3, 2)), r"Coder made \[5, 3, 2\] from \[3, 2\], in \[1, 1\.5\]"),
        (Coder(lambda x: x.expand(5, 3, 2) * torch.nan), r"in \[nan, nan\]; attack pixels instead"),
    ],
)
def test_models_without_a_fit_encoder_are_refused(encoder, sentence):
    model = Weighing([[1.0, 1.0]])
    del model.encoder
    model.encoder = encoder
    x = torch.tensor([[0.5, 0.75]] * 3)
    with pytest.raises(ValueError, match=sentence):
        EncodedPGD(Linf(EPS))(model, x, torch.zeros(3, dtype=torch.int64))
    assert model.encoder is encoder


@pytest.mark.parametrize("bad", [-0.01, 255.0, float("nan")])
def test_images_outside_the_unit_range_are_refused(bad):
    x, y, draws = batch()
    x[2, 0, 1, 1] = bad
    with pytest.raises(ValueError, match=r"^images must lie in \[0, 1\]"):
        EncodedPGD(Linf(EPS))(small_snn().double(), x, y, draws)


def test_gradients_that_are_zero_or_nan_are_counted_and_move_nothing():
    class Cut(Weighing):
        def forward(self, x):
            z = super().forward(x)
            slope = torch.tensor([0.0, float("nan"), 1.0], dtype=z.dtype)[:, None].expand_as(z)
            return with_slope(z.detach(), z, slope)

    x, y = torch.full((3, 1), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    attempt = EncodedPGD(Linf(EPS), steps=4, random_start=False).run(Cut([[1.0], [1.0]]), x, y)
    assert attempt.zero.tolist() == [4, 0, 0]
    assert attempt.nan.tolist() == [0, 4, 0]
    assert attempt.x_adv[:, :, 0].flatten().tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.46, 0.46])
