"""Published tables run again, in a toy size."""

import sys

import numpy as np
import pytest

from robustspike.attacks import APGD, PGD, SUITES, Suite, Transfer
from robustspike.balls import Linf
from robustspike.data import DataError, load
from robustspike.experiment import Experiment, Figure, Reproduction, Row, read_experiment, reproduce
from robustspike.experiment.reproduce import at_chance
from robustspike.results import load_outcome, rate

TOY = {"train_limit": 64, "time_steps": 2, "epochs": 1, "train_steps": 1, "accelerator": "cpu"}
QUICK = {"limit": 8, "progress": False, "suites": ["assg"], **TOY}
pytestmark = pytest.mark.usefixtures("one_thread")


def test_figures_stand_beside_the_published_ones():
    figures = (
        Figure(attack="clean", published=90, ours=rate(80, 100)),
        Figure(attack="PGD-10", published=18.18, ours=None),
    )
    found = Reproduction(
        about="A table", scale="short",
        rows=(
            Row(recipe="a", figures=figures, worst={"standard": rate(5, 100)}, under=("liu2024, n = 100",)),
            Row(recipe="b", skipped="no data"),
        ),
    )  # fmt: skip
    table, narrow = found.table(), found.narrow()
    assert narrow.columns == ("row", "published", "ours", "difference")
    assert narrow.rows == (
        ("a", "", "", ""),
        ("  clean", "90.00", str(rate(80, 100)), "-10.0"),
        ("  PGD-10", "18.18", "·", "·"),
        ("  worst case under standard", "·", str(rate(5, 100)), "·"),
    )
    assert narrow.title == table.title
    assert table.columns == ("row", "", "clean", "PGD-10", "worst case under standard")
    assert table.rows == (
        ("a", "published", "90.00", "18.18", "·"),
        ("", "ours", str(rate(80, 100)), "·", str(rate(5, 100))),
        ("", "difference", "-10.0", "·", "·"),
    )
    assert "--scale short" in table.title
    assert "under liu2024, n = 100" in table.title


