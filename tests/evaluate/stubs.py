"""A model and attacks whose every figure can be said beforehand."""

from dataclasses import dataclass

import torch
from torch import nn

from robustspike.attacks.attempt import Attempt, adversarial_examples
from robustspike.balls import Linf
from robustspike.data import Split

BALL = Linf(0.1)


class Bright(nn.Module):
    """Class 1 for images that are brighter than 0.5 on average, else class 0."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def bright(n=8):
    """Images of class 1, sample i brighter than i − 1: 0.51, 0.52, …"""
    images = torch.full((n, 1, 2, 2), 0.51) + 0.01 * torch.arange(n)[:, None, None, None]
    return Split(images, torch.ones(n, dtype=torch.int64))


@dataclass(frozen=True)
class Spends:
    """Darkens by ``reach``, and says that it has spent so much on each sample: the more, the brighter it is."""

    reach: float
    gradients: int = 0
    queries: int = 0
    name: str = "spends"
    kind: str = "white-box"
    caveat: str = ""
    ball: Linf = BALL

    __call__ = adversarial_examples

    def run(self, model, x, y, draws=None):
        attempt = Attempt.begin((x - self.reach).clamp(0, 1))
        place = ((x.flatten(1).mean(1) - 0.51) * 100).round().to(torch.int64)
        attempt.gradients += self.gradients + place
        attempt.queries += self.queries
        return attempt
