"""Runs as they lie about: each evaluation checked against its rows and weights, whatever is missing said in a sentence."""

import json
import shutil
from pathlib import Path

import pytest
from tests.experiment.made_runs import attacked, change_header, change_line, write_evaluation, write_run, write_weights
from tests.report import made

from robustspike.attacks import SUITES
from robustspike.balls import L2, Linf
from robustspike.checkpoints import CheckpointError
from robustspike.evaluate.settings import member_of
from robustspike.experiment.index import (
    comparable,
    compared,
    find_runs,
    leaderboard,
    own_comparison,
    read_run,
)
from robustspike.results import HEADER_FILE, ROWS_FILE, Member, ResultError, comparison_table, load_outcome, mcnemar
from robustspike.results.files import reading_once

NAME = "standard-Linf-0.1"
OTHERS = "-FGSM-R-FGSM-PGD-10"  # the attacks of made.MEMBERS, which are in no published suite "standard"


@pytest.fixture
def run(tmp_path):
    """A whole run."""
    return write_run(tmp_path / "runs" / "b")


def read(run):
    """The run as seen from the folder above."""
    return read_run(run, run.parent)


def only(run):
    """Its one entry."""
    [entry] = read(run).entries
    return entry


# --- a whole run


def test_an_entry_has_the_figures_of_the_rows_and_the_network_of_the_weights(run):
    entry, outcome = only(run), load_outcome(run / "attacks" / NAME)
    summary = outcome.summary()
    assert (entry.standing, entry.reason, entry.done) == ("ranked", "", 40)
    assert (entry.clean, entry.robust) == (summary.clean, summary.robust)
    assert (entry.gradients, entry.queries) == (summary.gradients, summary.queries)
    assert entry.header == outcome.header
    assert (entry.network, entry.defence, entry.architecture) == ("AT", "at", "digits-cnn")
    assert (entry.time_steps, entry.parameters, entry.checkpoint) == (2, 58634, "last")
    assert (entry.run, entry.page, entry.suite, entry.evaluation) == ("b", "b/report.html", f"standard{OTHERS}", NAME)
    assert entry.doubts is None
    assert read(run).recorded
    assert read(run).lacks == read(run).unread == ()


def test_the_checks_for_masking_are_in_the_entry(run):
    (run / "attacks" / NAME / "doubts.json").write_text(made.doubts(False, True, None).model_dump_json())
    entry = only(run)
    assert (entry.doubts, entry.checks, entry.standing) == (("check 0",), 2, "ranked")


def test_paths_are_as_seen_from_the_leaderboard(run, tmp_path):
    assert read_run(run, tmp_path).entries[0].page == "runs/b/report.html"
    assert read_run(run, tmp_path / "pages" / "x").entries[0].page == "../../runs/b/report.html"


def listed(suite):
    """The members of a suite as a header lists them."""
    return tuple(map(member_of, suite.attacks))


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)])
@pytest.mark.parametrize("name", ["standard", "liu2024", "autoattack"])
def test_a_published_suite_is_named_as_such(tmp_path, name, ball):
    folder = write_run(tmp_path / "r", suite=name, norm=ball.norm, eps=ball.eps, members=listed(SUITES[name](ball)))
    assert (only(folder).suite, only(folder).standing) == (name, "ranked")


@pytest.mark.parametrize(
    ("name", "members", "suite"),
    [
        ("liu2024", listed(SUITES["liu2024"](0.1, steps=(20,))), "liu2024-PGD-20"),
        ("liu2024", listed(SUITES["liu2024"](0.1))[:-1], "liu2024, changed"),
        ("liu2024", listed(SUITES["liu2024"](0.1))[::-1], "liu2024, changed"),
        ("liu2024", listed(SUITES["liu2024"](0.1, early_stop=False)), "liu2024, changed"),
        ("standard", listed(SUITES["luu2025_sound"](0.1)), "standard-FGSM-PGD-7"),
        ("standard", listed(SUITES["liu2024"](0.1)), "standard-FGSM-R-FGSM-PGD-10-3-more"),
        ("PGD-10+FGSM rga", made.MEMBERS, "PGD-10+FGSM rga"),
        ("custom", made.MEMBERS, "custom"),
    ],
)
def test_a_suite_with_other_attacks_is_never_named_as_the_published_one(tmp_path, name, members, suite):
    """Whatever the folder is called."""
    folder = write_run(tmp_path / "r", evaluations=(f"{name}-Linf-0.1",), suite=name, members=members)
    assert (only(folder).suite, only(folder).standing) == (suite, "ranked")


