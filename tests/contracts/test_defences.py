"""What every training objective promises, for each entry of DEFENCES."""

import inspect
import pickle

import pytest
import torch
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.checkpoints import settings_text
from robustspike.defences import DEFENCES, CosineRamp, GradientSparsity, Mixed, Objective
from robustspike.draws import Draws

pytestmark = pytest.mark.usefixtures("one_thread")
ATTACK = PGD(Linf(0.1), steps=2)


def make(name, **options):
    builder = DEFENCES[name]
    if "attack" in inspect.signature(builder).parameters:
        options = {"attack": ATTACK} | options
    return builder(**options)


def batch(n=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 4


names = pytest.mark.parametrize("name", DEFENCES)


@names
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}, {"readout": "spikes"}], ids=str)
def test_a_finite_scalar_whose_gradient_reaches_every_parameter(name, mode, options):
    model, (x, y) = small_snn(**options), batch()
    getattr(model, mode)()
    before = x.clone()
    loss = make(name)(model, x, y)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().max() > 0 for p in (model.layers[0].weight, model.head.weight))
    assert torch.equal(x, before)
    assert x.grad is None
    assert not x.requires_grad


@names
@pytest.mark.parametrize("how", ["network in bfloat16", "autocast"])
def test_the_loss_is_float32_where_the_network_computes_in_bfloat16(name, how):
    model, (x, y) = small_snn().train(), batch()
    if how == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = make(name)(model, x, y)
    else:
        model = model.to(torch.bfloat16)
        loss = make(name)(model, x.to(torch.bfloat16), y)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@names
def test_batchnorm_buffers_change_in_training_mode_only(name):
    model, (x, y) = small_snn().eval(), batch()
    before = record_of(model)
    make(name)(model, x, y)
    assert record_of(model) == before
    model.train()
    passes = int(model.layers[1].num_batches_tracked)
    make(name)(model, x, y)
    after = record_of(model)
    assert after["training"] == [True] * len(after["training"])
    assert after["state"] != before["state"]
    # The attack's forward passes do not count: one pass for the loss, one more for the other point or period.
    twice = ("sr", "sr-star", "gr", "trades", "mart", "alp", "hire", "mppd")
    assert int(model.layers[1].num_batches_tracked) - passes == 1 + (name in twice)


@names
def test_works_in_a_plain_loop_of_torch(name):
    torch.manual_seed(0)
    model, (x, y) = small_snn().train(), batch()
    optimizer, objective = torch.optim.SGD(model.parameters(), 0.1), make(name)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = objective(model, x, y)
        loss.backward()
        optimizer.step()
        objective.after_step(model)
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.9 * losses[0]


@names
def test_after_a_step_only_rat_touches_the_weights(name):
    model = small_snn().train()
    before = record_of(model)
    assert make(name).after_step(model) is None
    after = record_of(model)
    changed = [key for key in before["state"] if before["state"][key] != after["state"][key]]
    assert changed == (["layers.0.weight", "head.weight"] if name == "rat" else [])
    assert {key: value for key, value in after.items() if key != "state"} == {
        key: value for key, value in before.items() if key != "state"
    }


@names
@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=str)
def test_the_share_of_the_training_and_the_samples_streams_are_taken_and_decide_all(name, options):
    """With the same streams the loss is the same bit for bit, and the global generator is left where it was."""
    model, (x, y) = small_snn(**options).eval(), batch()
    state = torch.get_rng_state()
    draws = Draws.of(0, torch.arange(len(x)))
    losses = [make(name)(model, x, y, progress=0.5, draws=draws) for _ in range(2)]
    assert torch.equal(*losses)
    assert torch.equal(torch.get_rng_state(), state)
    assert make(name)(model, x, y, progress=0.0, draws=draws).isfinite()
    assert make(name)(model, x, y, progress=1.0).isfinite()


@names
def test_two_equal_builds_are_equal_and_say_the_same_of_themselves(name):
    one, other = make(name), make(name, **({"attack": PGD(Linf("0.1"), steps=2)} if takes(name, "attack") else {}))
    assert one == other
    assert hash(one) == hash(other)
    assert settings_text(one) == settings_text(other)
    assert one + other == Objective(f"{one.name} + {one.name}", one.parts, one.weight_decay, one.retract)


