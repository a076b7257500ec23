"""Sweeps: their points, their table and curve, and that they go on."""

import csv
import io
import json
from xml.etree import ElementTree

import pytest
from tests.report import made

from robustspike.experiment import Experiment, Point, Sweep, parse_over, read_experiment, sweep
from robustspike.experiment.sweep import points_of
from robustspike.report.sweep import placing, sweep_curve
from robustspike.results import rate

TINY = {"train_limit": 64, "test_limit": 10, "time_steps": 2, "epochs": 1, "accelerator": "cpu"}
HOW = {"attacks": ["fgsm", "uniform-noise"], "estimators": ["rga"]}
pytestmark = pytest.mark.usefixtures("one_thread")


def summary(clean, robust, n=100, **by_attack):
    """The figures of an evaluation with so many samples right."""
    found = made.outcome(n=n).summary()
    rates = {name: rate(count, n) for name, count in by_attack.items()}
    return found.model_copy(update={"clean": rate(clean, n), "robust": rate(robust, n), "by_attack": rates})


def found(over, *points):
    """A sweep of (values, summary or error)."""
    return Sweep(
        over=tuple(over),
        title="net",
        points=tuple(
            Point(
                name="_".join(f"{k}={v}" for k, v in values.items()), values=values, folder="",
                summary=None if isinstance(what, str) else what, error=what if isinstance(what, str) else None,
            )
            for values, what in points
        ),
    )  # fmt: skip


# --- points


def test_every_combination_is_a_point_with_a_readable_name():
    points = points_of({"weight": ["0.1", "1e-3"], "seed": ["0", "1"]}, Experiment.of, {"defence": "sr"})
    assert list(points) == ["weight=0.1_seed=0", "weight=0.1_seed=1", "weight=0.001_seed=0", "weight=0.001_seed=1"]
    values, experiment = points["weight=0.001_seed=1"]
    assert values == {"weight": 0.001, "seed": 1}
    assert (experiment.weight, experiment.seed, experiment.defence) == (0.001, 1, "sr")
    assert list(points_of({"train_eps": ["2/255", "0.1"]}, Experiment.of, {})) == ["train_eps=2-255", "train_eps=0.1"]
    assert list(points_of({"flip": ["true", "no"]}, Experiment.of, {})) == ["flip=True", "flip=False"]


def test_settings_go_to_the_defences_that_take_them():
    points = points_of({"defence": ["vanilla", "sr", "tgo"]}, Experiment.of, {"margin": 0.2, "weight": 0.5})
    records = {name: experiment for name, (_, experiment) in points.items()}
    assert (records["defence=vanilla"].weight, records["defence=vanilla"].margin) == (None, None)
    assert (records["defence=sr"].weight, records["defence=sr"].margin) == (0.5, None)
    assert (records["defence=tgo"].weight, records["defence=tgo"].margin) == (0.5, 0.2)
    with pytest.raises(ValueError, match="takes no --mix"):
        points_of({"defence": ["vanilla", "sr"]}, Experiment.of, {"mix": 0.2})


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["weight"], "expected a setting and its values, such as weight=0.01,0.1, got 'weight'"),
        (["weight="], "expected a setting and its values"),
        (["weight=1", "weight=2"], "weight is named twice"),
    ],
)
def test_unfit_texts_are_refused(texts, sentence):
    with pytest.raises(ValueError, match=r".") as error:
        parse_over(texts)
    assert sentence in str(error.value)


def test_texts_are_taken_as_flags_are_written():
    assert parse_over(["--train-eps=2/255, 4/255"]) == {"train_eps": ("2/255", "4/255")}
    assert parse_over(["train_estimators=bptt;bptt,bptr"]) == {"train_estimators": ("bptt", "bptt,bptr")}