@pytest.mark.parametrize("changes", [{"eps": 0.3}, {"eps": 0.05}, {"norm": "L2"}])
def test_a_header_edited_to_another_ball_is_not_verified(tmp_path, changes):
    folder = write_run(tmp_path / "r", members=listed(SUITES["standard"](0.1)))
    change_header(folder / "attacks" / NAME, **changes)
    assert only(folder).standing == "unverified"
    assert "is set to Linf ε = 0.1" in only(folder).reason


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [
        (0, "attack", "APGD-CE-1000"), (0, "estimator", "RGA"), (0, "kind", "noise"), (0, "steps", 1000),
        (0, "caveat", "it is too strong"), (5, "kind", "white-box"), (5, "caveat", "it does not count"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suite", ["standard", "mine"])
def test_a_published_attack_under_another_name_is_not_verified(tmp_path, suite, number, field, value):
    members = list(listed(SUITES["standard"](0.1)))
    true = getattr(members[number], field)
    members[number] = members[number].model_copy(update={field: value})
    entry = only(write_run(tmp_path / "r", suite=suite, members=tuple(members)))
    assert entry.standing == "unverified"
    assert f"has the {field} {true!r}, not {value!r}" in entry.reason


def test_the_best_checkpoint_is_another_file(run):
    code = write_weights(run / "best.safetensors", seed=5)
    change_header(run / "attacks" / NAME, weights_fingerprint=code)
    entry = only(run)
    assert (entry.checkpoint, entry.standing) == ("best", "ranked")


# --- what is not ranked


def spoilt(change):
    """Damage of one attempt of the first attacked line."""

    def spoil(folder):
        change_line(folder, attacked(folder), lambda row: change(row["attempts"][0], row))

    return spoil


def truncated(folder):
    text = (folder / ROWS_FILE).read_text()
    (folder / ROWS_FILE).write_text(text[: len(text) // 2])


def shortened(folder):
    lines = (folder / ROWS_FILE).read_text().splitlines()
    (folder / ROWS_FILE).write_text("\n".join(lines[:25]) + "\n")


def repeated(folder):
    lines = (folder / ROWS_FILE).read_text().splitlines()
    (folder / ROWS_FILE).write_text("\n".join([*lines[:-1], lines[0]]) + "\n")


def middle(folder):
    lines = (folder / ROWS_FILE).read_text().splitlines()
    lines[3] = "{"
    (folder / ROWS_FILE).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("spoil", "standing", "reason"),
    [
        (shortened, "unfinished", "not finished: 25 of 40 samples; resume it"),
        (truncated, "unfinished", "not finished: "),
        (lambda folder: (folder / ROWS_FILE).unlink(), "unfinished", "not finished: no sample is done; resume it"),
        (lambda folder: (folder / ROWS_FILE).write_text('{"sam'), "unfinished", "not finished: no sample is done"),
        (repeated, "unverified", "sample 0 occurs twice"),
        (middle, "unverified", "samples.jsonl, line 4 is damaged"),
        (lambda folder: change_header(folder, n=39), "unverified", "holds 40 samples of 39"),
        (lambda folder: (folder / "doubts.json").write_text("{"), "unverified", "doubts.json is damaged"),
        (spoilt(lambda a, _: a.update(member=12)), "unverified", "was tried by member 12, but the header lists 12, from 0"),
        (spoilt(lambda a, row: row["attempts"].append(a)), "unverified", "was tried twice by member 0"),
        (spoilt(lambda a, _: a.update(distance=0.2)), "unverified", "a sample was moved further than ε = 0.1 (sample "),
        (spoilt(lambda a, _: a.update(fooled=1 - a["fooled"])), "unverified", "against the class under attack (sample "),
        (spoilt(lambda a, row: row["attempts"].remove(a)), "unverified", "a member was not tried on just the samples"),
        (spoilt(lambda _, row: row.update(clean=row["clean"] + 1)), "unverified", "is misclassified without attack was"),
        (spoilt(lambda _, row: row.update(sample=-1)), "unverified", "a sample's number is negative"),
        (spoilt(lambda a, _: a.update(predicted=10)), "unverified", "a class under attack is none of the network"),
        (lambda folder: change_header(folder, weights_fingerprint="0" * 16), "unverified", "it is of other weights than"),
    ],
)  # fmt: skip
def test_what_does_not_check_out_is_not_ranked(run, spoil, standing, reason):
    spoil(run / "attacks" / NAME)
    entry = only(run)
    assert entry.standing == standing
    assert reason in entry.reason
    assert "\n" not in entry.reason
    assert (
        str(run) not in entry.reason or "holds" in entry.reason or "occurs" in entry.reason or "tried" in entry.reason
    )
    assert entry.clean is entry.robust is None
    board = leaderboard([read(run)])
    assert board.groups == ()
    assert board.unranked == (entry,)


def test_weights_are_compared_by_their_contents(run):
    write_weights(run / "weights.safetensors", seed=1)
    entry = only(run)
    assert entry.standing == "unverified"
    assert entry.reason.startswith(
        "it is of other weights than those that are in the folder now (or the same ones under"
    )
    assert (entry.architecture, entry.parameters, entry.checkpoint) == ("", None, "")


def test_other_versions_are_blamed_only_where_they_differ(run):
    from importlib import metadata

    change_header(run / "attacks" / NAME, versions={n: metadata.version(n) for n in ("robustspike", "torch")})
    write_weights(run / "weights.safetensors", seed=1)
    assert "(or the same" not in only(run).reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "no weights to compare with: weights.safetensors is missing"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "no weights to compare with: weights.safetensors is no",
        ),
        (lambda path: path.write_bytes(b""), "no weights to compare with: weights.safetensors is no readable"),
    ],
)
def test_without_weights_nothing_is_verified(run, spoil, reason):
    write_weights(run / "best.safetensors", seed=5)
    spoil(run / "weights.safetensors")
    found = read(run)
    assert found.entries[0].standing == "unverified"
    assert found.entries[0].reason.startswith(reason)
    [lack] = found.lacks
    assert lack.where == "b"
    assert lack.what.startswith("weights.safetensors is")


