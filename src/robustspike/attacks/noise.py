"""Random perturbations: what gradients are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, best_of, check_counts
from robustspike.attacks.binding import bind
from robustspike.balls import Ball
from robustspike.draws import Draws


def _with_tries(noise: str, tries: int) -> str:
    return noise if tries == 1 else f"{noise} ×{tries}"


def _best_of_tries(self: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
    """x_adv and costs, see :class:`robustspike.attacks.Attempt`."""

    def run(k: int, which: Tensor, draws: Draws) -> Attempt:
        attempt = Attempt.begin(x[which])
        attempt.x_adv = self.perturb(x[which], draws)
        return attempt

    return best_of(model, x, y, Draws.fresh(len(x), x.device) if draws is None else draws, self.tries, run)


@dataclass(frozen=True)
class UniformNoise:
    """A uniform point of the ball; with ``tries`` > 1, the one of so many that the model errs on most often.

    Source: Liu 2024, Table 4 (ε = 0.1, one try).

    Example:
        >>> UniformNoise(Linf(0.1))(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])).shape
        torch.Size([1, 2])
    """

    kind: ClassVar[str] = "noise"
    ball: Ball
    tries: int = 1

    def __post_init__(self) -> None:
        check_counts(self, "tries")

    __call__ = adversarial_examples
    bind = bind
    run = _best_of_tries

    @property
    def name(self) -> str:
        return _with_tries("uniform noise", self.tries)

    def perturb(self, x: Tensor, draws: Draws) -> Tensor:
        """One try for each sample, [N, ...]."""
        return self.ball.sample(x, draws)


@dataclass(frozen=True)
class GaussianNoise:
    """x + σ·n with n standard normal and σ = ε of the ball, projected on the ball; ``tries`` as in uniform noise.

    Source: Ding 2022, Fig. 5. Differs from the authors' code: the noise stays in the ball.

    Example:
        >>> GaussianNoise(Linf(0.1))(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])).shape
        torch.Size([1, 2])
    """

    kind: ClassVar[str] = "noise"
    ball: Ball
    tries: int = 1

    def __post_init__(self) -> None:
        check_counts(self, "tries")

    __call__ = adversarial_examples
    bind = bind
    run = _best_of_tries

    @property
    def name(self) -> str:
        return _with_tries("Gaussian noise", self.tries)

    def perturb(self, x: Tensor, draws: Draws) -> Tensor:
        """One try for each sample, [N, ...]."""
        return self.ball.project(x + self.ball.eps * draws.normal(x.shape[1:], x.dtype), x)
