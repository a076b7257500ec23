"""The square attack: random search that needs only the logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from robustspike.attacks.attempt import Attempt, adversarial_examples, check_counts
from robustspike.attacks.binding import bind
from robustspike.attacks.losses import margin
from robustspike.attacks.view import View, may_stop
from robustspike.balls import Ball
from robustspike.draws import Draws
from robustspike.gradients import BPTT, Loss

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10 000 queries


@dataclass(frozen=True)
class Square:
    """Random search over squares: each query changes the colour of one square, and stays if the loss has grown.

    Query 0 is the start, vertical stripes x ± ε (L∞) or a 5 × 5 grid of tiles scaled to length ε (L2). Query i changes a
    square of round(√(p·H·W)) places a side (L2: an odd number, at least 3) at a random position: to x ± ε with a random
    sign for each channel, or under L2 by a tile of the same shape, with the length that it frees there and in a second
    square, which becomes x. p = p_init is halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10 000
    queries, and in proportion for another number. The last two dimensions of x are the places (one dimension: a line, with
    segments for squares), all before them channels.

    Args:
        ball: an L∞ or L2 ball.
        queries: the number of forward passes for each sample, the start included.
        p_init: share of the places in the first squares, in (0, 1].
        loss: of (logits [N, K], y [N]) to [N], ascended.
        samples: the loss is the mean over so many draws of a stochastic model, the same for all queries of a sample.
        early_stop: keep the first query that the model errs on and spend nothing more on that sample. Ignored where one
            lucky draw could end the attack (a stochastic model).

    Raises:
        ValueError: for another ball, fewer than one query or draw, or p_init outside (0, 1].

    Example:
        >>> x, y = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        >>> Square(Linf(0.1), queries=50, early_stop=False)(model, x, y).round(decimals=4).tolist()
        [[0.4000000059604645, 0.6000000238418579]]

    Source: Andriushchenko et al. 2020, algorithms 1-3; p_init = 0.8 as in AutoAttack (Croce and Hein 2020); the halving
    at 500 is in the authors' code only. Differs from that code: every sample has positions and tiles of its own, which
    reach the last row and column too; the length freed in a channel stays in that channel, as in the paper's algorithm 3;
    a gain within rounding is none.
    """

    kind: ClassVar[str] = "black-box"
    ball: Ball
    queries: int = 5000
    p_init: float = 0.8
    loss: Loss = margin
    samples: int = 1
    early_stop: bool = True
    label: str | None = None

    def __post_init__(self) -> None:
        check_counts(self, "queries", "samples")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init must lie in (0, 1], a share of the places, got {self.p_init}")
        if self.ball.norm not in _MOVES:
            raise ValueError(f"Square moves in an L∞ or L2 ball, got {self.ball}")

    @property
    def name(self) -> str:
        if self.label is not None:
            return self.label
        unusual = (
            f", p {self.p_init:.3g}" if self.p_init != 0.8 else "",
            f", {self.samples} draws" if self.samples > 1 else "",
        )
        return f"Square-{self.queries}" + "".join(unusual)

    __call__ = adversarial_examples
    bind = bind

    def p(self, query: int) -> float:
        """The share of the places that query number ``query`` changes.

        Example:
            >>> [Square(Linf(0.1)).p(i) for i in (1, 5, 6, 26)]
            [0.8, 0.8, 0.4, 0.2]
        """
        done = query * 10_000 // self.queries
        return self.p_init / 2 ** sum(done > after for after in _HALVED_AFTER)

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs, see :class:`robustspike.attacks.Attempt`."""
        draws = Draws.fresh(len(x), x.device) if draws is None else draws
        attempt, shape = Attempt.begin(x), x.shape[1:]
        if x.numel() == 0 or self.ball.eps == 0:
            return attempt
        view = View(model, attempt, y, draws, estimator=BPTT(), loss=self.loss, samples=self.samples)
        stop = may_stop(self.early_stop, model, x)
        x = x.reshape(len(x), -1, *(1, 1, *shape)[-2:])
        best, highest, draws = x, torch.full((len(x),), -math.inf, device=x.device), draws.fork("square")
        for query in range(self.queries):
            tried = self._propose(best, x, query, draws.fork(query))
            logits, losses = view.losses(tried.reshape(-1, *shape), 0)  # the same draws for all, so that they compare
            better, highest = _gains(logits, losses, highest)
            best = torch.where(better[:, None, None, None], tried, best)
            if stop:
                standing = view.standing(logits, tried.reshape(-1, *shape))
                if not standing.all():
                    view.keep(standing)
                    best, x, highest, draws = best[standing], x[standing], highest[standing], draws[standing]
                if len(x) == 0:
                    return attempt
        attempt.x_adv[view.left] = best.reshape(-1, *shape)
        return attempt

    def _propose(self, best: Tensor, x: Tensor, query: int, draws: Draws) -> Tensor:
        start, move = _MOVES[self.ball.norm]
        if query == 0:
            return start(x, self.ball, draws)
        return move(best, x, self.ball, self.p(query), draws)