def test_a_budget_that_was_hit_is_said(tmp_path):
    folder = write_run(tmp_path / "r", strength=0.2)
    place = folder / "attacks" / NAME
    change_header(place, budget=1)
    lines = [json.loads(line) for line in (place / ROWS_FILE).read_text().splitlines()]
    for row in lines:
        del row["attempts"][1:]
    (place / ROWS_FILE).write_text("".join(json.dumps(row) + "\n" for row in lines))
    entry = only(folder)
    cut = load_outcome(place).summary().cut
    assert entry.standing == "cut"
    assert entry.reason == f"cut short by the budget: {cut} of 40 samples stand without having met every attack"
    assert entry.robust == load_outcome(place).summary().robust
    assert leaderboard([read(folder)]).groups == ()


def test_only_attacks_with_a_caveat_are_no_worst_case(tmp_path):
    members = (Member(attack="code", estimator="–", settings="c", caveat="it moves the code"),)
    entry = only(write_run(tmp_path / "r", members=members))
    assert (entry.standing, entry.robust) == ("no worst case", None)
    assert entry.clean is not None
    assert entry.reason == "no worst case: every attack has a caveat (†)"


# --- what is missing


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "experiment.yaml is missing: how it was trained is not known"),
        ("", "experiment.yaml is empty: how it was trained is not known"),
        ("  \n", "experiment.yaml is empty: how it was trained is not known"),
        ("defence: [", "experiment.yaml, line 1 is no valid YAML"),
        ("colour: red", "experiment.yaml: unknown setting 'colour'"),
        ("- a\n- b", "experiment.yaml: expected one `name: value` per line, got a list"),
    ],
)
def test_a_run_without_its_record_keeps_its_figures(run, text, what):
    (run / "experiment.yaml").unlink()
    if text is not None:
        (run / "experiment.yaml").write_text(text)
    found = read(run)
    assert not found.recorded
    assert found.lacks[0].what.startswith(what)
    [entry] = found.entries
    assert (entry.network, entry.defence, entry.standing) == ("digits-cnn at", "", "ranked")
    assert entry.architecture == "digits-cnn"
    shown = own_comparison(found)
    assert shown.notes[0].startswith(f"What is missing: {what}")
    assert shown.networks[0].summary == load_outcome(run / "attacks" / NAME).summary()
    assert shown.networks[0].training == {}
    assert "digits-cnn at" in str(comparison_table(shown))


