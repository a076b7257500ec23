"""The same VGG twice, ours and plain, with live random weights; and a batch of which half withstands PGD."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustspike as rs
from benchmarks.plain import PlainVGG

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Pair:
    """Two networks with equal weights, in evaluation mode."""

    ours: rs.SNN
    plain: PlainVGG


def make_pair(name: str, time_steps: int, image_size: int, device: torch.device, seed: int = 0) -> Pair:
    """Random networks whose BatchNorm statistics come from one forward pass of random images in training mode."""
    mean, std = (MEAN, STD) if name == "vgg11" else (MEAN[:1], STD[:1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ours = rs.models.MODELS[name](time_steps=time_steps, image_size=image_size, mean=mean, std=std)
    hidden = [layer for layer in ours.layers if isinstance(layer, nn.Linear)]
    norms = [layer for layer in ours.layers if isinstance(layer, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    with torch.no_grad():
        for layer in hidden:
            layer.weight.mul_(2)  # at PyTorch's initial weights the last layer hardly fires
        for norm in norms:
            norm.momentum = 1.0  # the statistics of this pass alone
        ours.train()(images(16, ours, seed))
    for norm in norms:
        norm.momentum = momentum
    plain = PlainVGG(name, time_steps, image_size, mean, std)
    plain.load_state_dict(ours.state_dict())
    return Pair(ours.to(device).eval(), plain.to(device).eval())


def images(n: int, model: rs.SNN, seed: int = 1) -> Tensor:
    """Uniform random images [n, C, H, W] as the network takes them."""
    generator, settings = torch.Generator().manual_seed(seed), model.settings
    shape = (n, settings.in_channels, settings.image_size, settings.image_size)
    return torch.rand(shape, generator=generator).to(next(model.parameters()).device)


def logits_and_gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the summed cross-entropy with respect to the pixels."""
    point = x.detach().requires_grad_()
    logits = model(point)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), point)
    return logits.detach(), gradient


def disagreement(pair: Pair, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The largest difference of logits and of input gradients, relative to the largest entry; both modes, in float64.

    In float64, since a float32 rounding difference can carry a potential over the threshold and flip a spike.
    """
    logits, gradients = 0.0, 0.0
    ours, plain = copy.deepcopy(pair.ours).double(), copy.deepcopy(pair.plain).double()
    for training in (False, True):
        z, g = logits_and_gradient(ours.train(training), x.double(), y)
        z_plain, g_plain = logits_and_gradient(plain.train(training), x.double(), y)
        logits = max(logits, float((z - z_plain).abs().max() / z_plain.abs().max()))
        gradients = max(gradients, float((g - g_plain).abs().max() / g_plain.abs().max()))
    return logits, gradients


def check(pair: Pair, x: Tensor, y: Tensor) -> None:
    """Stop where the two networks are not the same function."""
    worst = max(disagreement(pair, x, y))
    if not worst < 1e-6:
        raise RuntimeError(f"ours and the plain network differ by {worst:.1e} in float64; nothing to compare")


@dataclass(frozen=True)
class Contest:
    """A batch for PGD: all labels are the network's own predictions, and half of the samples should fall early."""

    x: Tensor
    y: Tensor
    bias: float


def half_falling(pair: Pair, n: int, steps: int, eps: float, step_size: float) -> Contest:
    """Give class 0 a bias, the same in both networks, at which half of a batch falls to PGD in the first half of its steps.

    A bias of class 0 leaves the signed gradient of samples with label 0 as it is, so one run of PGD on 2·n images
    without bias tells for every bias which sample falls when. Bias and batch are those with the most room on either
    side: n/2 samples right at first and wrong by step steps//2, n − n/2 right throughout.
    """
    x = images(2 * n, pair.ours)
    margins = torch.cat([_margins(pair.ours, part, steps, eps, step_size) for part in x.split(n)], 1)
    first, early, lasting = margins[0], margins[: steps // 2 + 1].amin(0), margins.amin(0)
    best, which, bias = -torch.inf, torch.arange(n, device=x.device), 0.0
    for level in margins.unique().tolist():
        falling = torch.minimum(first - level, level - early).topk(n // 2)
        standing = (lasting - level).topk(n - n // 2)
        room = float(torch.cat([falling.values, standing.values]).min())
        if room > best:
            best, which, bias = room, torch.cat([falling.indices, standing.indices]), -level
    for model in (pair.ours, pair.plain):
        with torch.no_grad():
            model.head.bias[0] += bias  # type: ignore[index, operator, union-attr]
    return Contest(x[which], torch.zeros(n, dtype=torch.int64, device=x.device), bias)


def _margins(model: nn.Module, x: Tensor, steps: int, eps: float, step_size: float) -> Tensor:
    """Logit 0 less the largest other, [steps, N], before every step of PGD on label 0."""
    here, rows = x, []
    y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for _ in range(steps):
        logits, gradient = logits_and_gradient(model, here, y)
        rows.append(logits[:, 0] - logits[:, 1:].amax(1))
        moved = here + step_size * gradient.sign()
        here = torch.min(torch.max(moved, x - eps), x + eps).clamp(0, 1)
    return torch.stack(rows)
