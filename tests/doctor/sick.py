"""Networks that each have one defect, in plain PyTorch; every one takes images [N, 1, 4, 4] and has three classes."""

import torch
from torch import nn


class Spike(torch.autograd.Function):
    """1 where u > 0, with a slope of 1/(1 + |u|)²."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (1 + u.abs()) ** 2


class NaNSpike(Spike):
    """The same, with NaN far below the threshold."""

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return torch.where(u < 0, torch.nan, grad)


class ZeroSpike(Spike):
    """The same, with no slope anywhere."""

    @staticmethod
    def backward(ctx, grad):
        return torch.zeros_like(grad)


class Net(nn.Module):
    """Four time steps of two layers; ``body`` between image and spikes is what the sick ones change."""

    steps = 4
    spike = Spike

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(16, 24), nn.Linear(24, 3)

    def currents(self, x):
        return self.first(x.flatten(1))

    def forward(self, x):
        v, total = 0.0, 0.0
        for _ in range(self.steps):
            v = 0.9 * v + self.currents(x)
            s = self.spike.apply(v - 0.3)
            v = v - 0.3 * s
            total = total + self.last(s)
        return total / self.steps


class Leaking(Net):
    """Potentials live on in an attribute."""

    def __init__(self):
        super().__init__()
        self.kept = {"v": 0.0}

    def forward(self, x):
        total = 0.0
        if getattr(self.kept["v"], "shape", [len(x)])[0] != len(x):
            self.kept["v"] = 0.0
        for _ in range(self.steps):
            v = self.kept["v"] + 0.2 * self.currents(x)
            s = self.spike.apply(v - 0.3)
            self.kept["v"] = (v - 0.3 * s).detach()
            total = total + self.last(s)
        return total / self.steps


class OnTheBatch(Net):
    def currents(self, x):
        return super().currents(x - x.mean(0))


class Random(Net):
    def currents(self, x):
        return super().currents(x + 0.3 * torch.randn_like(x))


class DeclaredRandom(Random):
    stochastic = True


class Unseedable(Net):
    """A generator of its own, which no seed reaches."""

    drawn = torch.Generator().manual_seed(3)

    def currents(self, x):
        return super().currents(x + 0.3 * torch.randn(x.shape, generator=self.drawn))


class NaNGradient(Net):
    spike = NaNSpike


class ZeroGradient(Net):
    spike = ZeroSpike


class Cut(Net):
    """An encoder without a gradient."""

    def currents(self, x):
        return super().currents((x > 0.5).float())


class Node(nn.Module):
    """A neuron as the frameworks have them, blind in eval mode."""

    def __init__(self):
        super().__init__()
        self.surrogate_function = Spike.apply

    def forward(self, u):
        return self.surrogate_function(u if self.training else u.detach())


class BlindInEval(Net):
    """Its neurons have a gradient in training mode only."""

    def __init__(self):
        super().__init__()
        self.node, self.norm = Node(), nn.Identity()

    def forward(self, x):
        u = self.norm(self.currents(x)) - 0.3
        return sum(self.last(self.node(u)) for _ in range(self.steps)) / self.steps


class BlindWithShortcut(BlindInEval):
    """An analog path keeps a gradient alive, another one."""

    def forward(self, x):
        return super().forward(x) + 0.2 * x.flatten(1)[:, :3]


class BlindWithNorm(BlindInEval):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(24)


class Normed(Net):
    """BatchNorm as it should be."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(24)

    def currents(self, x):
        return self.norm(super().currents(x))


class Drifting(Normed):
    """BatchNorm that no eval() reaches."""

    def train(self, mode=True):
        super().train(mode)
        self.norm.training = True
        return self


class Silent(Net):
    def forward(self, x):
        return 0.0 * super().forward(x)


class Blind(Net):
    """A bias, whatever the image."""

    def forward(self, x):
        return 0.0 * super().forward(x) + torch.arange(3.0)


class Infinite(Net):
    def forward(self, x):
        return super().forward(x) / 0.0


class Writing(Net):
    def currents(self, x):
        if not x.requires_grad:
            x += 0.01
        return super().currents(x)


class Mixed(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.zeros(24, dtype=torch.float64))

    def currents(self, x):
        return super().currents(x) + self.offset.float()


class CumulativeOverTime(nn.Module):
    """Takes [T, N, ...], and images [N, ...] without complaint: samples for time steps."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x_seq):
        net = self.net
        u = net.first(x_seq.flatten(-3)).cumsum(0)
        return net.last(Spike.apply(u - 1.0))


SICK = {
    "state leak": (Leaking, {"state leak"}),
    "batch dependence": (OnTheBatch, {"batch dependence"}),
    "randomness": (Random, {"randomness"}),
    "randomness that no seed reaches": (Unseedable, {"randomness", "state leak"}),
    "NaN gradients": (NaNGradient, {"NaN gradients"}),
    "zero gradients": (ZeroGradient, {"zero gradients"}),
    "a cut graph": (Cut, {"gradient in eval"}),
    "neurons blind in eval": (BlindInEval, {"gradient in eval"}),
    "the same, a path beside them": (BlindWithShortcut, {"gradient in eval"}),
    "the same, with BatchNorm": (BlindWithNorm, {"gradient in eval", "BatchNorm drift"}),
    "BatchNorm in training mode": (Drifting, {"BatchNorm drift", "batch dependence"}),
    "no answer": (Silent, {"answers", "zero gradients"}),
    "the same answer to all images": (Blind, {"answers", "zero gradients"}),
    "infinite logits": (Infinite, {"answers", "NaN gradients"}),
    "writes into images": (Writing, {"input left alone"}),
    "two types": (Mixed, {"types and devices"}),
    "samples for steps": (CumulativeOverTime, {"time axis"}),
}
"""Each with the checks that must fail, and no others."""

HEALTHY = {"plain": Net, "BatchNorm": Normed, "declared chance": DeclaredRandom}