def test_a_record_of_another_network_is_noticed(run):
    text = (run / "experiment.yaml").read_text()
    (run / "experiment.yaml").write_text(text.replace("time_steps: 2", "time_steps: 4"))
    [lack] = read(run).lacks
    assert lack.what == "experiment.yaml says digits-cnn with T = 4, but the weights are of digits-cnn with T = 2"
    assert only(run).time_steps == 2


def test_no_evaluation_yet(tmp_path):
    folder = write_run(tmp_path / "r", evaluations=())
    found = read(folder)
    assert [one.what for one in found.lacks] == [f"no evaluation yet; run `robustspike attack {folder}`"]
    with pytest.raises(ResultError, match=r"^no evaluation in .*; run `robustspike attack .*r` first$"):
        leaderboard([found])
    with pytest.raises(ResultError, match=r"no evaluation in"):
        own_comparison(found)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"suite": "standard", "no', "attacks/standard-Linf-0.1/evaluation.json is damaged or of another version: "),
        ("", "attacks/standard-Linf-0.1/evaluation.json is damaged"),
        ('{"format": 1}', "attacks/standard-Linf-0.1/evaluation.json was made by an earlier version of robustspike"),
        ('{"format": 99}', "attacks/standard-Linf-0.1/evaluation.json was made by a later version of robustspike"),
        ('{"colour": "red"}', "attacks/standard-Linf-0.1/evaluation.json is damaged or of another version"),
        (None, "attacks/standard-Linf-0.1: evaluation.json is missing, so its rows say nothing"),
    ],
)
def test_a_header_that_cannot_be_read_is_said_and_the_rest_is_shown(run, text, what):
    write_evaluation(run / "attacks" / "more", load_outcome(run / "attacks" / NAME))
    header = run / "attacks" / NAME / HEADER_FILE
    header.unlink()
    if text is not None:
        header.write_text(text)
    found = read(run)
    assert [entry.evaluation for entry in found.entries] == ["more"]
    [one] = found.unread
    assert one.where == "b"
    assert one.what.startswith(what)
    assert leaderboard([found]).missing == (one,)
    assert own_comparison(found).networks[0].summary.header == found.entries[0].header
    shutil.rmtree(run / "attacks" / "more")
    with pytest.raises(ResultError, match="evaluation.json"):
        leaderboard([read(run)])


def test_folders_without_an_evaluation_are_no_concern(run):
    (run / "attacks" / "empty").mkdir()
    (run / "attacks" / "deep" / "er").mkdir(parents=True)
    (run / "attacks" / "notes.txt").write_text("a")
    assert read(run).unread == ()


def test_damaged_audits_are_said(run):
    place = run / "audits" / "Linf-0.1-n100"
    place.mkdir(parents=True)
    (place / "audit.json").write_text('{"format": 1, "mod')
    [one] = read(run).unread
    assert one.what.startswith("audits/Linf-0.1-n100/audit.json is damaged")
    assert only(run).standing == "ranked"
    assert any("audit.json is damaged" in note for note in own_comparison(read(run)).notes)


