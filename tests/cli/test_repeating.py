"""Sweeps, published tables and published rows on the command line."""

import sys

import pytest
from tests.cli.commands import QUIET, SMALL, refused

from robustspike.data import DataError
from robustspike.experiment import Reproduction, Sweep, read_experiment

FGSM = ["--attack", "fgsm", "--estimator", "rga"]
TOY = ["--scale", "smoke", "--train-limit", "64", "--time-steps", "2", "--epochs", "1", "--train-steps", "1", *QUIET]


def test_a_sweep_prints_its_table_and_says_where_the_figures_are(cli, tmp_path):
    flags = [*FGSM, "--over", "lr=0.01,0.1", "--over", "seed=0,1", "--out", tmp_path, *SMALL, *QUIET]
    code, out, _ = cli("sweep", *flags)
    assert code == 0
    words = " ".join(out.split())
    assert "mean ± standard deviation over seeds under FGSM rga, Linf ε = 0.15, n = 16, seed 0" in words
    assert "lr=0.01_seed=0: done" in out
    for name in ("sweep.json", "sweep.md", "sweep.csv", "sweep.svg"):
        assert (tmp_path / name).is_file()
        assert str(tmp_path / name) in out
    found = Sweep.model_validate_json((tmp_path / "sweep.json").read_text())
    for row in found.table().rows:
        assert " ".join(row) in words
    assert (tmp_path / "sweep.csv").read_text().count("\n") == 5


def test_a_point_that_fails_loses_no_other_and_makes_the_exit_code_1(cli, tmp_path):
    flags = ["sweep", *FGSM, "--over", "test_limit=16,99999", "--out", tmp_path, *SMALL[:2], *SMALL[4:], *QUIET]
    result = cli(*flags)
    refused(result, "1 of 2 runs failed: test_limit=99999", "run the command again")
    assert "test_limit=16: done" in result[1]
    assert "test_limit=99999: failed: " in result[1]
    assert "accuracy in %" in result[1]


def test_a_sweep_from_a_file_and_a_published_row(cli, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "over: [weight=0.1, 'h=0.01,0.02']\nrecipe: liu2024-cifar10-vgg11-sr\nscale: smoke\nattack: fgsm\n"
        "train-limit: 64\ntime-steps: 2\nepochs: 1\nlimit: 10\naccelerator: cpu\nprogress: false\n"
    )
    code, out, err = cli("sweep", "--config", config, "--out", tmp_path / "s")
    assert (code, err) == (0, "")
    assert "n = 10" in out
    record = read_experiment(tmp_path / "s" / "weight=0.1_h=0.02")
    assert (record.defence, record.data, record.h) == ("sr", "digits", 0.02)


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ([], ["nothing to sweep over"]),
        (["--over", "wieght=1"], ["unknown setting 'wieght'; did you mean weight"]),
        (["--over", "weight"], ["--over: expected a setting and its values"]),
        (["--over", "seed=1", "--margin", "0.5"], ["takes no --margin", "tgo"]),
        (["--over", "seed=1", "--suite", "liu2042"], ["unknown suite 'liu2042'; did you mean liu2024"]),
        (["--over", "seed=1", "--scale", "short"], ["--scale short belongs to a published row"]),
        (["--over", "seed=1", "--steps", "ten"], ["--steps: expected whole numbers"]),
    ],
)
def test_a_sweep_that_cannot_be(cli, tmp_path, flags, texts):
    refused(cli("sweep", *flags, "--out", tmp_path / "s"), *texts)
    assert not (tmp_path / "s").exists()


def test_a_table_is_printed_beside_the_published_one(cli, tmp_path):
    code, out, _ = cli("reproduce", "ding2022-table-a1", "--out", tmp_path, "--limit", 6, "--suites", "none", *TOY)
    assert code == 0
    words = " ".join(out.split())
    for text in (
        "row published ours difference",
        " clean 73.33 ",
        " FGSM 25.86 ",
        " PGD-7 10.38 ",
        "n = 6, seed 0",
        "NOT the paper's settings",
    ):
        assert text in words
    lines = out[out.index("Settings that differ from the paper's:") :].splitlines()
    assert "  epochs: 1 (paper: 200)" in lines
    assert "  test images: 6 (paper: 10000)" in lines
    assert f"Pages: {tmp_path / 'report.html'}" in out
    found = Reproduction.model_validate_json((tmp_path / "results.json").read_text())
    assert len(found.made) == 2


