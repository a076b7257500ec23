"""The networks of SPEC §6 once more, as plainly as possible: the oracle for the models, estimators and kernels.

The image is repeated T times, an explicit loop walks the steps, every neuron's potential lives in a dict, layers are
functional calls on the tensors of a state_dict, and the backward rules are small autograd Functions written here.
Nothing is imported from robustspike.
"""

import math

import torch
import torch.nn.functional as F


def triangle(d):
    return torch.where(d.abs() < 1, 1 - d.abs(), torch.zeros_like(d))


def sigmoid(d, g=4.0):
    return g / (2 + torch.exp(g * d) + torch.exp(-g * d))


def arctan(d, a=2.0):
    return a / 2 / (1 + (math.pi / 2 * a * d).square())


class Step(torch.autograd.Function):
    """Heaviside of d, whose derivative is given as a tensor."""

    @staticmethod
    def forward(ctx, d, derivative):
        ctx.save_for_backward(derivative)
        return torch.heaviside(d, torch.ones_like(d))

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


class Through(torch.autograd.Function):
    """Given spikes, whose derivative by the current is given too."""

    @staticmethod
    def forward(ctx, current, spikes, derivative):
        ctx.save_for_backward(derivative)
        return spikes.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


class Neurons:
    """All neurons of a network during one pass over time; ``layer`` is any name."""

    def __init__(self, leak=1.0, threshold=1.0, hard=True, detach=False, slope=triangle):
        self.leak, self.threshold, self.hard, self.detach, self.slope = leak, threshold, hard, detach, slope
        self.v, self.currents, self.spikes = {}, {}, {}

    def __call__(self, layer, current):
        u = self.leak * self.v.get(layer, 0.0) + current
        d = u - self.threshold
        s = Step.apply(d, self.slope(d.detach()))
        r = s.detach() if self.detach else s
        self.v[layer] = (1 - r) * u if self.hard else u - self.threshold * r
        self.currents.setdefault(layer, []).append(current.detach())
        self.spikes.setdefault(layer, []).append(s.detach())
        return s


class Replay:
    """A second pass: the spikes of the first, with one derivative per neuron that its whole window decided."""

    def __init__(self, first, derivative):
        self.first, self.derivative, self.t = first, derivative, {}

    def __call__(self, layer, current):
        t = self.t[layer] = self.t.get(layer, -1) + 1
        return Through.apply(current, self.first.spikes[layer][t], self.derivative(self.first, layer))


def fired_at_least_once(first, layer):
    return (sum(first.spikes[layer]) >= 1).double().to(first.spikes[layer][0].dtype)


def rate_gradient(first, layer, gamma=0.2):
    mean = sum(first.currents[layer]) / len(first.currents[layer]) / first.threshold
    knee = 1 - first.leak
    out = torch.zeros_like(mean)
    out[(mean >= 0) & (mean <= knee)] += gamma
    out[(knee <= mean) & (mean <= 2)] += (1 - gamma + gamma * first.leak) / (first.leak + 1)
    return out


def normalised(weights, name, x):
    return F.batch_norm(x, *(weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))


def vgg_step(weights, x, neurons, layout, hidden):
    """layout: widths, with "P" where 2 × 2 averages are taken; hidden: widths of the fully connected layers."""
    i = 0
    for entry in layout:
        if entry == "P":
            x, i = F.avg_pool2d(x, 2), i + 1
        else:
            x = F.conv2d(x, weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"], padding=1)
            x = neurons(f"layers.{i + 2}", normalised(weights, f"layers.{i + 1}", x))
            assert x.shape[1] == entry
            i += 3
    x, i = x.flatten(1), i + 1
    for width in hidden:
        x = neurons(f"layers.{i + 1}", F.linear(x, weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]))
        assert x.shape[1] == width
        i += 2
    return x


def wrn_step(weights, x, neurons):
    x = F.conv2d(x, weights["layers.0.weight"], padding=1)
    for i, stride in enumerate((1, 1, 2, 1, 2, 1), 1):
        block = f"layers.{i}"
        first = neurons(f"{block}.before", normalised(weights, f"{block}.before.0", x))
        main = F.conv2d(first, weights[f"{block}.main.0.weight"], stride=stride, padding=1)
        main = neurons(f"{block}.main", normalised(weights, f"{block}.main.1", main))
        main = F.conv2d(main, weights[f"{block}.main.3.weight"], padding=1)
        if f"{block}.shortcut.weight" in weights:
            x = F.conv2d(first, weights[f"{block}.shortcut.weight"], stride=stride)
        mixing = weights[f"{block}.mixing.weight"]
        x = mixing[0] * main + mixing[1] * x
    x = neurons("layers.8", normalised(weights, "layers.7", x))
    return x.mean((2, 3))


NETWORKS = {
    "digits-cnn": lambda w, x, n: vgg_step(w, x, n, (32, 64, "P", 64, "P"), ()),
    "vgg5": lambda w, x, n: vgg_step(w, x, n, (64, "P", 128, 128, "P"), (4096, 4096)),
    "vgg11": lambda w, x, n: vgg_step(
        w, x, n, (64, "P", 128, 256, "P", 512, 512, 512, "P", 512, 512), (4096, 4096)
    ),
    "wrn16": wrn_step,
}  # fmt: skip


def over_time(name, weights, x, mean, std, time_steps, neurons):
    mean, std = (torch.tensor(v, dtype=x.dtype).reshape(1, -1, 1, 1) for v in (mean, std))
    outputs = []
    for _ in range(time_steps):
        features = NETWORKS[name](weights, (x - mean) / std, neurons)
        outputs.append(F.linear(features, weights["head.weight"], weights["head.bias"]))
    return sum(outputs) / time_steps


def margin(logits, y):
    """Never saturates, whatever the size of the logits."""
    return logits[torch.arange(len(y)), y] - logits.mean(1)


def logits_and_gradient(name, weights, x, y, mean, std, time_steps, estimator, **constants):
    """Logits, input gradient of the summed margin z_y − mean_k z_k, and the neurons' record of the pass through time.

    estimator: "bptt", "bptt-sigmoid", "bptt-arctan", "bptr", "rga" or "cba"; weights without gradient.
    """
    slope = {"bptt-sigmoid": sigmoid, "bptt-arctan": arctan}.get(estimator, triangle)
    neurons = first = Neurons(slope=slope, **constants)
    if estimator == "cba":
        neurons, time_steps = lambda layer, current: current.clamp(min=0), 1
    elif estimator in ("bptr", "rga"):
        with torch.no_grad():
            over_time(name, weights, x, mean, std, time_steps, first)
        neurons = Replay(first, fired_at_least_once if estimator == "bptr" else rate_gradient)
    leaf = x.clone().requires_grad_()
    logits = over_time(name, weights, leaf, mean, std, time_steps, neurons)
    (gradient,) = torch.autograd.grad(margin(logits, y).sum(), leaf)
    return logits.detach(), gradient, first