@pytest.mark.parametrize(
    ("over", "given", "sentence"),
    [
        ({"wieght": [1]}, {}, "unknown setting 'wieght'; did you mean weight"),
        ({}, {}, "nothing to sweep over"),
        ({"weight": [1]}, {}, "defence vanilla takes no --weight"),
        ({"lr": ["fast"]}, {}, "lr: expected a valid number"),
        ({"data": ["digits", "cifar10"]}, {"model": "vgg5"}, "the data have recipes with different ε (0.15, 8/255)"),
        ({"seed": [0]}, {"suite": "liu2042"}, "unknown suite 'liu2042'; did you mean liu2024"),
        ({"seed": [0]}, {"recipe": "liu2042"}, "unknown recipe 'liu2042'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, over, given, sentence):
    with pytest.raises(ValueError, match=r".") as error:
        sweep(over, tmp_path / "s", progress=False, **given)
    assert sentence in str(error.value)
    assert not (tmp_path / "s").exists()


# --- figures


def test_one_seed_has_intervals():
    points = ({"weight": 0.01}, summary(90, 10, FGSM=30)), ({"weight": 1.0}, summary(80, 20, FGSM=40))
    table = found(["weight"], *points).table()
    assert table.columns == ("weight", "clean", "worst case", "FGSM")
    assert table.rows[0] == ("0.01", str(rate(90, 100)), str(rate(10, 100)), str(rate(30, 100)))
    assert table.rows[1] == ("1", str(rate(80, 100)), str(rate(20, 100)), str(rate(40, 100)))
    assert "under liu2024, Linf ε = 0.1, n = 100, seed 7" in table.title
    assert "[95 % interval]" in table.title


def test_an_attack_that_not_all_networks_have_a_figure_for_is_left_out():
    points = ({"weight": 0.01}, summary(90, 10, FGSM=30)), ({"weight": 1.0}, summary(80, 20))
    assert found(["weight"], *points).table().columns == ("weight", "clean", "worst case")


def test_seeds_are_averaged():
    points = [({"weight": 0.1, "seed": k}, summary(c, r)) for k, (c, r) in enumerate([(90, 10), (80, 30), (94, 20)])]
    points += [({"weight": 0.2, "seed": 0}, summary(50, 40)), ({"weight": 0.2, "seed": 1}, "the loss became nan")]
    table = found(["weight", "seed"], *points).table()
    assert table.columns == ("weight", "seeds", "clean", "worst case")
    assert table.rows[0] == ("0.1", "3", "88.0 ± 7.2", "20.0 ± 10.0")  # sd of 90, 80, 94: √52
    assert table.rows[1] == ("0.2", "1", "50.0", "40.0")
    assert "mean ± standard deviation over seeds" in table.title
    assert "weight=0.2_seed=1 failed: the loss became nan." in table.note


def test_lines_of_several_seeds_have_intervals_of_the_mean():
    points = [({"weight": 0.1, "seed": k}, summary(90, r)) for k, r in enumerate([10, 20, 30])]
    points += [({"weight": 1.0, "seed": 0}, summary(90, 40))]
    field, [(label, x, clean, robust)] = found(["weight", "seed"], *points).lines()
    assert (field, label, x) == ("weight", "", [0.1, 1.0])
    half = 4.30265 * 0.1 / 3**0.5  # t of two degrees of freedom, sd 0.1
    assert (robust[0].value, robust[0].high) == pytest.approx((0.2, 0.2 + half), abs=1e-5)
    assert robust[0].low == 0  # 0.2 − 0.248, cut
    assert robust[1] == rate(40, 100)
    assert (clean[0].low, clean[0].value, clean[0].high) == pytest.approx((0.9, 0.9, 0.9))


def test_lines_are_over_the_first_number_and_one_for_each_rest():
    values = [("vanilla", "2/255"), ("at", "2/255"), ("vanilla", "4/255"), ("at", "4/255")]
    points = [({"defence": d, "train_eps": e}, summary(90, 10 * k)) for k, (d, e) in enumerate(values)]
    field, lines = found(["defence", "train_eps"], *points).lines()
    assert field == "train_eps"
    assert [line[0] for line in lines] == ["defence vanilla", "defence at"]
    assert lines[0][1] == [2 / 255, 4 / 255]
    assert [r.value for r in lines[1][3]] == [0.1, 0.3]
    assert found(["defence"], *[({"defence": d}, summary(9, 1)) for d in ("at", "sr")]).lines() == ("", [])
    assert found(["weight"], ({"weight": 1.0}, summary(9, 1))).lines() == ("", [])


def test_the_csv_has_a_line_for_each_point():
    text = found(["weight"], ({"weight": 0.1}, summary(90, 10, FGSM=30)), ({"weight": 1.0}, "it broke, badly")).csv()
    one, other = csv.DictReader(io.StringIO(text))
    assert (float(one["weight"]), float(one["clean"]), float(one["worst case"])) == (0.1, 0.9, 0.1)
    assert (float(one["FGSM low"]), one["suite"], one["n"]) == (rate(30, 100).low, "liu2024", "100")
    assert (other["clean"], other["failed of"], other["weight"]) == ("", "it broke, badly", "1.0")


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([0.001, 0.01, 0.1], [-3, -2, -1]),
        ([0, 0.001, 0.1], [-5, -3, -1]),
        ([1, 2, 5], [1, 2, 5]),
        ([0, 2, 8], [0, 2, 8]),
        ([-1, 1, 100], [-1, 1, 100]),
    ],
)
def test_decades_are_logarithmic(values, places):
    assert [placing(values)(x) for x in values] == pytest.approx(places)


def test_the_curve_names_its_lines_its_values_and_what_it_was_measured_under():
    lines = [("at", [0.01, 1.0], [rate(9, 10)] * 2, [rate(1, 10), rate(5, 10)]),
             ("sr", [0.01, 1.0], [rate(8, 10)] * 2, [rate(2, 10), rate(7, 10)])]  # fmt: skip
    root = ElementTree.fromstring(sweep_curve("weight", lines, "under liu2024, n = 10, seed 0"))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    for text in (
        "at, clean",
        "at, worst case",
        "sr, worst case",
        "weight",
        "0.01",
        "1",
        "under liu2024, n = 10, seed 0",
    ):
        assert text in texts
    assert "at, worst case: 10.0 % at weight = 0.01, then 50.0 % at weight = 1" in root.attrib["aria-label"]


# --- the whole way


def test_a_sweep_trains_attacks_and_goes_on(tmp_path):
    over = {"train_limit": ["64", "80"]}
    tiny = {name: value for name, value in TINY.items() if name != "train_limit"}
    made_once = sweep(over, tmp_path, suite="standard", evaluation=HOW, progress=False, **tiny)
    assert [point.name for point in made_once.points] == ["train_limit=64", "train_limit=80"]
    assert read_experiment(tmp_path / "train_limit=80").train_limit == 80
    assert made_once.table().columns == ("train_limit", "clean", "worst case", "FGSM", "uniform noise")
    assert Sweep.model_validate_json((tmp_path / "sweep.json").read_text()) == made_once
    assert (tmp_path / "sweep.md").read_text().startswith("**digits-cnn with vanilla on digits: accuracy in %")
    assert (tmp_path / "sweep.svg").read_text().startswith("<svg")
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    over["train_limit"].append("9999999")
    more = sweep(over, tmp_path, suite="standard", evaluation=HOW, progress=False, **tiny)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert more.points[:2] == made_once.points
    (failed,) = more.failed
    assert failed.name == "train_limit=9999999"
    assert "train_limit: expected 1 to 1258" in failed.error
    assert len(json.loads((tmp_path / "sweep.json").read_text())["points"]) == 3
    sweep({"train_limit": ["64"]}, tmp_path, suite="standard", evaluation=HOW, progress=False, **tiny)
    assert not (tmp_path / "sweep.svg").exists()  # one number is no curve, and that of before is another sweep's


def test_a_sweep_starts_from_a_published_row(tmp_path):
    found = sweep(
        {"weight": [0.1, 0.5]}, tmp_path, recipe="liu2024-cifar10-vgg11-sr", scale="smoke", evaluation=HOW,
        progress=False, **TINY,
    )  # fmt: skip
    assert not found.failed
    record = read_experiment(tmp_path / "weight=0.5")
    assert (record.data, record.defence, record.model, record.weight) == ("digits", "sr", "digits-cnn", 0.5)