def test_rows_without_data_are_named(cli, tmp_path, monkeypatch):
    def none(experiment):
        raise DataError(f"{experiment.data}: no archive")

    monkeypatch.setattr(sys.modules["robustspike.experiment.reproduce"], "load_data", none)
    result = cli("reproduce", "ding2022-table-a1", "--out", tmp_path, "--suites", "none")
    refused(result, "2 of 2 runs failed")
    assert "liu2024-cifar100-vgg11-vanilla, liu2024-cifar100-vgg11-rat: cifar100: no archive\n" in result[1]
    assert "the others" not in result[2]
    assert "Pages" not in result[1]


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        (["liu2024-table2"], ["unknown table 'liu2024-table2'; did you mean liu2024-table"]),
        (["liu2024-table1", "--scale", "tiny"], ["unknown scale 'tiny'; ", "smoke, short, paper"]),
        (["liu2024-table1", "--suites", "standard,liu2042"], ["unknown suite 'liu2042'"]),
        (["liu2024-table1", "--defence", "at"], ["the rows of a table name the defence"]),
        (["liu2024-table1", "--margin", "1"], ["takes no --margin"]),
    ],
)
def test_a_table_that_cannot_be(cli, tmp_path, flags, texts):
    refused(cli("reproduce", *flags, "--out", tmp_path / "t"), *texts)
    assert not (tmp_path / "t").exists()


def test_a_published_row_is_trained_at_a_scale(cli, tmp_path):
    argv = ["train", "--recipe", "liu2024-cifar10-vgg11-sr-star", "--out", tmp_path / "r", *TOY]
    code, out, _ = cli(*argv)
    assert code == 0
    record = read_experiment(tmp_path / "r")
    assert (record.data, record.model, record.defence, record.epochs) == ("digits", "digits-cnn", "sr-star", 1)
    assert ", under FGSM at ε = 0.15 " in out
    assert "for 1 epoch: " in out
    assert "n = 6, seed 0)" in out  # a tenth of 64 images
    refused(cli(*argv), "holds a training run already")
    assert cli("train", "--out", tmp_path / "r", "--resume", "--no-progress")[0] == 0
    assert cli(*argv, "--resume", "--save-every", "7")[0] == 0  # changes nothing that is trained
    other = ["train", "--recipe", "liu2024-cifar10-vgg11-at", "--out", tmp_path / "r", *TOY, "--resume"]
    refused(cli(*other), "holds a run with defence sr-star (not at)")
    refused(cli("train", "--out", tmp_path / "r", "--resume", "--scale", "short"), "belongs to a published row")
    refused(
        cli("train", "--recipe", "liu2042-cifar10"), "unknown recipe 'liu2042-cifar10'; did you mean liu2024-cifar10-"
    )
    refused(cli("train", "--scale", "short"), "--scale short belongs to a published row; name one with --recipe")


def test_new_settings_are_flags(cli, tmp_path):
    flags = ["--defence", "at+sr:0.1", "--train-attack", "fgsm", "--train-estimators", "bptt,rga", "--ema", "0.9"]
    flags += ["--neuron", "dlif", "--label-smoothing", "0.1", "--clip-norm", "1", "--augmentation", "cutout"]
    flags += ["--validation-attack", "none", "--weight-schedule", "linear", "--warmup-epochs", "0.5"]
    code, out, _ = cli("train", *flags, "--out", tmp_path / "r", *SMALL, *QUIET)
    assert code == 0
    assert "under" not in out.split("robustspike")[0]
    record = read_experiment(tmp_path / "r")
    assert (record.defence, record.train_estimators, record.ema, record.neuron) == (
        "at+sr:0.1",
        "bptt,rga",
        0.9,
        "dlif",
    )
    refused(cli("train", "--margin", "0.5", "--out", tmp_path / "s"), "defence vanilla takes no --margin", "tgo")
