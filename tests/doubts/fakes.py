"""Small networks that only look robust, each in one way, and images that they classify "correctly"."""

from dataclasses import dataclass

import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.data import Split
from robustspike.surrogates import Triangle


def split(model, n=24):
    """Random images under the labels that the model itself gives them (by one call of them all)."""
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        return Split(images, model.eval()(images).argmax(1))


class Around(nn.Module):
    """A network with something done to its images before and its logits after."""

    def __init__(self, before=None, after=None, **options):
        super().__init__()
        self.network = small_snn(**options)
        self.before, self.after = before or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(self.network(self.before(x)))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


class Leftover(nn.Module):
    """Half of what came last time is still there."""

    kept = None

    def forward(self, x):
        y = x if self.kept is None or self.kept.shape != x.shape else x + 0.5 * self.kept
        self.kept = x.detach()
        return y


class Stubborn(nn.BatchNorm2d):
    """BatchNorm that does not know evaluation mode."""

    def train(self, mode=True):
        return super().train(True)


class BatchStatistics(nn.BatchNorm2d):
    """BatchNorm by the batch's own statistics, in evaluation mode too; nothing is kept."""

    def forward(self, x):
        return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True)


@dataclass(frozen=True)
class Broken:
    """A surrogate that is not a number wherever the triangle ends."""

    def slope(self, d):
        return Triangle().slope(d) / (d.abs() < 1)


@dataclass(frozen=True)
class Backwards:
    """A surrogate that points the wrong way."""

    def slope(self, d):
        return -Triangle().slope(d)


def replaced(kind):
    """The network with another BatchNorm in place of its own, with the same parameters and statistics."""
    network = small_snn()
    other = kind(4)
    other.load_state_dict(network.layers[1].state_dict())
    network.layers[1] = other
    return network


def guarded(scale=200.0):
    """Currents enlarged, so that few potentials come near the threshold."""
    network = small_snn()
    with torch.no_grad():
        network.layers[1].weight *= scale
        network.layers[1].bias *= scale
    return network


FAKES = {
    "honest": small_snn,
    "saturated surrogate": lambda: small_snn(surrogate=Triangle(0.003)),
    "NaN surrogate": lambda: small_snn(surrogate=Broken()),
    "backward surrogate": lambda: small_snn(surrogate=Backwards()),
    "detached encoder": lambda: Around(before=Function(lambda x: x.detach())),
    "quantised input": lambda: Around(before=Function(lambda x: (x * 16).round() / 16)),
    "state between calls": lambda: Around(before=Leftover()),
    "BatchNorm in training mode": lambda: replaced(Stubborn),
    "batch statistics": lambda: replaced(BatchStatistics),
    "guarded threshold": guarded,
    "undeclared noise": lambda: Around(after=Function(lambda z: z + 0.3 * torch.randn_like(z))),
    "overconfident": lambda: Around(after=Function(lambda z: 1000 * z)),
}