def test_each_difference_is_said_once_with_the_rows_it_concerns():
    rows = (
        Row(recipe="a", differing=("epochs: 5 (paper: 200)", "weight: 1 (paper: 2)")),
        Row(recipe="b", differing=("epochs: 5 (paper: 200)",)),
        Row(recipe="c", skipped="no data"),
    )
    found = Reproduction(about="A table", scale="short", rows=rows)
    assert found.differences() == ["epochs: 5 (paper: 200)", "weight: 1 (paper: 2) in a"]
    both = (rows[0], Row(recipe="b", differing=("epochs: 5 (paper: 200)", "weight: 1 (paper: 3)")))
    folded = Reproduction(about="A table", scale="short", rows=both).differences()
    assert folded == ["epochs: 5 (paper: 200)", "weight: 1 (paper: 2 in 1 of 2 rows, 3 in 1 of 2 rows)"]
    page = found.markdown()
    assert "* epochs: 5 (paper: 200)\n* weight" in page
    assert "* c: no data" in page


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(a reproduction in toy size, its folder)"""
    import torch

    out = tmp_path_factory.mktemp("table")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield reproduce("ding2022-table-a1", out, scale="smoke", **QUICK), out
    torch.set_num_threads(threads)


def test_rows_are_trained_and_attacked_as_their_paper_did_and_harder(table):
    found, out = table
    assert [row.recipe for row in found.rows] == ["liu2024-cifar100-vgg11-vanilla", "liu2024-cifar100-vgg11-rat"]
    vanilla, rat = found.rows
    assert [(f.attack, f.published) for f in rat.figures] == [("clean", 70.89), ("FGSM", 25.86), ("PGD-7", 10.38)]
    assert read_experiment(out / "digits-digits-cnn-rat").train_estimators == "bptt,bptr"
    folders = sorted(path.name for path in (out / "digits-digits-cnn-rat" / "attacks").iterdir())
    assert folders[0] == "assg-Linf-0.15-n8"
    outcome = load_outcome(out / "digits-digits-cnn-rat" / "attacks" / folders[1])
    assert {member.estimator for member in outcome.header.members} == {"BPTT own surrogate"}
    assert rat.figures[2].ours == outcome.summary().by_attack["PGD-7"]
    assert set(vanilla.worst) == {"assg"}
    assert "assg, Linf ε = 0.15, n = 8, seed 0" in rat.under[1]


def test_every_setting_that_differs_is_found_by_comparing(table):
    found, _ = table
    row = found.rows[1]
    paper = Experiment.published(row.recipe)
    for text in (
        "data: digits (paper: cifar100)", "model: digits-cnn (paper: vgg11)", "epochs: 1 (paper: 200)",
        "train_limit: 64 (paper: not set)", "training images: 58 (paper: 50000)", "test images: 8 (paper: 10000)",
        "ε of the attacks: 0.15 (paper: 8/255)", "train_eps: 0.05 (paper: 2/255)",
    ):  # fmt: skip
        assert text in row.differing
    said = {text.split(":")[0] for text in row.differing}
    record = Experiment.published(row.recipe, "smoke", **TOY).model_dump()
    expected = {name for name, value in paper.model_dump().items() if record[name] != value} - {"accelerator"}
    expected -= {"train_steps", "train_step_size"}  # RAT's attack, FGSM, has neither
    assert said == expected | {"training images", "test images", "ε of the attacks"}
    assert "NOT the paper's settings" in found.table().note
    assert "on OTHER DATA than the paper's" in found.table().note


def test_what_was_found_is_written(table):
    found, out = table
    assert Reproduction.model_validate_json((out / "results.json").read_text()) == found
    assert (out / "table.md").read_text() == found.markdown()
    assert "<html" in (out / "report.html").read_text()


def test_run_again_nothing_is_done_twice(table):
    found, out = table
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/**/*") if path.is_file()}
    assert reproduce("ding2022-table-a1", out, scale="smoke", **QUICK) == found
    assert {path: path.stat().st_mtime_ns for path in before} == before


def one_step(eps, sources=()):
    """The iterative attacks of liu2024 by name, with one step and one estimator each."""
    ball = Linf(eps) if isinstance(eps, str) else eps
    kinds = [PGD(ball, 1, label=f"PGD-{n}") for n in (10, 30, 50)] + [APGD(ball, 1, label="APGD-10")]
    return Suite("liu2024", ball, (*kinds, *(Transfer(kind, source) for source in sources for kind in kinds)))


def test_equal_rows_are_trained_once_and_black_box_examples_have_their_own_source(tmp_path, monkeypatch):
    monkeypatch.setitem(SUITES, "liu2024", one_step)
    found = reproduce("liu2024-table1", tmp_path, scale="smoke", black_box=True, **QUICK | {"limit": 4, "suites": []})
    assert not found.skipped
    runs = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("experiment.yaml"))
    assert runs == [
        *(f"digits-digits-cnn-{d}" for d in ("at", "rat", "sr-star")),
        "sources/digits-digits-cnn-vanilla-seed1",
    ]
    assert len(found.rows) == 9
    assert {row.folder for row in found.rows} == {str(tmp_path / run) for run in runs[:3]}
    for row in found.rows:
        ours = {figure.attack: figure.ours for figure in row.figures}
        assert None not in ours.values()
        assert len([attack for attack in ours if attack.endswith(", black box")]) == 4
    assert "trained once: digits-digits-cnn-at" in found.table().note


def npz(path, classes):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 255, (2 * classes, 32, 32, 3), dtype=np.uint8), np.arange(2 * classes) % classes
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return str(path)


def test_rows_whose_data_cannot_be_had_are_skipped_with_a_sentence(tmp_path, monkeypatch):
    def none(experiment):
        raise DataError(f"{experiment.data}: expected an archive")

    monkeypatch.setattr(sys.modules["robustspike.experiment.reproduce"], "load_data", none)
    found = reproduce("liu2024-table3", tmp_path, scale="short", progress=False)
    assert len(found.skipped) == 8
    assert {row.skipped for row in found.rows} == {"cifar10: expected an archive", "cifar100: expected an archive"}
    assert "liu2024-cifar10-wrn16-sr-star: cifar10: expected an archive\n* " in (tmp_path / "table.md").read_text()


def test_a_path_alone_is_the_data_with_as_many_classes(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sys.modules["robustspike.experiment.reproduce"], "load_data", lambda e: asked.append(e.data) or fail(e)
    )

    def fail(experiment):
        raise DataError("no")

    ten, hundred = npz(tmp_path / "ten.npz", 10), npz(tmp_path / "hundred.npz", 100)
    reproduce("liu2024-table3", tmp_path / "a", scale="short", data=ten, progress=False)
    assert asked == [ten, "cifar100"]
    reproduce("liu2024-table3", tmp_path / "b", scale="short", data=f"cifar10={ten},cifar100={hundred}", progress=False)
    assert asked[2:] == [ten, hundred]
    with pytest.raises(ValueError, match="has 3 classes, the tables' data 10 or 100; check the path"):
        reproduce("liu2024-table3", tmp_path / "c", data=npz(tmp_path / "three.npz", 3), progress=False)
    for given, sentence in (
        (f"cifar11={ten}", "unknown data 'cifar11'; did you mean cifar10"),
        (f"cifar10={ten},{hundred}", r"expected a path for each name.*got '.*hundred.npz'"),
        ("cifar10=", "expected a path for each name"),
        (f"cifar10={hundred}", "hundred.npz has 100 classes, cifar10 has 10"),
        ("cifar10=nowhere.npz", "nowhere.npz: expected an .npz file, got no such file"),
    ):
        with pytest.raises(ValueError, match=sentence):
            reproduce("liu2024-table3", tmp_path / "c", data=given, progress=False)
    assert not (tmp_path / "c").exists()


def load_whole(experiment):
    """As load_data, however few images there are."""
    return load(experiment.data)


@pytest.mark.parametrize(
    ("right", "classes", "lost"), [(2, 10, True), (12, 10, False), (2, 100, False), (0, 100, True)]
)
def test_a_network_that_only_guesses_is_noticed(right, classes, lost):
    """Of 20: the 95 % interval of 2 begins at 1.2 %, that of 12 at 36 %."""
    row = Row(recipe="at", figures=(Figure(attack="clean", published=90.0, ours=rate(right, 20)),))
    assert at_chance(row, classes) == lost


def test_files_of_one_name_in_two_folders_are_two_runs(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    places = f"cifar10={npz(tmp_path / 'a' / 'c.npz', 10)},cifar100={npz(tmp_path / 'b' / 'c.npz', 100)}"
    ran = []
    monkeypatch.setattr(
        sys.modules["robustspike.experiment.reproduce"],
        "run_jobs",
        lambda jobs, **options: ran.extend(jobs) or ["no time"] * len(jobs),
    )
    monkeypatch.setattr(sys.modules["robustspike.experiment.reproduce"], "load_data", load_whole)
    found = reproduce("liu2024-table3", tmp_path / "t", scale="short", data=places, progress=False)
    assert len(ran) == len({row.folder for row in found.rows}) == 8


def test_settings_of_an_attack_that_is_not_made_do_not_differ():
    unused = sys.modules["robustspike.experiment.reproduce"]._unused
    every = {"train_eps", "train_steps", "train_step_size"}
    made = {name: unused(Experiment.of(defence=name)) for name in ("vanilla", "sr", "hire", "rat", "at")}
    assert made == {
        "vanilla": every, "sr": every, "hire": every - {"train_eps"}, "rat": every - {"train_eps"}, "at": set(),
    }  # fmt: skip
    assert unused(Experiment.of(defence="at", train_attack="apgd")) == {"train_step_size"}
    assert unused(Experiment.of(defence="vanilla"), Experiment.of(defence="at")) == set()


def test_settings_go_to_the_rows_that_take_them(tmp_path, monkeypatch):
    records = []

    def note(experiment):
        records.append(experiment)
        raise DataError("no")

    monkeypatch.setattr(sys.modules["robustspike.experiment.reproduce"], "load_data", note)
    monkeypatch.setattr(sys.modules["robustspike.experiment.reproduce"], "_data_of", lambda e: (e.data, e.defence))
    reproduce("liu2024-table3", tmp_path, scale="short", weight=0.5, train_attack="fgsm", progress=False)
    assert [(e.defence, e.weight, e.train_attack) for e in records[:4]] == [
        ("vanilla", None, None), ("at", None, "fgsm"), ("sr", 0.5, None), ("sr-star", 0.5, "fgsm"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="takes no --margin"):
        reproduce("liu2024-table3", tmp_path, scale="short", margin=0.5, progress=False)


@pytest.mark.parametrize(
    ("table_name", "given", "sentence"),
    [
        ("liu2024-table9", {}, "unknown table 'liu2024-table9'; did you mean liu2024-table"),
        ("liu2024-table1", {"scale": "shrot"}, "unknown scale 'shrot'; did you mean short"),
        ("liu2024-table1", {"defence": "at"}, "the rows of a table name the defence"),
        ("liu2024-table1", {"suites": ["standrad"]}, "unknown suite 'standrad'; did you mean standard"),
        ("liu2024-table3", {"black_box": True}, "liu2024-table3 has no black-box figures"),
        ("liu2024-table1", {"epohcs": 3}, "unknown setting 'epohcs'; did you mean epochs"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, table_name, given, sentence):
    with pytest.raises(ValueError, match=r".") as error:
        reproduce(table_name, tmp_path / "t", progress=False, **{"scale": "smoke"} | given)
    assert sentence in str(error.value)
    assert not (tmp_path / "t").exists()
