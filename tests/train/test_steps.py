"""Micro-batches: the gradient of the whole, with the same random numbers."""

import pytest
import torch
from tests.conftest import InDouble, small_snn
from tests.train.making import data, train, watched

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.defences import at, rat, sr_star, trades
from robustspike.draws import Draws
from robustspike.train.averaging import Average
from robustspike.train.steps import Stepper

pytestmark = pytest.mark.usefixtures("one_thread")

ATTACK = PGD(Linf(0.05), steps=2)


def without_batch_statistics(**options):
    """A network whose BatchNorm normalises with its running statistics in training too: no sample sees another."""
    model = small_snn(**options)
    layer = model.layers[1]
    layer.forward = lambda x: torch.nn.functional.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False
    )
    return InDouble(model)


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
@pytest.mark.parametrize("objective", [at(ATTACK), sr_star(ATTACK, 0.1), trades(ATTACK, 6.0)], ids=lambda o: o.name)
def test_micro_batches_make_the_same_weights(objective, encoder):
    options = {"epochs": 2, "augmentation": "cutout"}
    whole, log = train(without_batch_statistics(encoder=encoder), objective, **options)
    parts, log_parts = train(without_batch_statistics(encoder=encoder), objective, micro_batch=3, **options)
    assert [row.loss for row in log_parts] == pytest.approx([row.loss for row in log], rel=1e-10)
    for (name, t), u in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(t, u, rtol=0, atol=1e-10, msg=name)


def test_what_is_drawn_per_mini_batch_is_the_same_in_its_micro_batches():
    drawn = []

    def hook(batch, loss, call):
        drawn.append(torch.rand(1).item())
        return loss

    train(objective=watched(hook), epochs=1, micro_batch=4)
    assert drawn == [drawn[0]] * 2 + [drawn[2]] * 2 + [drawn[4]]
    assert len(set(drawn)) == 3
    train(objective=watched(hook), epochs=1)
    assert drawn[5:] == [drawn[0], drawn[2], drawn[4]]


def test_the_mixed_estimators_and_rows_of_rat_do_not_depend_on_micro_batches():
    objective = rat(ATTACK, 0.01)
    whole, _ = train(without_batch_statistics(), objective, epochs=2)
    parts, _ = train(without_batch_statistics(), objective, epochs=2, micro_batch=3)
    for (name, t), u in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(t, u, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("n", "micro_batch", "sizes"),
    [(8, None, [8]), (8, 8, [8]), (8, 9, [8]), (8, 3, [3, 3, 2]), (9, 4, [3, 3, 3]), (3, 1, [1, 1, 1])],
)
def test_the_sizes_of_micro_batches(n, micro_batch, sizes):
    """None is larger than asked for, and none much smaller than another: BatchNorm dislikes a single sample."""
    found = []

    def hook(batch, loss, call):
        found.append(len(batch.y))
        return loss

    model, split = small_snn(), data(n)
    objective, optimizer = watched(hook), torch.optim.SGD(model.parameters(), 0.1)
    stepper = Stepper(model, objective, optimizer, Average(0), micro_batch=micro_batch)
    load = lambda which: (split.images[which], split.labels[which], Draws.of(0, which))  # noqa: E731
    stepper(torch.arange(n), load, 0.0, Draws.of(0, torch.tensor([0])))
    assert found == sizes
