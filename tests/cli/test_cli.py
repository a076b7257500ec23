"""The command line: precedence, listings, one sentence for bad input, resuming after a kill."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.cli.commands import PLAIN, QUIET, SMALL, refused

from robustspike import processes
from robustspike.checkpoints import fingerprint, load_model, save_model
from robustspike.cli import SECTIONS, app, main
from robustspike.defences import CrossEntropy
from robustspike.experiment import Experiment, read_experiment
from robustspike.models import digits_cnn
from robustspike.results import Budget, Comparison, Doubts, Finding, load_outcome, mcnemar, read_rows
from robustspike.train.run import Run

ROOT = Path(__file__).parents[2]


# --- the whole way


def test_train_attack_report(cli, run, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(run, folder)
    code, out, _ = cli("attack", folder, "--suite", "ding2022", "--eps", "0.1", *PLAIN)
    assert code == 0
    for text in ("FGSM", "PGD-7", "Gaussian noise", "BPTR", "worst case", "per sample", "ding2022-Linf-0.1"):
        assert text in out
    assert "masking checks not run" in " ".join(out.split())
    code, out, _ = cli(
        "attack", folder, "--attack", "pgd", "--estimator", "rga", "--steps", "2,3", "--eps", "0.1", *PLAIN
    )
    assert code == 0
    assert "PGD-2" in out
    assert "PGD-3" in out
    code, out, _ = cli("report", tmp_path, "--out", tmp_path / "page" / "r.html")
    assert code == 0
    assert "SR*" in out
    assert re.search(r"Also evaluated, not in this table: PGD-2-PGD-3-rga-[0-9a-f]{6}-Linf-0\.1\.", out)
    assert "<html" in (tmp_path / "page" / "r.html").read_text()
    found = Comparison.model_validate_json((tmp_path / "page" / "r.json").read_text())
    assert len(found.networks) == 1


def test_the_recipe_gives_the_radius(cli, run, tmp_path):
    code, _, _ = cli("attack", run, "--limit", 4, "--attack", "fgsm", "--out", tmp_path / "e", *PLAIN)
    assert code == 0
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["eps"] == 0.15


def test_demo(cli, tmp_path):
    code, out, _ = cli("demo", "--quick", "--out", tmp_path, "--no-progress")
    assert code == 0
    assert "came out" in out or "NOT come out" in out
    assert (tmp_path / "results.json").is_file()
    assert (tmp_path / "report.html").is_file()


def test_out_has_a_speaking_default(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("train", "--seed", "2", *SMALL, *QUIET)[0] == 0
    assert (tmp_path / "runs" / "digits-digits-cnn-vanilla-seed2" / "weights.safetensors").is_file()


FGSM = ["--attack", "fgsm", "--eps", "0.1", *PLAIN]


def evaluated(folder):
    """The header in a folder."""
    return json.loads((folder / "evaluation.json").read_text())


def test_the_default_is_the_projects_own_suite(cli, run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("robustspike.cli.attacking.make_suite", lambda *given, **_: asked.append(given))
    monkeypatch.setattr("robustspike.cli.attacking.evaluation_name", lambda *_: "name")
    monkeypatch.setattr("robustspike.cli.attacking.attack_run", lambda *_, **options: attacked.update(options))
    monkeypatch.setattr("robustspike.cli.attacking.tell", lambda _: sys.exit(0))
    attacked = {}
    assert cli("attack", run, "--budget", "2000,2h")[0] == 0
    assert asked[0] == ("0.15", "standard")
    assert (attacked["doubts"], attacked["budget"]) == (32, Budget(gradients=2000, minutes=120))


def test_flags_reach_the_members(cli, run, tmp_path):
    flags = ["--norm", "L2", "--eps", "0.5", "--limit", 2, *PLAIN, "--out"]
    assert (
        cli(
            "attack",
            run,
            "--suite",
            "autoattack",
            "--steps",
            2,
            "--queries",
            3,
            "--estimator",
            "rga",
            *flags,
            tmp_path / "a",
        )[0]
        == 0
    )
    header = evaluated(tmp_path / "a")
    assert (header["suite"], header["norm"], header["n"]) == ("autoattack", "L2", 2)
    assert ["estimator=RGA" in m["settings"] for m in header["members"]] == [True, True, True, False]
    assert "queries=3" in header["members"][3]["settings"]
    single = [
        "--attack",
        "apgd",
        "--attack",
        "square",
        "--loss",
        "margin",
        "--targets",
        2,
        "--queries",
        3,
        "--steps",
        2,
    ]
    assert cli("attack", run, *single, *flags, tmp_path / "b")[0] == 0
    apgd, square = (m["settings"] for m in evaluated(tmp_path / "b")["members"])
    assert all(text in apgd for text in ("steps=2", "loss=margin", "targets=2"))
    assert all(text in square for text in ("loss=margin", "queries=3"))


def test_several_radii_are_several_evaluations_and_a_curve(cli, run, tmp_path):
    code, out, _ = cli("attack", run, "--attack", "fgsm", "--eps", "0.1, 51/255,0.1", "--out", tmp_path / "e", *PLAIN)
    assert code == 0
    folders = sorted((tmp_path / "e").iterdir(), key=lambda folder: evaluated(folder)["eps"])
    assert [evaluated(folder)["eps"] for folder in folders] == [0.1, 0.2]
    assert all(str(folder) in out for folder in folders)
    curve = out[out.index("worst case per sample in % [95 % interval] against Linf ε") :]
    assert "under FGSM bptt, n = 16, seed 0" in " ".join(curve.split())
    summary = load_outcome(folders[1]).summary()
    for eps, figure in (("0", summary.clean), ("0.2", summary.robust)):
        assert f"{eps} {figure}" in " ".join(curve.split())


def test_several_steps_are_a_table(cli, run, tmp_path):
    flags = ["--attack", "pgd", "--estimator", "rga", "--estimator", "bptt", "--steps", "1,3,9", "--eps", "0.1", *PLAIN]
    code, out, _ = cli("attack", run, *flags, "--each", "--out", tmp_path / "e")
    assert code == 0
    table = out[out.index("against the attack's steps under PGD-1+PGD-3+PGD-9") :]
    assert "n = 16, seed 0" in " ".join(table.split())
    curve = load_outcome(tmp_path / "e").against_steps()
    assert curve.steps == (1, 3, 9)
    for row in curve.rows:
        assert f"{row.estimator} {' '.join(map(str, row.accuracy))}" in " ".join(table.split())


def test_transfer_from_a_twin_and_another_run(cli, run, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(run, folder)
    argv = ["attack", folder, *FGSM, "--transfer-from", "twin", "--transfer-from", "relu", "--transfer-from", run]
    code, out, _ = cli(*argv, "--out", tmp_path / "e")
    assert code == 0
    assert (folder / "stand-ins" / "twin.safetensors").is_file()
    kinds = [(m["attack"], m["kind"]) for m in evaluated(tmp_path / "e")["members"]]
    assert kinds[0] == ("FGSM", "one-step")
    assert [kind for _, kind in kinds[1:]] == ["black-box"] * 3
    assert f"Transferred from, in this order: twin, relu, {run}." in out
    before = (folder / "stand-ins" / "twin.safetensors").stat().st_mtime_ns
    assert cli(*argv, "--out", tmp_path / "f")[0] == 0
    assert (folder / "stand-ins" / "twin.safetensors").stat().st_mtime_ns == before


def test_a_budget_that_is_hit_is_said(cli, run, tmp_path):
    flags = ["--attack", "pgd", "--attack", "fgsm", "--steps", "3", "--eps", "0.01", "--batch-size", "4", *PLAIN]
    code, out, _ = cli("attack", run, *flags, "--budget", "2", "--out", tmp_path / "a")
    assert code == 0
    assert evaluated(tmp_path / "a")["budget"] == 2
    assert "Budget of 2 gradient evaluations and queries per sample hit" in " ".join(out.split())
    code, out, _ = cli("attack", run, *flags, "--budget", "0.001s", "--out", tmp_path / "b")
    assert code == 0
    assert "Time budget hit: 4 of 16 samples evaluated" in " ".join(out.split())
    assert "Go on with --resume." in out
    code, out, _ = cli("attack", run, *flags, "--resume", "--out", tmp_path / "b")
    assert code == 0
    assert "Next: robustspike report" in out


def found(*passed):
    """Doubts of which these checks passed."""
    findings = [
        Finding(
            check=f"check {k}", passed=p, evidence=f"evidence {k}.", remedy=f"Do {k}.", page=f"docs/doubts/p.md#{k}"
        )
        for k, p in enumerate(passed)
    ]
    return Doubts(findings=tuple(findings), checklist=None, samples=3, seed=0, gradients=1, seconds=1)


def test_failed_findings_come_with_what_to_do(cli, run, tmp_path, monkeypatch):
    def doubts(*_, samples, seed):
        asked.append((samples, seed))
        return found(True, False, None)

    asked = []
    monkeypatch.setattr("robustspike.doubts.doubts", doubts)
    code, out, _ = cli("attack", run, *FGSM, "--doubts", "3", "--seed", "5", "--out", tmp_path / "e")
    assert (code, asked) == (0, [(3, 5)])
    lines = out.splitlines()
    [at] = [k for k, line in enumerate(lines) if line.startswith("✗")]
    assert lines[at] == "✗ check 1: evidence 1. Do 1. See docs/doubts/p.md#1."
    assert lines[at + 1] == (
        "1 of 2 masking checks passed, 1 not applicable (3 samples probed, seed 0, 1 gradient evaluations, 1 s)."
    )


def test_what_broke_what_is_told(cli, run, tmp_path, trained):
    able = tmp_path / "able"
    shutil.copytree(run, able)
    save_model(trained.model, able / "weights.safetensors")
    outcomes = [tmp_path / name for name in ("few", "each")]
    flags = ["--attack", "pgd", "--attack", "fgsm", "--estimator", "rga", "--estimator", "bptt", "--eps", "0.3", *PLAIN]
    _, few, _ = cli("attack", able, *flags, "--out", outcomes[0])
    _, each, _ = cli("attack", able, *flags, "--each", "--out", outcomes[1])
    breaks = load_outcome(outcomes[0]).breaks()
    assert breaks.standing < 16 - breaks.misclassified
    assert f"First breaks, of 16 samples: {breaks.misclassified} misclassified" in few
    by_estimator = "digits-cnn SR*: accuracy in % [95 % interval] under"
    assert by_estimator not in few  # every other cell would be a dot
    assert by_estimator in each
    _, one, _ = cli("attack", able, *FGSM, "--each", "--out", tmp_path / "one")
    assert by_estimator not in one  # it would repeat the first table


# --- compare


def test_two_evaluations_are_compared_sample_by_sample(cli, run, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "attacks", ignore_errors=True)
    folders = [tmp_path / name for name in ("weak", "strong")]
    for eps, out in zip(("0.01", "0.5"), folders, strict=True):
        assert cli("attack", folder, "--attack", "fgsm", "--eps", eps, "--out", out, *PLAIN)[0] == 0
    expected = mcnemar(*map(load_outcome, folders))
    code, out, _ = cli("compare", *folders)
    assert code == 0
    assert str(expected) in out.splitlines()
    assert "First: digits-cnn SR*, digits test, FGSM bptt, Linf ε = 0.01, n = 16, seed 0" in out
    words = " ".join(out.split())
    assert f"robust in the first {expected.both} {expected.only_a}" in words
    refused(cli("compare", folder, folder), "no evaluation in", "robustspike attack")
    assert cli("attack", folder, "--attack", "fgsm", "--eps", "0.1", *PLAIN)[0] == 0
    (name,) = (path.name for path in (folder / "attacks").iterdir())
    assert "p = 1 " in cli("compare", folder, folder, "--evaluation", name)[1]
    refused(cli("compare", folder, folder, "--evaluation", "fgsm"), "has no evaluation 'fgsm'", name)
    refused(cli("compare", folder, tmp_path / "nowhere"), "no run at", "nowhere")
    assert (
        cli("attack", folder, "--limit", "8", "--attack", "fgsm", "--eps", "0.1", "--out", tmp_path / "other", *PLAIN)[
            0
        ]
        == 0
    )
    refused(cli("compare", folders[0], tmp_path / "other"), "samples, labels, data_fingerprint differ")


# --- several processes


def torchrun(*argv):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command += ["-m", "robustspike.cli", *map(str, argv)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_prints(cli, run, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(run, folder)
    argv = ["attack", folder, *FGSM, "--batch-size", "4", "--transfer-from", "twin", "--out"]
    done = torchrun(*argv, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Every sample's outcome is in") == 1
    assert done.stdout.count("First breaks") <= 1
    assert cli(*argv, tmp_path / "one")[0] == 0
    assert without_seconds(tmp_path / "two") == without_seconds(tmp_path / "one")
    refusal = torchrun(*argv, tmp_path / "two")
    assert refusal.returncode != 0
    assert refusal.stdout == ""
    assert refusal.stderr.count("robustspike: ") == 1
    assert "holds an evaluation already" in refusal.stderr


def test_the_first_process_to_fail_tells_why(monkeypatch):
    counts = Counter()

    def add(key, amount):
        counts[key] += amount
        return counts[key]

    def nowhere():
        raise RuntimeError("no store")

    assert processes.first_to_fail()
    assert processes.speaks()
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(processes, "_meeting_point", lambda: (SimpleNamespace(add=add), 1, 2))
    assert not processes.speaks()
    assert [processes.first_to_fail() for _ in range(3)] == [True, False, False]
    monkeypatch.setattr(processes, "_meeting_point", nowhere)
    assert processes.first_to_fail()


def test_what_follows_from_another_process_failure_is_not_told(cli, monkeypatch):
    monkeypatch.setattr("robustspike.cli.sentences.first_to_fail", lambda: False)
    assert cli("list", "attack") == (1, "", "")
    monkeypatch.setattr("robustspike.cli.reading.first_line", lambda thing: {}["connection closed"])
    code, _, err = cli("list")
    assert (code, err) == (1, "")


def test_only_one_process_prints(cli, monkeypatch):
    monkeypatch.setattr("robustspike.cli.sentences.speaks", lambda: False)
    assert cli("list") == (0, "", "")


# --- help and list


@pytest.mark.parametrize("command", ["", "train", "attack", "sweep", "reproduce", "compare", "demo", "list", "report"])
def test_help_teaches(cli, command):
    code, out, err = cli(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert "robustspike" in out
    if command:
        assert f"robustspike {command} " in out
        assert "Example" in out
        assert "--config" in out


def test_without_arguments_there_is_help(cli):
    code, out, _ = cli()
    assert code == 0
    assert "demo" in out


def test_every_field_of_a_record_is_a_flag(cli):
    _, out, _ = cli("train", "--help")
    assert {f"--{name.replace('_', '-')}" for name in Experiment.model_fields} <= set(re.findall(r"--[a-z-]+", out))


@pytest.mark.parametrize("section", SECTIONS)
def test_list_has_every_name_with_a_line(cli, section):
    code, out, _ = cli("list", section)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == section
    assert [line.split()[0] for line in lines[1:]] == list(SECTIONS[section])
    assert all(len(line.split()) > 2 for line in lines[1:])


def test_list_alone_lists_everything(cli):
    _, out, _ = cli("list")
    assert [line for line in out.splitlines() if not line.startswith(" ")] == list(SECTIONS)


# --- config files


def test_flags_win_over_the_config_and_the_config_over_the_recipe(cli, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "defence: sr\nlr: 2e-3\nflip: true\nbatch-size: 16\ntrain_limit: 64\ntime_steps: 2\nepochs: 3\n"
        f"accelerator: cpu\nprogress: false\nmomentum: 0\nweight_decay:\nout: {tmp_path / 'run'}\n"
    )
    assert cli("train", "--config", config, "--epochs", "1", "--momentum", "0.5")[0] == 0
    made = read_experiment(tmp_path / "run")
    assert (made.epochs, made.momentum) == (1, 0.5)  # flags
    assert (made.defence, made.lr, made.flip, made.batch_size) == ("sr", 0.002, True, 16)  # config
    assert (made.model, made.weight, made.schedule) == ("digits-cnn", 0.3, "one-cycle")  # recipe


def test_a_config_for_attacks(cli, run, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "attack: [pgd]\nestimator: rga\nsteps: [2, 3]\neps: 8/255\nlimit: 4\naccelerator: cpu\ndoubts: 0\n"
    )
    code, _, err = cli("attack", run, "--config", config, "--out", tmp_path / "e", "--no-progress")
    assert (code, err) == (0, "")
    header = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert [(m["attack"], m["estimator"]) for m in header["members"]] == [(f"PGD-{n}", "RGA") for n in (2, 3)]
    assert header["eps"] == 8 / 255


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("epohcs: 3", ["unknown key 'epohcs'", "did you mean epochs"]),
        ("epochs: many", ["c.yaml: epochs", "'many'"]),
        ("epochs: 1.5", ["c.yaml: epochs", "1.5"]),
        ("flip: perhaps", ["c.yaml: flip", "'perhaps'"]),
        ("lr: {a: 1}", ["c.yaml: lr: expected a value"]),
        ("lr: [", ["c.yaml", "no valid YAML"]),
        ("- lr", ["c.yaml", "expected one `name: value` per line, got a list"]),
    ],
)
def test_an_unfit_config(cli, tmp_path, text, texts):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    refused(cli("train", "--config", config, "--out", tmp_path / "run"), *texts)
    assert not (tmp_path / "run").exists()


def test_a_missing_config(cli, tmp_path):
    refused(cli("train", "--config", tmp_path / "c.yaml"), "no file", "c.yaml")


# --- bad input


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        (["--model", "vgg12"], ["unknown model 'vgg12'; did you mean vgg11", "wrn16"]),
        (["--defence", "srstar"], ["unknown defence 'srstar'; did you mean sr-star", "vanilla"]),
        (["--surrogate", "archtan"], ["unknown surrogate 'archtan'; did you mean arctan"]),
        (["--data", "digit"], ["Unknown data 'digit'", "did you mean digits"]),
        (["--train-eps", "8"], ["eps=8 is larger than the pixel range", '"8/255"']),
        (["--test-limit", "0"], ["test_limit: expected greater than or equal to 1, got 0"]),
        (["--train-limit", "100000"], ["train_limit: expected 1 to 1258", "100000"]),
        (["--accelerator", "abacus"], ["accelerator 'abacus' cannot be used here"]),
        (["--precision", "3-bit"], ["recision", "3-bit"]),
        (["--encoder", "frames"], ["takes inputs [N, 8, 1, 8, 8]"]),
    ],
)
def test_training_that_cannot_be(cli, tmp_path, flags, texts):
    refused(cli("train", *flags, "--out", tmp_path / "run", "--no-progress"), *texts)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        (["--eps", "8"], ["eps=8 is larger than the pixel range [0, 1]", 'did you mean "8/255"']),
        (["--eps", "much"], ['eps must be a number or a fraction like "8/255"', "'much'"]),
        (["--eps", "0.1,9"], ["eps=9 is larger than the pixel range [0, 1]"]),
        (["--loss", "hinge", "--attack", "pgd"], ["unknown loss 'hinge'", "ce, dlr, margin"]),
        (["--suite", "ding2022", "--steps", "10"], ["suite 'ding2022' takes no --steps"]),
        (["--suite", "assg", "--steps", "10,20"], ["suite 'assg' takes one --steps, got 2"]),
        (["--norm", "L2"], ["--norm L2 needs --eps"]),
        (["--suite", "assg", "--attack", "pgd"], ["--suite assg and --attack pgd exclude each other"]),
        (["--suite", "luu2025", "--norm", "L2", "--eps", "1"], ["EncodedPGD needs an Linf ball", "use PGD for pixels"]),
        (["--norm", "L3", "--eps", "1"], ["unknown norm 'L3'", "Linf, L2"]),
        (["--budget", "much"], ['budget: expected gradient evaluations per sample such as "2000"', "'much'"]),
        (["--transfer-from", "twins"], ["nothing to transfer from at 'twins'", "did you mean twin"]),
        (["--suite", "ding2022", "--transfer-from", "twin"], ["suite 'ding2022' takes no --transfer-from"]),
        (["--attack", "square", "--targets", "3"], ["attack 'square' takes no --targets"]),
        (["--suite", "liu2042"], ["unknown suite 'liu2042'; did you mean liu2024"]),
        (["--attack", "pdg"], ["unknown attack 'pdg'; did you mean pgd", "fgsm"]),
        (["--attack", "pgd", "--estimator", "brga"], ["unknown estimator 'brga'; did you mean rga", "cba"]),
        (["--attack", "pgd", "--estimator", "bptt:arctang"], ["unknown surrogate 'arctang'; did you mean arctan"]),
        (["--suite", "liu2024", "--estimator", "rga"], ["suite 'liu2024' takes no --estimator: it fixes that itself"]),
        (["--steps", "ten"], ["--steps: expected whole numbers", "'ten'"]),
        (["--split", "train"], ['split must be "test" or "validation"']),
        (["--limit", "10000"], ["test_limit: expected 1 to 539"]),
        (["--data", "nowhere.npz"], ["nowhere.npz: expected an .npz file, got no such file"]),
    ],
)
def test_attacks_that_cannot_be(cli, run, tmp_path, flags, texts):
    refused(cli("attack", run, *flags, "--out", tmp_path / "e", *QUIET), *texts)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["trian"], ["trian"]),
        (["train", "--modle", "vgg5"], ["--modle", "robustspike train --help"]),
        (["train", "--epochs", "many"], ["--epochs", "valid integer"]),
        (["attack"], ["RUN", "attack --help"]),
    ],
)
def test_misuse_exits_with_2(cli, argv, texts):
    code, _, err = cli(*argv)
    assert code == 2
    assert err.count("\n") == 1
    for text in texts:
        assert text.lower() in err.lower()


def test_unknown_section(cli):
    refused(cli("list", "attack"), "nothing called 'attack' to list; did you mean attacks")


def npz(path, channels=1, labels=10, n=40):
    draw = np.random.default_rng(0)
    images, numbers = draw.integers(0, 255, (n, 8, 8, channels), dtype=np.uint8), np.arange(n) % max(labels, 1)
    np.savez(path, train_images=images, train_labels=numbers, test_images=images, test_labels=numbers)
    return path


def test_data_that_does_not_fit_the_network(cli, run, tmp_path):
    def attacked(path):
        return cli("attack", edited, "--data", path, "--eps", "0.1", "--out", tmp_path / "e", *PLAIN)

    edited = tmp_path / "run"  # without limits
    shutil.copytree(run, edited)
    record = edited / "experiment.yaml"
    record.write_text(re.sub(r"(train_limit|test_limit): \d+", r"\1:", record.read_text()))
    refused(attacked(npz(tmp_path / "rgb.npz", channels=3)), "takes inputs [N, 1, 8, 8], got [1, 3, 8, 8]")
    refused(attacked(npz(tmp_path / "many.npz", labels=12)), "labels go up to 11", "only 10 classes")
    refused(attacked(npz(tmp_path / "none.npz", n=0)), "0 images")


def test_labels_out_of_range(cli, tmp_path):
    images = np.zeros((40, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(40) % 4 - 1
    np.savez(tmp_path / "d.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    refused(cli("train", "--data", tmp_path / "d.npz", "--out", tmp_path / "r"), "expected labels from 0, got -1")


def test_a_run_that_is_missing_truncated_or_foreign(cli, run, tmp_path):
    def attacked(folder):
        return cli("attack", folder, "--eps", "0.1", *PLAIN)

    refused(attacked(tmp_path / "nowhere"), "no run at", "nowhere", "robustspike train")
    refused(attacked(tmp_path), "experiment.yaml is missing")
    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    weights = broken / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(attacked(broken), "weights.safetensors is no readable safetensors file", "truncated")
    weights.write_bytes(b"PK\x03\x04 a pickle from elsewhere")
    refused(attacked(broken), "weights.safetensors is no readable safetensors file")
    weights.unlink()
    refused(attacked(broken), "no checkpoint at", "weights.safetensors")
    (broken / "experiment.yaml").write_text("data: digits\nwings: 2\n")
    refused(attacked(broken), "experiment.yaml: unknown setting 'wings'")


def test_a_network_other_than_the_record_says(cli, run, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    save_model(digits_cnn(time_steps=2, in_channels=3), other / "weights.safetensors")
    refused(cli("attack", other, "--eps", "0.1", *QUIET), "takes inputs [N, 3, 8, 8], got [1, 1, 8, 8]")


def test_a_folder_in_use_needs_resume(cli, run, tmp_path):
    before = (run / "weights.safetensors").read_bytes()
    again = ["train", "--defence", "sr-star", "--out", run, *SMALL, *QUIET]
    refused(cli(*again), "holds a training run already", "--resume", "--out")
    refused(cli(*again, "--resume", "--lr", "0.5"), "holds a run with lr 0.1 (not 0.5)")
    assert cli(*again, "--resume")[0] == 0
    assert cli("train", "--out", run, "--resume", "--no-progress")[0] == 0  # settings come from the record
    assert (run / "weights.safetensors").read_bytes() == before
    attack = ["attack", run, "--attack", "fgsm", "--out", tmp_path / "e", "--eps", "0.1", *PLAIN]
    assert cli(*attack)[0] == 0
    refused(cli(*attack), "--resume")
    assert cli(*attack, "--resume")[0] == 0
    refused(cli(*attack, "--resume", "--seed", "1"), "holds another evaluation: seed differ")


def test_reports_say_what_is_missing(cli, run, tmp_path):
    refused(cli("report", tmp_path / "nowhere"), "no such folder")
    bare = tmp_path / "run"
    shutil.copytree(run, bare)
    shutil.rmtree(bare / "attacks", ignore_errors=True)
    refused(cli("report", bare), "no evaluation in", "robustspike attack")


def test_nan_in_the_loss_names_the_last_good_checkpoint(cli, tmp_path, monkeypatch):
    loss, calls = CrossEntropy.__call__, []

    def poisoned(self, batch):
        calls.append(1)
        return loss(self, batch) * (float("nan") if len(calls) > 1 else 1)

    monkeypatch.setattr(CrossEntropy, "__call__", poisoned)
    argv = ["train", "--out", tmp_path / "r", *SMALL, *QUIET, "--epochs", "3"]
    refused(
        cli(*argv),
        "the loss became nan in epoch 2",
        f"last good checkpoint is {tmp_path / 'r' / 'weights.safetensors'}",
    )
    assert load_model(tmp_path / "r")


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file_and_keeps_what_was_there(cli, run, tmp_path, monkeypatch):
    folder = tmp_path / "r"
    assert cli("train", "--out", folder, *SMALL, *QUIET)[0] == 0
    before = fingerprint(load_model(folder))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        argv = ["train", "--out", tmp_path / "new", *SMALL, *QUIET]
        refused(cli(*argv), "no space left", str(tmp_path / "new" / "experiment.yaml"), "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["robustspike.evaluate.folder"], "os", SimpleNamespace(**vars(os) | {"fsync": full}))
        argv = ["attack", folder, "--attack", "fgsm", "--eps", "0.1", "--out", tmp_path / "e", *PLAIN]
        refused(cli(*argv), "no space left", "samples.jsonl")
    assert cli(*argv, "--resume")[0] == 0
    assert fingerprint(load_model(folder)) == before
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_file_in_the_way(cli, tmp_path):
    (tmp_path / "file").write_text("")
    refused(cli("train", "--out", tmp_path / "file" / "run", *SMALL, *QUIET), str(tmp_path / "file"))


def test_an_interrupt_says_how_to_go_on(cli, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "step", interrupted)
    result = cli("train", "--out", tmp_path / "a b", *SMALL, *QUIET)
    refused(result, "interrupted", f"robustspike train --out '{tmp_path / 'a b'}'", "--resume", code=130)


def test_bugs_and_debugging_show_tracebacks(monkeypatch, capsys):
    monkeypatch.setenv("ROBUSTSPIKE_DEBUG", "1")
    with pytest.raises(ValueError, match="nothing called"):
        main(["list", "nonsense"])
    monkeypatch.delenv("ROBUSTSPIKE_DEBUG")
    monkeypatch.setattr("robustspike.cli.reading.first_line", lambda thing: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        main(["list"])


def test_memory_that_does_not_suffice(cli, run, tmp_path, monkeypatch):
    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate much")

    monkeypatch.setattr("robustspike.cli.attacking.attack_run", out_of_memory)
    refused(cli("attack", run), "out of memory (tried to allocate much); use a smaller --batch-size")


def test_the_app_knows_its_commands():
    names = {command.name for command in app.registered_commands}
    assert names == {"train", "attack", "audit", "sweep", "reproduce", "compare", "demo", "list", "report", "doctor"}


# --- kill -9


def killed(argv, file, lines):
    """Start a command in a process of its own and kill it as soon as ``file`` holds so many lines."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    code = f"import torch; torch.set_num_threads({torch.get_num_threads()}); from robustspike.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, argv)], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (file.exists() and file.read_text().count("\n") >= lines):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_training_killed_and_resumed_ends_with_the_same_weights(cli, tmp_path):
    argv = ["train", "--defence", "sr-star", *SMALL, *QUIET, "--epochs", "20", "--batch-size", "16"]
    killed([*argv, "--out", tmp_path / "killed"], tmp_path / "killed" / "log.jsonl", 2)
    assert (tmp_path / "killed" / "log.jsonl").read_text().count("\n") < 20
    assert cli(*argv, "--out", tmp_path / "killed", "--resume")[0] == 0
    assert cli(*argv, "--out", tmp_path / "whole")[0] == 0
    prints = [fingerprint(load_model(tmp_path / name)) for name in ("killed", "whole")]
    assert prints[0] == prints[1]
    assert fingerprint(load_model(tmp_path / "killed" / "best.safetensors")) == fingerprint(
        load_model(tmp_path / "whole" / "best.safetensors")
    )


def without_seconds(folder):
    rows = read_rows(folder)
    for row in rows:
        for attempt in row["attempts"]:
            del attempt["seconds"]
    return sorted(rows, key=lambda row: row["sample"])


def test_an_evaluation_killed_and_resumed_has_the_same_rows(cli, tmp_path):
    argv = ["--train-limit", "64", "--time-steps", "2", "--epochs", "2", "--lr", "0.02", "--batch-size", "16"]
    assert cli("train", "--out", tmp_path / "run", *argv, *QUIET)[0] == 0
    attack = ["attack", tmp_path / "run", "--suite", "ding2022", "--eps", "0.05", "--limit", "200", "--batch-size", "4"]
    attack += PLAIN
    killed([*attack, "--out", tmp_path / "killed"], tmp_path / "killed" / "samples.jsonl", 8)
    done = len(read_rows(tmp_path / "killed"))
    assert 8 <= done < 200
    assert cli(*attack, "--out", tmp_path / "killed", "--resume")[0] == 0
    assert cli(*attack, "--out", tmp_path / "whole")[0] == 0
    assert without_seconds(tmp_path / "killed") == without_seconds(tmp_path / "whole")
