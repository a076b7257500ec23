"""The benchmarks compare like with like, and print every row. Nothing here asserts a time."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks import comparisons, compiling, memory, networks, objectives, plain
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


def rows_of(page: str) -> list[list[str]]:
    """The cells of every line of the tables, heads first."""
    return [
        line.removeprefix("| ").removesuffix(" |").split(" | ") for line in page.splitlines() if line.startswith("| ")
    ]


def test_every_defence_is_measured_with_an_attack_where_it_needs_one() -> None:
    cases = objectives.cases()
    assert set(rs.DEFENCES) <= set(cases)
    with_attack = {name for name, case in cases.items() if any(p.attack is not None for p in case.objective.parts)}
    assert {"at", "rat", "sr-star"} <= with_attack
    assert with_attack - {"clp"} == {name for name, case in cases.items() if case.attack}  # clp: noise
    assert cases["vanilla"].objective == rs.DEFENCES["vanilla"]()
    assert cases["sr, exact"].objective == rs.DEFENCES["sr"](form="exact")


def test_the_work_of_an_objective_is_what_its_passes_cost() -> None:
    """A linear network: a pass forward costs F, that of the weights' gradient F, that of the inputs' F or none."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    forward = 2 * 2 * 4 * 3
    trainee = objectives.Trainee("", "", model, [(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))])
    attack = rs.PGD(rs.Linf(0.1), steps=5)
    cases = {
        "vanilla": objectives.Case(rs.defences.vanilla(), ""),
        "at": objectives.Case(rs.defences.at(attack), "PGD-5"),
    }
    found = objectives.measure(trainee, cases, 2, torch.device("cpu"), lambda: None)
    assert found["vanilla"].work == 2 * forward
    assert found["at"].work == 2 * forward + 5 * 2 * forward
    assert [len(candidate.seconds) for candidate in found.values()] == [2, 2]


def test_an_epoch_takes_a_step_on_each_batch_and_retracts_after_each() -> None:
    seen: list[object] = []

    def loss(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, *, progress: float) -> torch.Tensor:
        seen.append((float(x[0, 0]), progress))
        return model(x).sum()

    loss.after_step = lambda model: seen.append("retracted")  # type: ignore[attr-defined]
    batches = [(torch.full((1, 2), float(k)), torch.zeros(1)) for k in (1, 2)]
    trainee = objectives.Trainee("", "", torch.nn.Linear(2, 1), batches)
    before = trainee.model.weight.detach().clone()
    trainee.epoch(loss)  # type: ignore[arg-type]
    assert seen == [(1.0, 0.5), "retracted", (2.0, 0.5), "retracted"]
    assert not torch.equal(trainee.model.weight, before)


def test_the_page_of_objectives_sets_ratios_beside_the_published_ones() -> None:
    scale = dataclasses.replace(objectives.QUICK, rounds=2)
    cases = {
        "vanilla": objectives.Case(rs.defences.vanilla(), ""),
        "at": objectives.Case(rs.defences.vanilla(), "PGD-5"),
    }
    found = {"vanilla": Candidate([2.0, 4.0], 10.0, "float32"), "at": Candidate([6.0, 20.0], 35.0, "float32")}
    trainee = objectives.Trainee("net, 8 images", "s per epoch", torch.nn.Linear(1, 1), [])
    head, vanilla, at = rows_of(objectives.page(scale, [(trainee, found)], cases, {"PyTorch": "2"}))
    assert head[-1] == "Liu 2024: × vanilla"
    assert vanilla == ["vanilla", "", "3", "**1.00** [1.00–1.00]", "1.00", "1.00"]
    assert at == ["at", "PGD-5", "13", "**4.00** [3.50–4.50]", "3.50", "7.06"]  # 459 / 65


