"""What every training objective promises, for each entry of DEFENCES."""

import inspect

import pytest
import torch
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.defences import DEFENCES, CosineRamp, GradientSparsity, Objective

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


NEEDS = {"hire": "module `encoder`", "mppd": "no spiking layer", "mpd-sgr": "no spiking layer", "tgo": "no spiking layer"}


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
        ({"weight": -0.1}, "^weight must be ≥ 0, got -0.1"),
        ({"weight": float("nan")}, "^weight must be ≥ 0, got nan"),
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
