"""The benchmarks compare like with like, and print every row. Nothing here asserts a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks import comparisons, networks, plain
from benchmarks.__main__ import main
from benchmarks.comparisons import QUICK
from benchmarks.networks import Pair
from benchmarks.timing import Candidate, Spread, operations, ratio

import robustspike as rs


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at these sizes threads only wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pair() -> Pair:
    return networks.make_pair("digits-cnn", 3, 8, torch.device("cpu"))


@pytest.mark.parametrize("name", ["vgg11", "digits-cnn"])
def test_plain_network_has_the_weights_of_ours(name: str) -> None:
    with torch.device("meta"):
        ours = rs.models.MODELS[name](time_steps=2).state_dict()
        there = plain.PlainVGG(name, 2, 32 if name == "vgg11" else 8, *([(0.5,) * (3 if name == "vgg11" else 1)] * 2))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in there.state_dict().items()}


def test_plain_network_agrees_in_logits_and_gradients(pair: Pair) -> None:
    x, y = networks.images(4, pair.ours), torch.arange(4)
    z, g = networks.logits_and_gradient(pair.plain, x, y)
    assert z.std() > 0
    assert g.abs().max() > 0
    assert max(networks.disagreement(pair, x, y)) < 1e-12
    networks.check(pair, x, y)


def test_check_stops_at_another_network(pair: Pair) -> None:
    with torch.no_grad():
        pair.plain.head.weight[0, 0] += 1
    with pytest.raises(RuntimeError, match="nothing to compare"):
        networks.check(pair, networks.images(2, pair.ours), torch.arange(2))


@pytest.mark.parametrize("name", sorted(plain.SPIKES))
def test_plain_neuron_agrees(name: str) -> None:
    currents = torch.randn(5, 2, 7, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(5, 2, 7, dtype=torch.float64)
    spikes = plain.PlainLIF(name)(currents)
    ours = rs.LIF(surrogate=comparisons.SURROGATES[name])(currents)
    assert torch.equal(spikes, ours)
    expected, found = (torch.autograd.grad(s, currents, grad)[0] for s in (spikes, ours))
    torch.testing.assert_close(found, expected)


def test_plain_pgd_agrees(pair: Pair) -> None:
    double = Pair(pair.ours.double(), pair.plain.double())
    x, y, eps = networks.images(3, pair.ours).double(), torch.arange(3), 4 / 255
    expected = plain.pgd(double.plain, x, y, eps, 2, eps / 2)
    assert pair.plain.head.weight.grad is not None
    ours = rs.PGD(rs.Linf(eps), steps=2, step_size=eps / 2, random_start=False)(double.ours, x, y)
    torch.testing.assert_close(ours, expected)
    one = [plain.pgd_step(double.plain, x, x, y, eps, eps / 2, weight_gradients=kept) for kept in (True, False)]
    torch.testing.assert_close(*one)


def test_half_of_the_contest_falls_early(pair: Pair) -> None:
    contest = networks.half_falling(pair, 4, QUICK.steps, QUICK.eps, QUICK.step_size)
    spent = comparisons.our_pgd(QUICK).run(pair.ours, contest.x, contest.y).gradients
    assert (spent[:2] > 1).all()
    assert (spent[:2] <= QUICK.steps // 2 + 1).all()
    assert (spent[2:] == QUICK.steps).all()


def test_operations_of_a_linear_layer() -> None:
    layer, x = torch.nn.Linear(3, 5), torch.rand(7, 3, requires_grad=True)
    assert operations(lambda: torch.autograd.grad(layer(x).sum(), x)) == 2 * (2 * 7 * 3 * 5)


def test_ratio_is_taken_within_rounds() -> None:
    slow, fast = Candidate([2.0, 20.0, 6.0], 1.0, "bytes"), Candidate([1.0, 10.0, 2.0], 1.0, "bytes")
    assert ratio(slow, fast) == Spread(2.0, 2.0, 2.5)


def test_quick_run_prints_and_writes_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "folder" / "table.md"
    assert main(["--quick", "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert capsys.readouterr().out == page
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert rows == [
        "What",
        "neuron forward + backward, triangle",
        "neuron forward + backward, sigmoid",
        "neuron forward + backward, arctan",
        "training step, float32",
        "training step, ours bfloat16, plain float32",
        "training step, both bfloat16",
        "PGD step",
        "PGD step, plain without weight gradients",
        "PGD-10, half of the batch falls early",
    ]
    assert "quick run" in page
