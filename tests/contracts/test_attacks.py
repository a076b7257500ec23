"""What every attack promises, for each entry of ATTACKS on each ball."""

import contextlib
import dataclasses
import functools
import inspect

import pytest
import torch
from tests.conftest import record_of, small_snn

from robustspike.attacks import APGD, ATTACKS, FAB, PGD, SAPGD, SUITES, Square, Suite, Transfer, WorstOf
from robustspike.attacks.losses import margin
from robustspike.balls import BALLS, Linf
from robustspike.draws import Draws
from robustspike.gradients import ASSG, BPTR, CBA, HART, RGA

VARIANTS = {
    **ATTACKS,
    "apgd": functools.partial(APGD, steps=5),
    "sapgd": functools.partial(SAPGD, steps=5),
    "fab": functools.partial(FAB, steps=6),
    "square": functools.partial(Square, queries=40),
    "apgd towards classes": functools.partial(APGD, steps=3, targets=2, early_stop=True, estimator=ASSG()),
    "sapgd with everything": functools.partial(
        SAPGD, steps=4, targets=2, restarts=2, samples=2, early_stop=True, estimator=HART()
    ),
    "sapgd under assg": functools.partial(SAPGD, steps=4, estimator=ASSG(), loss=margin),
    "pgd with everything": functools.partial(
        PGD, steps=3, restarts=2, samples=2, random_start="sign", early_stop=True, estimator=RGA()
    ),
    "fgsm through cba": functools.partial(ATTACKS["fgsm"], estimator=CBA()),
    "worst of two": lambda ball: WorstOf((ATTACKS["fgsm"](ball, estimator=BPTR()), ATTACKS["uniform-noise"](ball))),
    "transfer": lambda ball: Transfer(PGD(ball, steps=2), small_snn(threshold=0.5).to(torch.float64)),
}
EPS = {"Linf": 0.1, "L2": 0.4}
MODELS = {"direct": {}, "poisson": {"encoder": "poisson"}, "leaky": {"leak": 0.5, "reset": "soft"}}

pytestmark = pytest.mark.usefixtures("one_thread")
attacks = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
balls = pytest.mark.parametrize("ball", [cls(EPS[name]) for name, cls in BALLS.items()], ids=str)
models = pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)


def batch(n=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    x[0], x[1] = 0.0, 1.0  # the corners of the pixel box too
    return x, torch.arange(n) % 4, Draws.of(11, torch.arange(n))


@attacks
@balls
@models
def test_stays_in_ball_and_box_and_moves(make, ball, options):
    for dtype in (torch.float32, torch.float64):
        x, y, draws = batch(dtype=dtype)
        if make is VARIANTS["transfer"] and dtype == torch.float32:
            continue
        x_adv = make(ball)(small_snn(**options).to(dtype), x, y, draws)
        assert x_adv.shape == x.shape
        assert x_adv.dtype == dtype
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        assert (ball.distance(x_adv, x) <= ball.eps + 1e-6).all()
        assert ball.distance(x_adv, x).max() > ball.eps / 10


@attacks
@balls
def test_eps_zero_returns_x_exactly(make, ball):
    x, y, draws = batch()
    x_adv = make(ball.with_eps(0))(small_snn().double(), x, y, draws)
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()


@attacks
@balls
@models
def test_repeats_under_the_same_draws(make, ball, options):
    x, y, draws = batch()
    model = small_snn(**options).double()
    first = make(ball).run(model, x, y, draws)
    torch.manual_seed(99)
    second = make(ball).run(model, x, y, draws)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


@attacks
@balls
def test_without_draws_it_follows_the_global_generator(make, ball):
    x, y, _ = batch()
    model = small_snn(encoder="poisson").double()
    torch.manual_seed(5)
    first, second = make(ball)(model, x, y), make(ball)(model, x, y)
    torch.manual_seed(5)
    assert torch.equal(make(ball)(model, x, y), first)
    if make is not VARIANTS["fgsm through cba"]:  # the only one without chance
        assert not torch.equal(first, second)


@attacks
@balls
@models
def test_a_sample_is_attacked_alike_in_every_batch_and_order(make, ball, options):
    x, y, draws = batch()
    model, attack = small_snn(**options).double(), make(ball)
    whole = attack.run(model, x, y, draws)
    splits = [[torch.tensor([i]) for i in range(8)], torch.arange(8).split(2), [torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])]]
    for parts in splits:
        for part in parts:
            attempt = attack.run(model, x[part], y[part], draws[part])
            torch.testing.assert_close(attempt.x_adv, whole.x_adv[part], rtol=0, atol=1e-12)
            for name in ("gradients", "zero", "nan", "restart"):
                assert torch.equal(getattr(attempt, name), getattr(whole, name)[part]), name


