"""Networks for a sheet of paper, and one written out as plain loops: oracles that share no code with the package."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from robustspike.defences import Batch, Point
from robustspike.encoders import Direct
from robustspike.models import SNN, Settings
from robustspike.neurons import LIF, OverTime


class TwoNeurons(nn.Module):
    """Two neurons driven by the two pixels themselves; each logit is T times the firing rate of its neuron.

    At θ = 1, no leak, T = 2: (1, 0.3) makes the first fire twice and the second never, logits (2, 0); (0.6, 0.5) makes
    both fire at the second step, as 0.6 + 0.6 ≥ 1 and 0.5 + 0.5 ≥ 1: logits (1, 1).
    """

    stochastic = False

    def __init__(self, time_steps=2, **options):
        super().__init__()
        self.encoder, self.neuron = Direct(time_steps), LIF(**options)

    def forward(self, x):
        spikes = self.neuron(self.encoder(x))
        return 2 * spikes.mean(0)


CLEAN, MOVED = [[1.0, 0.3]], [[0.6, 0.5]]


def pixels(rows):
    return torch.tensor(rows, dtype=torch.float64)


def at_two_points(term, model, x, x_adv, y, **options):
    """The value of a term that compares x_adv with x."""
    clean, point = (Point(model, where.detach(), records=term.reads_layers, **options) for where in (x, x_adv))
    return term(Batch(model, y, clean, point))


def at_one_point(term, model, x, y, **options):
    """The value of a term that looks at x alone."""
    point = Point(model, x.clone().requires_grad_(term.differentiates_input), records=term.reads_layers, **options)
    return term(Batch(model, y, point, point))


@dataclass(frozen=True)
class Constant:
    """A term of a fixed value that notes the batches it sees."""

    value: float
    batches: list
    differentiates_input = False
    reads_layers = False

    def __call__(self, batch):
        self.batches.append(batch)
        return torch.tensor(self.value, dtype=torch.float64)


def passes(model):
    """The batches that a model is called with, as they come."""
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    return seen


LEAK, THRESHOLD, TIME_STEPS = 0.5, 0.4, 4


def two_layers(dtype=torch.float64):
    """Convolution, BatchNorm, neurons, pooling, linear, neurons, linear: [N, 1, 4, 4] to [N, 3]."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        settings = Settings("two-layers", 3, TIME_STEPS, in_channels=1, image_size=4, leak=LEAK, threshold=THRESHOLD)
        layers = OverTime(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), settings.make_neuron(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(12, 5), settings.make_neuron(),
        )  # fmt: skip
        model = SNN(settings, layers, nn.Linear(5, 3))
        nn.init.uniform_(model.layers[1].running_mean, -0.1, 0.1)
        nn.init.uniform_(model.layers[1].running_var, 0.2, 0.5)
        nn.init.normal_(model.layers[5].weight, 0.1, 0.5)
        nn.init.normal_(model.head.weight)
    return model.to(dtype)


def images(n=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=generator).to(dtype), torch.arange(n) % 3


def push(model, x, y):
    """An attack that asks neither the model nor chance."""
    pattern = torch.linspace(-1, 1, x[0].numel()).sin().reshape(x.shape[1:]).to(x.dtype)
    return (x + 0.15 * (1 + y[:, None, None, None]) * pattern).clamp(0, 1)


class Step(torch.autograd.Function):
    """1 where d ≥ 0; its derivative is taken as max(0, 1 − |d|), which may be differentiated again."""

    @staticmethod
    def forward(ctx, d):
        ctx.save_for_backward(d)
        return (d >= 0).to(d.dtype)

    @staticmethod
    def backward(ctx, grad):
        (d,) = ctx.saved_tensors
        return grad * torch.relu(1 - d.abs())


def fire(currents):
    """Spikes and potentials, lists over time, of one layer of neurons."""
    v, spikes, potentials = 0, [], []
    for current in currents:
        u = LEAK * v + current
        s = Step.apply(u - THRESHOLD)
        v = u * (1 - s)
        spikes.append(s)
        potentials.append(u)
    return spikes, potentials


def forward(model, frames):
    """What :func:`two_layers` makes of frames, a list over time of [N, 1, 4, 4]: logits, and what each layer saw."""
    conv, norm, linear, head = model.layers[0], model.layers[1], model.layers[5], model.head
    maps = [F.conv2d(frame, conv.weight, conv.bias, padding=1) for frame in frames]
    if model.training:
        every = torch.stack(maps)
        mean = every.mean((0, 1, 3, 4))
        var = ((every - mean.reshape(1, 1, -1, 1, 1)) ** 2).mean((0, 1, 3, 4))
    else:
        mean, var = norm.running_mean, norm.running_var
    scale = (norm.weight / (var + norm.eps).sqrt()).reshape(1, -1, 1, 1)
    first = [(m - mean.reshape(1, -1, 1, 1)) * scale + norm.bias.reshape(1, -1, 1, 1) for m in maps]
    spikes, u_first = fire(first)
    second = [F.avg_pool2d(s, 2).flatten(1) @ linear.weight.T + linear.bias for s in spikes]
    spikes, u_second = fire(second)
    logits = sum(s @ head.weight.T + head.bias for s in spikes) / len(frames)
    return SimpleNamespace(logits=logits, currents=[first, second], potentials=[u_first, u_second])


def seen(model, x):
    """The same for images shown at every step."""
    return forward(model, [x] * TIME_STEPS)