def test_an_unfinished_evaluation_does_not_hide_a_finished_one(run):
    outcome = load_outcome(run / "attacks" / NAME)
    write_evaluation(run / "attacks" / "larger", outcome)
    change_header(run / "attacks" / "larger", n=400)
    found = read(run)
    assert [(e.evaluation, e.standing) for e in found.entries] == [("larger", "unfinished"), (NAME, "ranked")]
    shown = own_comparison(found)
    assert shown.networks[0].summary.header.n == 40
    assert shown.notes[0] == "What is missing: larger: not finished: 40 of 400 samples; resume it."
    with pytest.raises(ResultError, match="holds 40 of 400 samples"):
        own_comparison(found, evaluation="larger")


def test_what_is_not_verified_is_said_on_the_runs_own_page(run):
    write_weights(run / "weights.safetensors", seed=1)
    notes = own_comparison(read(run)).notes
    assert any(note.startswith(f"Not verified: {NAME}: it is of other weights than those") for note in notes)


# --- finding runs


def test_runs_are_found_at_any_depth_whole_or_not(tmp_path):
    whole = write_run(tmp_path / "a" / "b" / "whole")
    unrecorded = write_run(tmp_path / "unrecorded")
    (unrecorded / "experiment.yaml").unlink()
    bare = write_run(tmp_path / "bare")
    for name in ("experiment.yaml", "weights.safetensors"):
        (bare / name).unlink()
    write_weights(tmp_path / "weights" / "weights.safetensors")
    write_weights(whole / "stand-ins" / "weights.safetensors")
    write_run(tmp_path / ".hidden" / "run")
    write_run(whole / "attacks" / "inside")
    (tmp_path / "empty").mkdir()
    found, missing = find_runs([tmp_path])
    assert found == [whole, bare, unrecorded, tmp_path / "weights"]
    assert missing == []


def test_a_folder_without_runs_is_missing_unless_nothing_else_is_there(run, tmp_path):
    (tmp_path / "empty").mkdir()
    found, missing = find_runs([tmp_path / "empty", run, tmp_path / "nowhere"])
    assert found == [run]
    assert [(one.where, one.what.split(" (")[0]) for one in missing] == [
        (str(tmp_path / "empty"), "no run in it"), (str(tmp_path / "nowhere"), "no such folder")
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match=r"empty: no run in it .*; .*nowhere: no such folder"):
        find_runs([tmp_path / "empty", tmp_path / "nowhere"])