@attacks
@balls
@models
def test_bound_to_a_model_it_is_the_same_attack(make, ball, options):
    x, y, _ = batch()
    model, attack = small_snn(**options).double(), make(ball)
    x_adv = attack(model, x, y, Draws.of(5, torch.arange(len(x))))
    assert torch.equal(attack.bind(model, seed=5)(x, y), x_adv)
    torch.manual_seed(9)
    assert torch.equal(attack.bind(model, seed=5)(x, y.to(torch.uint8)), x_adv)
    after = torch.random.get_rng_state()
    torch.manual_seed(9)
    assert torch.equal(torch.random.get_rng_state(), after)  # a seed leaves the global generator alone
    unseeded = attack.bind(model)(x, y)
    torch.manual_seed(9)
    assert torch.equal(attack(model, x, y), unseeded)


def unusual_model():
    """Mixed modes, some frozen parameters, gradients in place: what a careless attack would disturb."""
    model = small_snn().double().train()
    model.layers[1].eval()
    for k, p in enumerate(model.parameters()):
        p.requires_grad_(k % 2 == 0)
        p.grad = torch.full_like(p, 0.5) if k % 4 == 0 else None
    return model


@attacks
@balls
def test_leaves_model_and_data_as_they_were(make, ball):
    x, y, draws = batch()
    model, x_before, y_before, keys = unusual_model(), x.clone(), y.clone(), draws.keys.clone()
    before = record_of(model)
    for attack in (functools.partial(make(ball), model, draws=draws), make(ball).bind(model)):
        x_adv = attack(x, y)
        assert record_of(model) == before
        assert torch.equal(x, x_before)
        assert torch.equal(y, y_before)
        assert torch.equal(draws.keys, keys)
        assert not x.requires_grad
        assert not x_adv.requires_grad


@attacks
@balls
def test_leaves_the_model_as_it_was_after_an_exception(make, ball, monkeypatch):
    x, y, draws = batch()
    model = unusual_model()
    attack = make(ball)
    attacked = attack.source if isinstance(attack, Transfer) else model
    before, calls = record_of(attacked), []

    def fails(module, args):
        calls.append(module)
        raise RuntimeError("inside")

    if getattr(attack, "kind", "") == "noise":
        attack = type(attack)(ball, tries=2)  # a single try does not ask the model at all
    with monkeypatch.context() as m:
        m.setattr(type(attacked.head), "forward", lambda self, x: fails(self, x))
        with pytest.raises(RuntimeError, match="inside"):
            attack.run(model, x, y, draws)
    assert calls
    assert record_of(attacked) == before


@attacks
@balls
def test_the_model_is_attacked_in_evaluation_mode_and_without_parameter_gradients(make, ball):
    model, seen = small_snn().double().train(), []
    attack = make(ball)
    attacked = attack.source.train() if isinstance(attack, Transfer) else model
    attacked.register_forward_hook(
        lambda m, *_: seen.append((m.training, any(p.requires_grad for p in m.parameters())))
    )
    attack(model, *batch())
    assert set(seen) <= {(False, False)}
    assert seen or attack.name.endswith("noise")


@attacks
@balls
@pytest.mark.parametrize("bad", [-0.01, 1.01, 255.0, float("nan")])
def test_images_outside_the_unit_range_are_refused(make, ball, bad):
    x, y, draws = batch()
    x[2, 0, 1, 1] = bad
    model = small_snn().double()
    for attack in (functools.partial(make(ball), model, draws=draws), make(ball).bind(model)):
        with pytest.raises(ValueError, match=r"^images must lie in \[0, 1\], got values .*; put normalisation inside"):
            attack(x, y)


@attacks
@balls
def test_has_a_name_and_repeats_its_settings(make, ball):
    attack = make(ball)
    assert attack.name.strip()
    if not isinstance(attack, Transfer):
        assert attack == make(ball)


def shortened(attack):
    """The same attack with few steps or queries."""
    few = {"steps": 3, "queries": 20, "samples": 2}
    fewer = {name: min(n, getattr(attack, name)) for name, n in few.items() if hasattr(attack, name)}
    return dataclasses.replace(attack, **fewer)


@pytest.mark.parametrize("name", SUITES)
@balls
def test_every_suite_shares_one_ball_and_runs(name, ball, double_model):
    if name == "luu2025" and ball.norm == "L2":
        pytest.skip("an ε for each time step is defined on L∞ only")
    suite = SUITES[name](ball)
    assert isinstance(suite, Suite)
    assert suite.name == name
    assert {attack.ball for attack in suite.attacks} | {suite.ball} == {ball}
    x, y, draws = batch(2)
    for attack in map(shortened, suite.attacks):
        presented = getattr(attack, "presented", None)
        with contextlib.nullcontext(x) if presented is None else presented(double_model, x, draws) as centre:
            pass
        assert ball.distance(attack(double_model, x, y, draws), centre).max() <= ball.eps + 1e-9


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_takes_a_radius_as_text(name):
    assert SUITES[name]("8/255").ball == Linf(8 / 255)


@pytest.mark.parametrize("entry", [*ATTACKS.values(), *SUITES.values()], ids=[*ATTACKS, *SUITES])
def test_is_documented_by_a_sentence(entry):
    assert inspect.getdoc(entry).splitlines()[0].endswith(".")
