"""A network is put back bit for bit, whatever was done to it."""

import random

import numpy as np
import pytest
import torch
from tests.doctor.records import everything_of
from torch import nn

from robustspike.doctor.keeping import untouched


class Holder(nn.Module):
    """Keeps tensors in every way that modules do."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.tensor, self.number = torch.tensor([1.0, float("nan")]), 3
        self.listed, self.named = [torch.ones(2), [torch.zeros(1)]], {"v": torch.ones(2), "deep": {"w": torch.ones(1)}}
        self.pair, self.empty = (torch.ones(2), "text"), ()
        self.named["self"] = self.named
        self.register_buffer("mem", torch.zeros(0), persistent=False)
        self.layer.weight.grad = torch.ones(2, 2)


CHANGES = {
    "a weight": lambda m: m.layer.weight.data.add_(1),
    "another weight": lambda m: setattr(m.layer, "weight", nn.Parameter(torch.zeros(3, 3))),
    "a frozen weight": lambda m: m.layer.weight.requires_grad_(False),
    "a gradient": lambda m: setattr(m.layer.weight, "grad", None),
    "the shape of a weight": lambda m: setattr(m.layer.weight, "data", torch.zeros(5)),
    "a running mean": lambda m: m.norm(torch.rand(4, 2)),
    "a buffer": lambda m: setattr(m, "mem", torch.ones(4)),
    "a buffer's content": lambda m: m.norm.running_var.mul_(2),
    "a tensor's content": lambda m: m.tensor.zero_(),
    "an attribute": lambda m: setattr(m, "number", 4),
    "a new attribute": lambda m: setattr(m, "new", 4),
    "an attribute that is gone": lambda m: delattr(m, "number"),
    "a list's tensor": lambda m: m.listed[0].zero_(),
    "a list in a list": lambda m: m.listed[1].append(1),
    "a dictionary's tensor": lambda m: m.named.update(v=torch.zeros(2)),
    "a dictionary in a dictionary": lambda m: m.named["deep"].clear(),
    "a tuple's tensor": lambda m: m.pair[0].zero_(),
    "a mode": lambda m: m.norm.eval(),
    "a hook": lambda m: m.layer.register_forward_hook(lambda *given: None),
    "a child": lambda m: setattr(m, "layer", nn.Identity()),
    "a class": lambda m: setattr(m.norm, "__class__", nn.BatchNorm2d),
    "PyTorch's generator": lambda m: torch.manual_seed(4),
    "NumPy's generator": lambda m: np.random.seed(4),
    "Python's generator": lambda m: random.seed(4),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("raises", [False, True])
def test_every_change_is_undone(change, raises):
    model = Holder()
    before = everything_of(model)
    try:
        with untouched(model):
            CHANGES[change](model)
            assert everything_of(model) != before
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert everything_of(model) == before
    assert model.empty == ()


def test_state_with_a_graph_behind_it_is_put_back():
    model = Holder()
    model.mem = model.layer(torch.rand(3, 2))
    graph, before = model.mem.grad_fn, everything_of(model)
    with untouched(model):
        model.mem.data.zero_()
        model.mem = torch.zeros(1)
    assert everything_of(model) == before
    assert model.mem.grad_fn is graph


def test_weights_keep_their_memory():
    """Optimizers, views and tied weights hold on to it."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    view, place = model[0].weight.data[0], model[0].weight.data_ptr()
    with untouched(model), torch.no_grad():
        model[0].weight.zero_()
    assert model[1].weight is model[0].weight
    assert model[0].weight.data_ptr() == place
    assert bool(view.any())