def test_a_run_named_twice_counts_once(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    assert find_runs([run, run.parent, tmp_path / "link", f"{run}/../b"])[0] == [run]


# --- several


@pytest.fixture
def several(tmp_path):
    """Three runs evaluated alike, one otherwise, one not at all."""
    for k, name in enumerate(("a", "b", "c")):
        write_run(tmp_path / name, seed=k, defence=("vanilla", "at", "trades")[k], strength=0.8 - 0.2 * k)
    write_run(tmp_path / "other", seed=5, evaluations=("standard-Linf-0.3",), eps=0.3)
    write_run(tmp_path / "none", seed=6, evaluations=())
    return tmp_path


def runs_in(folder):
    return [read_run(run, folder) for run in find_runs([folder])[0]]


def test_a_leaderboard_of_several(several):
    board = leaderboard(runs_in(several))
    assert board.title == "Leaderboard of 4 networks"
    first, second = board.groups
    robust = {e.run: load_outcome(several / e.run / "attacks" / e.evaluation).robust_accuracy for e in board.entries}
    assert [place.entry.run for place in first.places] == sorted("abc", key=lambda name: -robust[name])
    assert [place.entry.run for place in second.places] == ["other"]
    assert [one.where for one in board.missing] == ["none"]
    assert leaderboard(runs_in(several), title="mine").title == "mine"


def test_the_most_that_are_alike_are_compared(several):
    runs = runs_in(several)
    name, chosen = comparable(runs)
    assert (name, [run.folder.name for run in chosen]) == (NAME, ["a", "b", "c"])
    found = compared(runs, title="mine")
    assert [network.name for network in found.networks] == ["vanilla", "AT", "TRADES"]
    assert found.title == "mine"
    assert found.notes[0] == (
        f"Left out, as they have not finished {NAME} alike: {several / 'none'}, {several / 'other'}."
    )
    assert compared(runs, evaluation="standard-Linf-0.3") is None
    with pytest.raises(ResultError, match=r"no run has finished an evaluation 'standard-Linf-0.2'; did you mean"):
        compared(runs, evaluation="standard-Linf-0.2")


@pytest.mark.parametrize("changes", [{"seed": 8}, {"budget": 9999}, {"calls": 10}, {"data_fingerprint": "e"}])
def test_what_is_not_alike_is_left_out_of_the_comparison(several, changes):
    change_header(several / "b" / "attacks" / NAME, **changes)
    assert [network.name for network in compared(runs_in(several)).networks] == ["vanilla", "TRADES"]


def test_unverified_and_unfinished_runs_in_a_comparison(several):
    write_weights(several / "a" / "weights.safetensors", seed=9)
    shortened(several / "b" / "attacks" / NAME)
    (several / "other" / "experiment.yaml").unlink()
    found = compared(runs_in(several))
    assert [network.name for network in found.networks] == ["vanilla", "TRADES"]
    assert found.notes[0].startswith("Not verified: a: it is of other weights")
    assert str(several / "b") in found.notes[1]


def test_nothing_to_compare(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", evaluations=())
    assert compared(runs_in(tmp_path)) is None
    assert comparable([read_run(tmp_path / "b", tmp_path)]) is None


def test_rows_are_read_once_for_index_page_and_comparison(several, monkeypatch):
    from robustspike.results import files

    asked = []
    monkeypatch.setattr(files, "_load", lambda folder, unfinished, load=files._load: (
        asked.append(folder) or load(folder, unfinished)
    ))  # fmt: skip
    with reading_once():
        runs = runs_in(several)
        leaderboard(runs)
        compared(runs)
        for run in runs[:3]:
            own_comparison(run)
    assert len(asked) == len(set(asked)) == 4


def test_evaluations_of_the_same_data_must_have_the_same_samples(several):
    """One says that another image was attacked; which is right nobody knows, however many there are of each."""
    assert len(leaderboard(runs_in(several)).groups) == 2
    change_line(several / "b" / "attacks" / NAME, 0, lambda row: row.update(sample=99))
    runs = runs_in(several)
    board = leaderboard(runs)
    assert board.groups == ()
    assert {e.run for e in board.unranked} == {"a", "b", "c", "other"}
    assert all("which are right is not known" in e.reason for e in board.unranked)
    assert all(e.clean is e.robust is None for e in board.unranked)
    assert several / "b" not in [run.folder for run in comparable(runs)[1]]


def test_ranks_are_tested_on_the_rows(several):
    [places, _] = [group.places for group in leaderboard(runs_in(several)).groups]
    first, *others = [load_outcome(several / place.entry.run / "attacks" / NAME) for place in places]
    assert [place.p for place in places] == [None, *(mcnemar(first, other).p for other in others)]


def test_files_are_read_as_utf_8_wherever(run, monkeypatch):
    """Not in the encoding that the system prefers."""
    (run / "attacks" / NAME / "doubts.json").write_text(made.doubts(True).model_dump_json(), encoding="utf-8")
    path = run / "attacks" / NAME / HEADER_FILE
    header = json.loads(path.read_text(encoding="utf-8")) | {"model": "réseau"}
    path.write_text(json.dumps(header, ensure_ascii=False), encoding="utf-8")
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: read_text(self, encoding=encoding or "latin-1"))
    outcome = load_outcome(path.parent)
    assert outcome.header.model == "réseau"
    assert outcome.doubts == made.doubts(True)
