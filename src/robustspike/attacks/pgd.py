"""Projected gradient descent and its one-step forms."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, best_of, check_counts, repeats
from robustspike.attacks.binding import bind
from robustspike.attacks.losses import FromClean
from robustspike.attacks.view import View, answers, may_stop
from robustspike.balls import Ball
from robustspike.draws import Draws
from robustspike.gradients import BPTT, Estimator, Loss, cross_entropy


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the loss: x ← Π(x + step_size · direction(∇_x loss)), repeated ``steps`` times.

    Args:
        ball: the threat model, such as ``Linf("8/255")``.
        steps: number of gradient steps.
        step_size: in pixel units; None: 2.5·ε/steps (Madry et al. 2018).
        random_start: True starts from a uniform point of the ball, False from x; "sign" from x + (ε/2)·(±1) (R-FGSM).
        restarts: repetitions from new random starts, for the samples that are not broken yet; the best one is kept.
        estimator: how the gradient passes through the neurons.
        loss: of (logits [N, K], y [N]) to [N], ascended; or :class:`FromClean`, the divergence from the clean answer.
        samples: gradients of so many fresh draws of a stochastic model are averaged before the step is taken.
        early_stop: keep the first iterate that the model errs on and spend nothing more on that sample. Evaluations want
            it (a sample once broken is broken); training does not. Ignored where one lucky draw could end the attack (a
            stochastic model).

    Raises:
        ValueError: for fewer than one step, restart or draw, or a step size that is not positive.

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> PGD(Linf(0.1), steps=3, random_start=False)(model, x, y).round(decimals=4).tolist()
        [[0.4000000059604645, 0.6000000238418579]]

    Source: Madry et al. 2018; settings of Ding 2022, Liu 2024 and Luu 2025 in :mod:`robustspike.attacks.suites`.
    """

    ball: Ball
    steps: int = 10
    step_size: float | None = None
    random_start: bool | str = True
    restarts: int = 1
    estimator: Estimator = field(default_factory=BPTT)
    loss: Loss | FromClean = cross_entropy
    samples: int = 1
    early_stop: bool = False
    label: str | None = None

    def __post_init__(self) -> None:
        check_counts(self, "steps", "restarts", "samples")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be positive and finite, in pixel units, got {self.step_size}")
        if self.random_start not in (True, False, "sign"):
            raise ValueError(f'random_start must be True, False or "sign", got {self.random_start!r}')

    @property
    def kind(self) -> str:
        return "white-box" if self.steps > 1 else "one-step"

    @property
    def name(self) -> str:
        if self.label is not None:
            return self.label
        start = {True: "", False: ", from x", "sign": ", sign start"}[self.random_start]
        loss = getattr(self.loss, "__name__", type(self.loss).__name__)
        unusual = (
            start,
            f", {loss} loss" if self.loss is not cross_entropy else "",
            f", step {self.step_size:.3g}" if self.step_size is not None else "",
        )
        return f"PGD-{self.steps}" + "".join(unusual) + repeats(self)

    __call__ = adversarial_examples
    bind = bind

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs, see :class:`robustspike.attacks.Attempt`."""
        draws = Draws.fresh(len(x), x.device) if draws is None else draws
        stop = may_stop(self.early_stop, model, x)
        clean = answers(model, x, draws) if getattr(self.loss, "compares", False) else None

        def climb(k: int, which: Tensor, draws: Draws) -> Attempt:
            return self._climb(model, x[which], y[which], draws, stop, None if clean is None else clean[which])

        attempt = best_of(model, x, y, draws, self.restarts, climb)
        attempt.queries += clean is not None
        return attempt

    def _climb(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws, stop: bool, clean: Tensor | None) -> Attempt:
        attempt, here = Attempt.begin(x), self._start(x, draws)
        view = View(
            model, attempt, y, draws, estimator=self.estimator, loss=self.loss, samples=self.samples, target=clean
        )
        step_size = 2.5 * self.ball.eps / self.steps if self.step_size is None else self.step_size
        for step in range(self.steps):
            logits, _, gradient = view(here, step)
            if stop:
                standing = view.standing(logits, here)
                view.keep(standing)
                here, x, gradient = here[standing], x[standing], gradient[standing]
                if len(here) == 0:
                    return attempt
            here = self.ball.project(self.ball.ascend(here, gradient, step_size), x)
        attempt.x_adv[view.left] = here
        return attempt

    def _start(self, x: Tensor, draws: Draws) -> Tensor:
        if self.random_start == "sign":
            sign = 1 - 2 * draws.integers(2, x.shape[1:]).to(x.dtype)
            return self.ball.project(self.ball.ascend(x, sign, self.ball.eps / 2), x)
        return self.ball.sample(x, draws) if self.random_start else x.clone()


def fgsm(ball: Ball, estimator: Estimator | None = None, **options: object) -> PGD:
    """One step of size ε from x itself (Goodfellow et al. 2015): a :class:`PGD`.

    Example:
        >>> fgsm(Linf(0.1)).name
        'FGSM'
    """
    return PGD(
        ball, steps=1, step_size=ball.eps or None, random_start=False, estimator=estimator or BPTT(), label="FGSM",
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def rfgsm(ball: Ball, estimator: Estimator | None = None, **options: object) -> PGD:
    """A random sign step of ε/2, then a gradient step of ε/2 (Tramèr et al. 2018): a :class:`PGD`.

    Example:
        >>> rfgsm(Linf(0.1)).step_size
        0.05
    """
    return PGD(
        ball, steps=1, step_size=ball.eps / 2 or None, random_start="sign", estimator=estimator or BPTT(), label="R-FGSM",
        **options,  # type: ignore[arg-type]
    )  # fmt: skip
