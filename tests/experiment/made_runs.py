"""Runs made by hand: weights that were never trained, and evaluations drawn at random that could be theirs."""

import json

import numpy as np
import torch
from tests.report import made

from robustspike.checkpoints import fingerprint, save_model
from robustspike.experiment import Experiment
from robustspike.models import digits_cnn
from robustspike.results import DOUBTS_FILE, HEADER_FILE, ROWS_FILE, row_of

WHOLE = (0, 1, 2, 4, 5, 6, 7, 8)  # the fields of an attempt that are whole numbers


def lines_of(outcome):
    """The lines of an outcome as an evaluation writes them."""
    lines = []
    for i in range(len(outcome.samples)):
        attempts = outcome.attempts[i][outcome.tried[i]].tolist()
        attempts = [[int(v) if k in WHOLE else v for k, v in enumerate(attempt)] for attempt in attempts]
        lines.append(row_of(int(outcome.samples[i]), int(outcome.labels[i]), int(outcome.clean[i]), attempts))
    return lines


def write_evaluation(folder, outcome):
    """An evaluation's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADER_FILE).write_text(outcome.header.model_dump_json(indent=2), encoding="utf-8")
    (folder / ROWS_FILE).write_text("".join(line + "\n" for line in lines_of(outcome)), encoding="utf-8")
    if outcome.doubts is not None:
        (folder / DOUBTS_FILE).write_text(outcome.doubts.model_dump_json(), encoding="utf-8")
    return folder


def write_weights(path, seed=0, time_steps=2):
    """An untrained network; its fingerprint."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = digits_cnn(time_steps=time_steps).eval()
    save_model(model, path)
    return fingerprint(model)


def write_run(folder, *, seed=0, defence="at", evaluations=("standard-Linf-0.1",), time_steps=2, **changes):
    """A run with record, weights, log and these evaluations, ``changes`` as for ``made.outcome``; its folder."""
    code = write_weights(folder / "weights.safetensors", seed, time_steps)
    record = Experiment.of(data="digits", defence=defence, time_steps=time_steps, seed=seed)
    (folder / "experiment.yaml").write_text(record.yaml(), encoding="utf-8")
    log = {"epoch": 1, "loss": 0.5, "seconds": 1.0, "validation_accuracy": 0.9}
    (folder / "log.jsonl").write_text(json.dumps(log) + "\n", encoding="utf-8")
    for name in evaluations:
        options = {"seed": 7, "suite": "standard", "data": "digits test", "versions": made.VERSIONS} | changes
        given = {
            k: options.pop(k) for k in ("n", "strength", "clean", "eps", "survivors_only", "members") if k in options
        }
        outcome = made.outcome(seed, **given)
        header = outcome.header.model_copy(
            update={**options, "weights_fingerprint": code, "model": f"digits-cnn {defence}"}
        )
        write_evaluation(folder / "attacks" / name, relabelled(outcome, header))
    return folder


def relabelled(outcome, header):
    """The same outcome for samples with the labels 0, 1, …, 9, 0, 1, …"""
    labels = np.arange(len(outcome.samples)) % 10
    shift = labels - outcome.labels
    attempts = outcome.attempts.copy()
    attempts[:, :, 2] = (attempts[:, :, 2] + shift[:, None]) % 10
    return type(outcome)(header, outcome.samples, labels, (outcome.clean + shift) % 10, attempts)


def change_line(folder, number, change):
    """Change one parsed line of an evaluation in place."""
    path = folder / ROWS_FILE
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[number])
    change(row)
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def change_header(folder, **changes):
    """Change fields of an evaluation's header."""
    path = folder / HEADER_FILE
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def attacked(folder):
    """The number of the first line with attempts."""
    lines = (folder / ROWS_FILE).read_text(encoding="utf-8").splitlines()
    return int(np.flatnonzero([bool(json.loads(line)["attempts"]) for line in lines])[0])
