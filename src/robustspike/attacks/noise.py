"""Random perturbations: what gradients are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, misclassified
from robustspike.balls import Ball
from robustspike.draws import Draws, sampling
from robustspike.gradients import frozen


def _at_least_one(tries: int) -> None:
    if tries < 1:
        raise ValueError(f"tries must be ≥ 1, got {tries}")


def _first_error(
    model: nn.Module, x: Tensor, y: Tensor, draws: Draws, tries: int, perturb: Callable[[Tensor, Draws], Tensor]
) -> Attempt:
    attempt = Attempt.begin(x)
    todo = torch.arange(len(x), device=x.device)
    with torch.no_grad(), frozen(model):
        for k in range(tries):
            attempt.x_adv[todo] = perturb(x[todo], draws[todo].fork(k))
            attempt.restart[todo] = k
            if k + 1 < tries:
                with sampling(draws[todo].fork("check").fork(k)):
                    todo = todo[~misclassified(model, attempt.x_adv[todo], y[todo])]
    return attempt


@dataclass(frozen=True)
class UniformNoise:
    """A uniform point of the ball; with ``tries`` > 1, the first of so many that the model errs on.

    Source: Liu 2024, Table 4 (ε = 0.1, one try).

    Example:
        >>> UniformNoise(Linf(0.1))(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])).shape
        torch.Size([1, 2])
    """

    ball: Ball
    tries: int = 1

    def __post_init__(self) -> None:
        _at_least_one(self.tries)

    @property
    def name(self) -> str:
        return "uniform noise" if self.tries == 1 else f"uniform noise ×{self.tries}"

    __call__ = adversarial_examples

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs, see :class:`robustspike.attacks.Attempt`."""
        draws = Draws.fresh(len(x), x.device) if draws is None else draws
        return _first_error(model, x, y, draws, self.tries, self.ball.sample)


@dataclass(frozen=True)
class GaussianNoise:
    """x + σ·n with n standard normal and σ = ε of the ball, projected on the ball; ``tries`` as in uniform noise.

    Source: Ding 2022, Fig. 5. Differs from the authors' code: the noise stays in the ball.

    Example:
        >>> GaussianNoise(Linf(0.1))(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])).shape
        torch.Size([1, 2])
    """

    ball: Ball
    tries: int = 1

    def __post_init__(self) -> None:
        _at_least_one(self.tries)

    @property
    def name(self) -> str:
        return "Gaussian noise" if self.tries == 1 else f"Gaussian noise ×{self.tries}"

    __call__ = adversarial_examples

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs, see :class:`robustspike.attacks.Attempt`."""
        draws = Draws.fresh(len(x), x.device) if draws is None else draws

        def perturb(x: Tensor, draws: Draws) -> Tensor:
            return self.ball.project(x + self.ball.eps * draws.normal(x.shape[1:], x.dtype), x)

        return _first_error(model, x, y, draws, self.tries, perturb)