def test_quick_objectives_print_a_row_for_every_defence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert objectives.main(["--quick", "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page
    assert {row[0] for row in rows_of(page)} == {"Objective", *objectives.cases()}
    assert "quick run" in page


def test_kept_memory_is_each_block_once_and_no_weights() -> None:
    layer, x = torch.nn.Linear(8, 4, bias=False), torch.rand(16, 8)
    assert memory.kept_for_backward(layer, lambda: layer(x)) == x.nbytes

    def twice() -> torch.Tensor:  # sigmoid keeps its result; the product the same block and x again
        s = torch.sigmoid(layer(x))
        return s * s.view(4, 16).reshape(16, 4)

    assert memory.kept_for_backward(layer, twice) == x.nbytes + 16 * 4 * 4
    assert memory.kept_for_backward(layer, lambda: torch.no_grad()(layer)(x)) == 0


def point(side: str, batch: int, **options: object) -> memory.Point:
    quick = memory.QUICK
    whole = memory.Point(side, quick.network, quick.time_steps, quick.image_size, batch, "float32", quick.limit)
    return dataclasses.replace(whole, **options)  # type: ignore[arg-type]


def test_a_step_of_ours_keeps_less_than_one_of_the_plain_loop() -> None:
    kept = {}
    for side in memory.SIDES:
        step = memory.make_step(point(side, 16), torch.device("cpu"))
        kept[side] = memory.kept_for_backward(step.model, lambda step=step: step.model(step.x))
    assert 0 < kept["ours"] < 0.5 * kept["plain"]


@pytest.mark.skipif(not memory.STATUS.exists(), reason="needs Linux's /proc")
@pytest.mark.slow
def test_a_fresh_process_measures_one_point_within_its_limit() -> None:
    usage = memory.in_a_process_of_its_own(point("ours", 512))
    assert usage is not None
    assert usage.peak > usage.kept > 0
    assert memory.in_a_process_of_its_own(point("ours", 512, limit=0.05)) is None
    with pytest.raises(RuntimeError, match="failed"):
        memory.in_a_process_of_its_own(point("ours", 2, network="perceptron"))


def test_the_page_of_memory_has_ratios_and_slopes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def use(asked: memory.Point) -> memory.Usage | None:
        if (asked.side, asked.batch) == ("plain", 64) and asked.dtype == "bfloat16":
            return None
        each = 10e6 if asked.side == "plain" else 4e6
        return memory.Usage(5e6 + each * asked.batch, each * asked.batch / 2)

    monkeypatch.setattr(memory, "in_a_process_of_its_own", use)
    monkeypatch.setattr(memory, "QUICK", dataclasses.replace(memory.QUICK, dtypes=("float32", "bfloat16")))
    assert memory.main(["--quick", "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    rows = rows_of(page)
    assert rows[1] == ["batch 2, float32", "25", "13", "**0.52**", "", "10", "4", "**0.40**"]
    assert rows[2] == ["batch 64, float32", "645", "261", "**0.40**", "≤ 0.5", "320", "128", "**0.40**"]
    assert rows[4] == ["batch 64, bfloat16", "over 14000", "261", "", "", "over 14000", "128", ""]
    assert "each further image costs 10.0 MB in the plain loop, 4.0 MB in ours, 0.40 of it." in page
    assert page.count("each further image") == 1  # one batch of the plain loop is not enough for bfloat16


def test_the_page_of_compiling_has_both_sides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)
    assert compiling.main(["--quick"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row[0].rsplit(", ", 1)[1] for row in rows[1:]] == ["plain", "ours"]


@pytest.mark.parametrize("module", [objectives, memory, compiling], ids=lambda module: module.__name__)
def test_a_command_prints_its_page(
    module: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = module.__name__  # type: ignore[attr-defined]
    monkeypatch.setattr(sys.modules[name], "run", lambda scale, device, progress: f"{name} {scale} {device}\n")
    assert module.main(["--quick"]) == 0  # type: ignore[attr-defined]
    assert capsys.readouterr().out.startswith(f"{name} Scale(")