@names
def test_a_pickled_objective_comes_back_equal(name):
    objective = make(name)
    back = pickle.loads(pickle.dumps(objective))
    assert back == objective
    assert settings_text(back) == settings_text(objective)


@names
def test_its_text_holds_all_settings_and_no_address(name):
    """A training run that is resumed compares this text: it must tell any two settings apart, and never two processes."""
    text = settings_text(make(name))
    assert " at 0x" not in text
    others = [make(name, **{key: value}) for key, value in CHANGED.items() if takes(name, key)]
    texts = {text, *map(settings_text, others), settings_text(make(name) + DEFENCES["clp"](0.123))}
    assert len(texts) == 2 + len(others)
    assert name == "vanilla" or others


def takes(name, option):
    return option in inspect.signature(DEFENCES[name]).parameters


CHANGED = {
    "attack": Mixed((ATTACK, PGD(Linf(0.1), steps=3)), per="sample"),
    "weight": CosineRamp(0.77),
    "beta": 0.01, "rows": 0.5, "h": 0.02, "classes": "all", "form": "exact", "norm": "l2", "noise": 0.05, "eps": 0.3,
    "periods": 1, "penalty": "square", "mix": 0.25, "width": 0.5, "margin": 0.25,
}  # fmt: skip


def test_every_option_of_a_builder_is_changed_here():
    options = {option for builder in DEFENCES.values() for option in inspect.signature(builder).parameters}
    assert options == set(CHANGED)


NEEDS = {
    "hire": "module `encoder`",
    "mppd": "no spiking layer",
    "mpd-sgr": "no spiking layer",
    "tgo": "no spiking layer",
}


@names
def test_any_network_of_torch_can_be_defended_or_hears_what_is_missing(name):
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4)), batch()
    if name in NEEDS:
        with pytest.raises(ValueError, match=NEEDS[name]):
            make(name)(model, x, y)
        return
    make(name)(model, x, y).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


WEIGHTS = {
    "sr": 0.008, "sr-star": 0.002, "rat-penalty": 0.001, "gr": 0.1, "trades": 6.0, "mart": 6.0, "alp": 0.5, "clp": 0.5,
    "mppd": 1.0, "mpd-sgr": 0.1, "tgo": CosineRamp(0.4),
}  # fmt: skip
NAMES = {
    "vanilla": "vanilla", "at": "AT", "rat": "RAT", "rat-penalty": "RAT penalty", "sr": "SR", "sr-star": "SR*", "gr": "GR",
    "trades": "TRADES", "mart": "MART", "alp": "ALP", "clp": "CLP", "hire": "HIRE", "mppd": "MPPD-TV-l1",
    "mpd-sgr": "MPD-SGR", "tgo": "TGO",
}  # fmt: skip


@names
def test_a_name_and_the_published_settings(name):
    objective = make(name)
    assert isinstance(objective, Objective)
    assert objective.name == NAMES[name]
    assert objective.weight_decay == (0 if name.startswith("rat") else 5e-4)
    assert objective.parts[-1].weight == WEIGHTS.get(name, 1.0)
    wants_attack = "attack" in inspect.signature(DEFENCES[name]).parameters
    assert any(part.attack is ATTACK for part in objective.parts) == wants_attack


@pytest.mark.parametrize("name", ["sr", "sr-star"])
def test_the_published_form_of_the_penalty(name):
    assert make(name).parts[-1].term == GradientSparsity(h=0.01, classes="two", penalty="abs", form="difference")


@pytest.mark.parametrize("name", ["sr", "sr-star"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -0.1}, "^weight must be ≥ 0 and finite, got -0.1"),
        ({"weight": float("nan")}, "^weight must be ≥ 0 and finite, got nan"),
        ({"h": 0}, "^h must be positive, in pixel units, got 0"),
        ({"classes": "three"}, '^classes must be "two" or "all", got \'three\''),
        ({"penalty": "cube"}, '^penalty must be "abs" or "square", got \'cube\''),
    ],
    ids=str,
)
def test_bad_settings_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


@names
def test_is_documented_by_a_sentence_and_an_example(name):
    text = inspect.getdoc(DEFENCES[name])
    assert text.splitlines()[0].endswith(".")
    assert ">>>" in text