def _gains(logits: Tensor, losses: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Which losses [M] exceed the highest so far by more than rounding, and the highest now.

    Logits that are not finite are an error of the model, so the highest loss of all. A spiking network answers many
    neighbours alike up to rounding, which depends on the size of the batch: such a draw changes nothing.
    """
    finite = logits.isfinite().all(1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = torch.where(finite, losses, math.inf)
    rounding = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
    better = losses > highest + torch.where(finite, rounding, 0.0)
    return better, torch.where(better, losses, highest)


def _signs(uniform: Tensor) -> Tensor:
    return 1 - 2 * (uniform < 0.5).to(uniform.dtype)


def _corner(numbers: Tensor, sides: tuple[int, int], places: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """First row and first column [M, 1] of a window of these sides, from two uniform numbers [M, 2]."""
    row, column = ((numbers[:, k : k + 1] * (places[k] - sides[k] + 1)).long() for k in (0, 1))
    return row, column


# Linf


def square_sides(p: float, height: int, width: int) -> tuple[int, int]:
    """Sides of the square that holds about p·H·W places, at least 1; a rectangle where the image is too low or narrow.

    Example:
        >>> square_sides(0.2, 8, 8), square_sides(0.2, 1, 40)
        ((4, 4), (1, 8))
    """
    side, short = max(round(math.sqrt(p * height * width)), 1), min(height, width)
    if side <= short != 1:
        return side, side
    long = min(max(round(p * height * width / short), 1), max(height, width))
    return (short, long) if height <= width else (long, short)


def _stripes(x: Tensor, ball: Ball, draws: Draws) -> Tensor:
    """x ± ε with one sign for each column of each channel."""
    signs = _signs(draws.uniform((x.shape[1], 1, x.shape[3]), x.dtype))
    return ball.project(x + ball.eps * signs, x)


def _recolour(best: Tensor, x: Tensor, ball: Ball, p: float, draws: Draws) -> Tensor:
    """``best`` with x ± ε in one square, the sign drawn for each channel; opposite signs where that would change nothing."""
    height, width = places = best.shape[2], best.shape[3]
    sides = square_sides(p, height, width)
    numbers = draws.uniform((2 + x.shape[1],), torch.float64)
    row, column = _corner(numbers, sides, places)
    y, x_ = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside = ((y >= row) & (y < row + sides[0]))[:, :, None] & ((x_ >= column) & (x_ < column + sides[1]))[:, None]
    change = 2 * ball.eps * _signs(numbers[:, 2:]).to(x.dtype)[:, :, None, None] * inside[:, None]
    new = ball.project(best + change, x)
    idle = (new == best).flatten(1).all(1)[:, None, None, None]
    return torch.where(idle, ball.project(best - change, x), new)


# L2


def tile(height: int, width: int) -> Tensor:
    """The paper's η: two bumps of opposite sign, one above the other, of length 1; [height, width] in float64.

    Source: Andriushchenko et al. 2020, eq. 2. A bump falls off with the distance d = max(|r − r₀|, |s − s₀|) from its
    centre as Σ_{j=d+1}^{n+1} 1/j², n half its longer side.

    Example:
        >>> tile(2, 1).flatten().tolist()
        [0.7071067811865475, -0.7071067811865475]
    """
    both = torch.cat([_bump(height // 2, width), -_bump(height - height // 2, width)])
    return both / both.norm()


def _bump(height: int, width: int) -> Tensor:
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    distance = torch.maximum((rows - height // 2).abs(), (columns - width // 2).abs())
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** 2
    return terms.flip(0).cumsum(0).flip(0)[distance]


@cache
def _orientations(height: int, width: int) -> Tensor:
    """η with its halves one above the other and side by side, [2, height, width]."""
    return torch.stack([tile(height, width), tile(width, height).T])


def _grid(x: Tensor, ball: Ball, draws: Draws) -> Tensor:
    """x + ε · 5 × 5 tiles side by side, each with its own orientation, and its own sign in each channel."""
    places, channels = x.shape[2:], x.shape[1]
    rows, columns = (min(5, side) for side in places)
    sides = places[0] // rows, places[1] // columns
    height, width = rows * sides[0], columns * sides[1]
    top, left = (places[0] - height) // 2, (places[1] - width) // 2
    numbers = draws.uniform((1 + channels, rows, columns), x.dtype)
    tiles = _orientations(*sides).to(x)[(numbers[:, 0] < 0.5).long()]
    tiles = tiles.transpose(2, 3).reshape(len(x), 1, height, width)
    signs = _signs(numbers[:, 1:]).repeat_interleave(sides[0], 2).repeat_interleave(sides[1], 3)
    delta = torch.zeros_like(x)
    delta[:, :, top : top + height, left : left + width] = signs * tiles
    return ball.project(x + ball.eps * _unit(delta.flatten(1), 0.0).reshape(x.shape), x)


def _move_length(best: Tensor, x: Tensor, ball: Ball, p: float, draws: Draws) -> Tensor:
    """``best`` with a tile added in one square, made as long as that and a second square were, which becomes x."""
    places, channels, eps = (best.shape[2], best.shape[3]), best.shape[1], ball.eps
    h, w = (min(max(side, 3) | 1, most) for side, most in zip(square_sides(p, *places), places, strict=True))
    numbers = draws.uniform((5 + channels,), torch.float64)
    first, second = (_indices(numbers[:, k : k + 2], (h, w), places) for k in (0, 2))
    delta = (best - x).flatten(2)
    free = (eps**2 - delta.square().sum((1, 2), keepdim=True)).clamp(min=0)
    both = torch.zeros_like(delta[:, :1], dtype=torch.bool).scatter(2, first, True).scatter(2, second, True)
    length = (free / channels + (delta * both).square().sum(2, keepdim=True)).sqrt()

    first = first.expand(-1, channels, -1)
    eta = _orientations(h, w).to(x).flatten(1)[(numbers[:, 4] < 0.5).long()]
    eta = _signs(numbers[:, 5:, None]).to(x.dtype) * eta[:, None]
    direction = eta + _unit(delta.gather(2, first), 1e-6 * eps)
    cancelled = direction.norm(dim=2, keepdim=True) < 1e-3
    direction = _unit(torch.where(cancelled, eta, direction), 0.0)
    delta = delta.masked_fill(both, 0.0).scatter(2, first, direction * length)
    return ball.project(x + delta.reshape(x.shape), x)


def _indices(numbers: Tensor, sides: tuple[int, int], places: tuple[int, int]) -> Tensor:
    """The places of a window at a random position, numbered row by row, [M, 1, h·w]."""
    row, column = _corner(numbers, sides, places)
    rows, columns = (
        first + torch.arange(side, device=numbers.device) for first, side in zip((row, column), sides, strict=True)
    )
    return (rows[:, :, None] * places[1] + columns[:, None]).flatten(1)[:, None]


def _unit(v: Tensor, rounding: float) -> Tensor:
    """v / ‖v‖₂ over the last dimension, 0 where v is no longer than ``rounding``."""
    length = v.norm(dim=-1, keepdim=True)
    return torch.where(length > rounding, v / length, 0.0)


_MOVES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "Linf": (_stripes, _recolour),
    "L2": (_grid, _move_length),
}
