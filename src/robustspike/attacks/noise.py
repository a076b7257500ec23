"""Random perturbations: what gradients are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, best_of
from robustspike.balls import Ball
from robustspike.draws import Draws


def _at_least_one(tries: int) -> None:
    if tries < 1:
        raise ValueError(f"tries must be ≥ 1, got {tries}")


def _best_of_tries(
    model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None, tries: int, perturb: Callable[[Tensor, Draws], Tensor]
) -> Attempt:
    def run(k: int, which: Tensor, draws: Draws) -> Attempt:
        attempt = Attempt.begin(x[which])
        attempt.x_adv = perturb(x[which], draws)
        return attempt

    return best_of(model, x, y, Draws.fresh(len(x), x.device) if draws is None else draws, tries, run)


@dataclass(frozen=True)
class UniformNoise:
    """A uniform point of the ball; with ``tries`` > 1, the one of so many that the model errs on most often.

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
        return _best_of_tries(model, x, y, draws, self.tries, self.ball.sample)


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

        def perturb(x: Tensor, draws: Draws) -> Tensor:
            return self.ball.project(x + self.ball.eps * draws.normal(x.shape[1:], x.dtype), x)

        return _best_of_tries(model, x, y, draws, self.tries, perturb)
