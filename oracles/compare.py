"""``python -m oracles.compare``: print a Markdown table of what every library's attacks leave standing."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version

import torch

import robustspike
from oracles.contest import LIBRARIES, Row, rows, score
from oracles.network import digits, relu_network

_DISTRIBUTIONS = ("torchattacks", "pyautoattack", "foolbox")

_READING = """\
Each cell: robust accuracy (seconds of processor time, forward passes per sample). All attacks see the same network and
digits; an example counts if the network errs on it, within ball and box. Equal budgets: PGD-20 with step ε/8 and one
random start, uniform in the ball; Auto-PGD one start of 100 steps, or 9 targets of 100 steps; FAB 9 targets of 100 steps;
the square attack {queries} queries; AutoAttack the four in its standard order. Ours leaves a sample alone once it is
broken; the libraries' untargeted Auto-PGD goes on, hence more passes. torchattacks' Auto-PGD, FAB and Square are copies of
the authors', whose squares never reach the last row and column, which is much on 8 × 8 pixels. In the FAB row foolbox has
its kin, DeepFool (100 steps)."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, attack, print."""
    parser = argparse.ArgumentParser("python -m oracles.compare", description="Our attacks and other libraries'.")
    parser.add_argument("--samples", type=int, default=200, help="so many test digits")
    parser.add_argument("--queries", type=int, default=5000, help="of the square attack, the start included")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(_facts(options.samples), "", sep="\n")
    print(_line(["attack", "ball", "ours", *LIBRARIES]), _line(["---"] * (3 + len(LIBRARIES))), sep="\n")
    for row in rows(options.queries).values():
        cells = [_cell(row, who, options.samples, options.queries) for who in ("ours", *LIBRARIES)]
        ball = f"{'L∞' if row.ball.norm == 'Linf' else 'L2'} {row.ball.eps:g}"
        print(_line([row.name, ball, *cells]), flush=True)
    print("", _READING.format(queries=options.queries), sep="\n")
    return 0


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _facts(n: int) -> str:
    x, y = digits(n)
    clean = (relu_network()(x).argmax(1) == y).float().mean().item()
    versions = [f"{name} {version(name)}" for name in _DISTRIBUTIONS]
    return (
        f"A ReLU network (2 convolutions, 2 linear layers) trained for 10 epochs against PGD-3 at L∞ ε = 0.1; {len(y)} test "
        f"digits, clean accuracy {clean:.1%}; seed 0, one thread. robustspike {robustspike.__version__}, "
        f"{', '.join(versions)}, torch {torch.__version__}."
    )


def _cell(row: Row, who: str, n: int, queries: int) -> str:
    if who != "ours" and who not in row.theirs:
        return "–"
    found = score(row, who, n, queries)
    return f"{found.robust.float().mean():.1%} ({found.seconds:.1f} s, {found.passes:.0f})"


if __name__ == "__main__":
    sys.exit(main())
