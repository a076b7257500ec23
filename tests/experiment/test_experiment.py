"""One run as one record: recipes, folders, suites by name, comparisons."""

import io
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from robustspike.attacks import ATTACKS, LOSSES, SUITES, Transfer, suites
from robustspike.balls import L2
from robustspike.checkpoints import CheckpointError, fingerprint, load_model, save_model
from robustspike.data import DataError
from robustspike.experiment import (
    GROUPS,
    Experiment,
    attack,
    comparison,
    default_eps,
    evaluation_folders,
    evaluation_name,
    make_suite,
    parse_estimator,
    parse_surrogate,
    read_experiment,
    show,
    sources,
    train,
)
from robustspike.experiment.runs import device, load_data, make_model
from robustspike.experiment.sources import STAND_INS
from robustspike.gradients import BPTT, ESTIMATORS, RGA
from robustspike.models import digits_cnn
from robustspike.results import (
    HEADER_FILE,
    ROWS_FILE,
    Budget,
    ResultError,
    Table,
    comparison_table,
    load_outcome,
    mcnemar,
)
from robustspike.stand_ins import relu_network
from robustspike.surrogates import SURROGATES, Sigmoid

SMALL = {"train_limit": 64, "test_limit": 16, "time_steps": 2, "epochs": 1, "train_steps": 1, "accelerator": "cpu"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are no faster on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trained and attacked runs; read only."""
    folder = tmp_path_factory.mktemp("runs")
    for defence in ("vanilla", "at"):
        train(Experiment.of(defence=defence, **SMALL), folder / defence, progress=False)
        for eps in (0.1, 0.3):
            suite = make_suite(eps, attacks=["fgsm"], estimators=["rga"])
            attack(folder / defence, suite, accelerator="cpu", doubts=0, progress=False)
    return folder


# --- the record


def test_a_path_gets_the_papers_settings_too():
    assert Experiment.of(data="some/where/digits.npz").model == "vgg11"
    assert default_eps("some/where/digits.npz") == "8/255"


def test_what_is_given_wins_over_the_recipe():
    given = Experiment.of(data="digits", defence="sr", weight=0.5, optimizer="adam", flip=True)
    assert (given.weight, given.lr, given.flip, given.model) == (0.5, 0.001, True, "digits-cnn")


def test_a_record_survives_yaml():
    experiment = Experiment.of(defence="sr-star", seed=3, train_eps="2/255")
    assert Experiment.of(**yaml.safe_load(experiment.yaml())) == experiment


def test_a_record_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Experiment.of().seed = 1


def test_every_field_has_a_place_in_the_help():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(Experiment.model_fields)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epohcs": 3}, "unknown setting 'epohcs'; did you mean epochs"),
        ({"model": "vgg12"}, "unknown model 'vgg12'; did you mean vgg11 or vgg5"),
        ({"defence": "srstar"}, "unknown defence 'srstar'; did you mean sr-star"),
        ({"encoder": "poison"}, "unknown encoder 'poison'; did you mean poisson"),
        ({"surrogate": "arctang"}, "unknown surrogate 'arctang'; did you mean arctan"),
        ({"surrogate": "arctan:-1"}, "surrogate 'arctan:-1': expected a name and sharpness"),
        ({"train_eps": 2}, 'did you mean "2/255"'),
        ({"epochs": 0}, "epochs: expected greater than or equal to 1, got 0"),
        ({"schedule": "linear"}, "schedule: expected 'cosine', 'one-cycle' or 'constant', got 'linear'"),
        ({"lr": "fast"}, "lr: expected a valid number"),
    ],
)
def test_an_unfit_record_is_refused_in_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=r".") as error:
        Experiment.of(**given)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


# --- names


def test_every_surrogate_and_estimator_has_a_short_form():
    for name, kind in SURROGATES.items():
        assert parse_surrogate(name) == kind()
        assert parse_estimator(f"bptt:{name}") == BPTT(kind())
    for name, kind in ESTIMATORS.items():
        assert parse_estimator(name) == kind()
    assert parse_estimator("bptt:sigmoid:2.5") == BPTT(Sigmoid(2.5))
    assert parse_estimator("rga:0.3") == RGA(0.3)


def test_every_attack_can_be_made_by_name():
    suite = make_suite("8/255", attacks=list(ATTACKS), estimators=["bptt", "rga"], steps=[3, 5])
    kinds = [type(member).__name__ for member in suite.attacks]
    assert kinds == [
        *["PGD"] * 8, *["APGD"] * 4, *["SAPGD"] * 4, *["FAB"] * 4, "Square", "UniformNoise", "GaussianNoise",
    ]  # fmt: skip
    assert [member.name for member in suite.attacks[:8]] == [
        *["FGSM"] * 2, *["R-FGSM"] * 2, *["PGD-3"] * 2, *["PGD-5"] * 2,
    ]  # fmt: skip
    assert [member.steps for member in suite.attacks[8:20]] == [3, 3, 5, 5] * 3
    assert all(member.early_stop for member in suite.attacks[:21])
    assert {member.ball for member in suite.attacks} == {suite.ball}


def test_options_reach_the_attack():
    (pgd,) = make_suite(0.5, attacks=["pgd"], norm="L2", steps=[7], step_size=0.1, restarts=2, samples=3).attacks
    assert (pgd.ball.norm, pgd.steps, pgd.step_size, pgd.restarts, pgd.samples) == ("L2", 7, 0.1, 2, 3)
    apgd, square = make_suite(0.1, attacks=["apgd", "square"], targets=3, queries=50, loss="margin").attacks
    assert (apgd.targets, apgd.loss, square.queries, square.loss) == (3, LOSSES["margin"], 50, LOSSES["margin"])


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_can_be_made_by_name_in_both_norms(name):
    assert make_suite("8/255", name) == SUITES[name]("8/255")
    if name == "luu2025":
        with pytest.raises(ValueError, match="EncodedPGD needs an Linf ball"):
            make_suite(0.5, name, norm="L2")
    else:
        assert make_suite(0.5, name, norm="L2").ball == L2(0.5)


def test_a_suite_takes_what_its_builder_takes():
    assert make_suite("8/255", "liu2024", steps=[10, 30]) == suites.liu2024("8/255", steps=(10, 30))
    assert make_suite("8/255", "assg", steps=[7]) == suites.assg("8/255", steps=7)
    given = make_suite("8/255", "autoattack", steps=[7], queries=9, estimators=["rga"])
    assert given == suites.autoattack("8/255", steps=7, queries=9, estimator=RGA())


def test_a_name_says_the_loss():
    names = [make_suite(0.1, attacks=["pgd"], loss=loss).name for loss in (None, "margin")]
    assert names == ["PGD-10 bptt", "PGD-10, margin loss bptt"]
    assert make_suite(0.1, attacks=["fgsm"], loss="dlr").name == "FGSM bptt dlr loss"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"suite": "liu2042"}, "unknown suite 'liu2042'; did you mean liu2024"),
        ({"attacks": ["pdg"]}, "unknown attack 'pdg'; did you mean pgd"),
        ({"attacks": ["pgd"], "estimators": ["brga"]}, "unknown estimator 'brga'; did you mean rga"),
        ({"attacks": ["pgd"], "estimators": ["rga:x"]}, "estimator 'rga:x': expected a name and gamma"),
        ({"attacks": ["pgd"], "norm": "L1"}, "unknown norm 'L1'"),
        ({"attacks": ["pgd"], "loss": "dll"}, "unknown loss 'dll'; did you mean dlr"),
        ({"suite": "ding2022", "estimators": ["rga"]}, "suite 'ding2022' takes no --estimator: it fixes that itself"),
        ({"suite": "liu2024", "loss": "dlr", "step_size": 0.1}, "suite 'liu2024' takes no --step-size, --loss"),
        ({"suite": "ding2022", "steps": [10]}, "suite 'ding2022' takes no --steps"),
        ({"suite": "ding2022", "sources": [torch.nn.Identity()]}, "suite 'ding2022' takes no --transfer-from"),
        ({"suite": "assg", "steps": [10, 20]}, "suite 'assg' takes one --steps, got 2; run it once for each"),
        ({"suite": "autoattack", "estimators": ["rga", "cba"]}, "suite 'autoattack' takes one --estimator, got 2"),
        ({"attacks": ["fgsm"], "step_size": 0.1}, "attack 'fgsm' takes no --step-size"),
        ({"attacks": ["fgsm", "square"], "steps": [3]}, "attack 'fgsm', 'square' takes no --steps"),
        ({"attacks": ["uniform-noise"], "restarts": 2}, "attack 'uniform-noise' takes no --restarts"),
        ({"attacks": ["uniform-noise"], "sources": [torch.nn.Identity()]}, "uniform-noise: nothing to transfer"),
    ],
)
def test_an_unfit_suite_is_refused_in_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=r".") as error:
        make_suite(0.1, **given)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


# --- sources of transferred examples


def test_single_attacks_are_transferred_from_every_source():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    names = {"attacks": ["fgsm", "square", "pgd"], "estimators": ["rga", "bptt"], "steps": [2, 3]}
    members = make_suite(0.1, **names, sources=[one, other]).attacks
    assert [type(member).__name__ for member in members[:7]] == ["PGD"] * 2 + ["Square"] + ["PGD"] * 4
    black_box = [(m.attack.name, m.attack.estimator, m.source) for m in members[7:]]
    made = [("FGSM", RGA()), ("PGD-2", RGA()), ("PGD-3", RGA())]
    assert black_box == [(*what, source) for source in (one, other) for what in made]


def test_a_relu_network_is_attacked_through_its_own_gradient():
    network = relu_network(digits_cnn(time_steps=2))
    for suite in (
        make_suite(0.1, "liu2024", sources=[network]),
        make_suite(0.1, attacks=["pgd"], estimators=["rga"], sources=[network]),
    ):
        found = [member for member in suite.attacks if isinstance(member, Transfer)]
        assert found
        assert {member.attack.estimator for member in found} == {BPTT()}
    x = torch.rand(1, 1, 8, 8)
    assert found[0](digits_cnn(time_steps=2), x, torch.tensor([1])).shape == x.shape


def test_twins_are_trained_once_and_kept(runs, tmp_path):
    run = tmp_path / "at"
    shutil.copytree(runs / "at", run)
    options = {"accelerator": "cpu", "progress": False}
    twin, other, relu, vanilla = sources(run, ["twin", "relu-twin", "relu", str(runs / "vanilla")], **options)
    assert sorted(path.name for path in (run / STAND_INS).iterdir()) == ["relu-twin.safetensors", "twin.safetensors"]
    assert fingerprint(vanilla) == fingerprint(load_model(runs / "vanilla"))
    assert fingerprint(relu.network) == fingerprint(load_model(run))
    prints = {fingerprint(network) for network in (twin, other.network, load_model(run), vanilla)}
    assert len(prints) == 4
    assert not twin.training
    before = (run / STAND_INS / "twin.safetensors").stat().st_mtime_ns
    (again,) = sources(run, ["twin"], **options)
    assert fingerprint(again) == fingerprint(twin)
    assert (run / STAND_INS / "twin.safetensors").stat().st_mtime_ns == before
    record = run / "experiment.yaml"
    record.write_text(record.read_text().replace("lr: 0.1", "lr: 0.05"))
    (new,) = sources(run, ["twin"], **options)  # the file holds another twin
    assert fingerprint(new) != fingerprint(twin)


def test_unfit_sources_are_refused(runs, tmp_path):
    with pytest.raises(
        ValueError, match="nothing to transfer from at 'twins': it is no folder of a run; did you mean twin"
    ):
        sources(runs / "at", ["twins"])
    train(Experiment.of(**SMALL), tmp_path / "other", progress=False)
    save_model(digits_cnn(time_steps=2, num_classes=3), tmp_path / "other" / "weights.safetensors")
    with pytest.raises(ValueError, match="num_classes is 3 there and 10 here; take a run on the same data"):
        sources(runs / "at", [str(tmp_path / "other")], accelerator="cpu")
    assert sources(runs / "at", []) == []


# --- runs


def test_a_run_holds_its_record_weights_and_log(runs):
    experiment = read_experiment(runs / "at")
    assert experiment == Experiment.of(defence="at", **SMALL)
    data = load_data(experiment)
    model = load_model(runs / "at")
    assert model.settings.mean == list(data.mean)
    assert (len(data.train), len(data.validation), len(data.test)) == (58, 6, 16)
    assert (runs / "at" / "log.jsonl").read_text().count("\n") == 1


def test_a_seed_decides_the_initial_weights():
    experiment = Experiment.of(**SMALL)
    data = load_data(experiment)
    torch.manual_seed(99)
    models = [make_model(e, data) for e in (experiment, experiment, experiment.model_copy(update={"seed": 1}))]
    prints = [fingerprint(model) for model in models]
    assert prints[0] == prints[1] != prints[2]


def test_statistics_of_an_npz_file_go_into_the_network(tmp_path):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 100, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 4
    path = tmp_path / "toy.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    experiment = Experiment.of(data=str(path), model="digits-cnn", **SMALL | {"train_limit": 40})
    data = load_data(experiment)
    model = make_model(experiment, data)
    assert list(model.settings.mean) == list(data.mean) != [0.5] * 3
    assert (model.settings.num_classes, model.settings.in_channels, model.settings.image_size) == (4, 3, 8)


def test_images_must_be_square(tmp_path):
    images, labels = np.random.default_rng(0).random((40, 8, 12, 3)), np.arange(40) % 4
    path = tmp_path / "toy.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    with pytest.raises(DataError, match="square images, got 8 × 12"):
        train(Experiment.of(data=str(path)), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(runs):
    before = fingerprint(load_model(runs / "at"))
    with pytest.raises(CheckpointError, match="--resume"):
        train(Experiment.of(defence="at", **SMALL), runs / "at", progress=False)
    other = Experiment.of(defence="at", **SMALL | {"train_eps": "0.2"})
    with pytest.raises(CheckpointError, match=r"holds a run with train_eps 0.05 \(not 0.2\)"):
        train(other, runs / "at", resume=True, progress=False)
    train(Experiment.of(defence="at", **SMALL | {"accelerator": "auto"}), runs / "at", resume=True, progress=False)
    assert fingerprint(load_model(runs / "at")) == before


def test_evaluations_that_differ_have_names_that_differ():
    suite = suites.liu2024(0.1)
    names = [
        evaluation_name(suite),
        evaluation_name(suites.liu2024(0.2)),
        evaluation_name(suites.liu2024(0.1, steps=(30,))),
        evaluation_name(suite, split="validation"),
        evaluation_name(suite, limit=5),
        evaluation_name(suite, checkpoint="best"),
        evaluation_name(suite, seed=1),
        evaluation_name(suite, survivors_only=False),
        evaluation_name(make_suite(0.1, attacks=["pgd"])),
        evaluation_name(make_suite(0.1, attacks=["pgd"], estimators=["rga"])),
        evaluation_name(make_suite(0.1, attacks=["pgd"], steps=[20])),
        evaluation_name(make_suite(0.1, attacks=["pgd"], loss="margin")),
        evaluation_name(suites.liu2024(0.1, steps=(10,))),
        evaluation_name(suites.liu2024(0.1, apgd_steps=0)),
        evaluation_name(suites.liu2024(0.1, early_stop=False)),
        evaluation_name(suites.liu2024(0.1, sources=[torch.nn.Linear(2, 2)])),
        evaluation_name(suites.liu2024(0.1, sources=[torch.nn.Linear(2, 2)])),
        evaluation_name(suites.liu2024(L2(0.1))),
        evaluation_name(suites.autoattack(0.1)),
        evaluation_name(suites.autoattack(0.1, estimator=RGA())),
        evaluation_name(suites.autoattack(0.1, queries=7)),
        evaluation_name(suite, budget=Budget(gradients=30)),
    ]
    assert len(set(names)) == len(names)
    assert all(name == name.strip() and "/" not in name and len(name) < 100 for name in names)


@pytest.mark.parametrize("name", SUITES)
def test_a_published_suite_has_a_plain_name(name):
    assert evaluation_name(SUITES[name](0.1)) == f"{name.replace('_', '-')}-Linf-0.1"


def test_names_say_what_was_changed():
    name = evaluation_name(suites.liu2024(0.1, steps=(20,)))
    assert re.fullmatch("liu2024-PGD-20-[0-9a-f]{6}-Linf-0.1", name)
    name = evaluation_name(suites.liu2024(0.1, steps=(10,), apgd_steps=0))
    assert re.fullmatch("liu2024-FGSM-R-FGSM-PGD-10-[0-9a-f]{6}-Linf-0.1", name)
    assert evaluation_name(suites.liu2024(0.1), budget=Budget(minutes=3)) == "liu2024-Linf-0.1"
    assert evaluation_name(suites.liu2024(0.1), budget=Budget(gradients=30)) == "liu2024-Linf-0.1-budget30"
    name = evaluation_name(suites.liu2024(0.1, sources=[torch.nn.Linear(2, 2)]))
    assert re.fullmatch(
        "liu2024-FGSM-from-Linear-R-FGSM-from-Linear-PGD-10-from-Linear-3-more-[0-9a-f]{6}-Linf-0.1", name
    )


def test_validation_split_best_weights_and_limit(runs, tmp_path):
    suite = make_suite(0.1, attacks=["uniform-noise"])
    options = {
        "split": "validation",
        "limit": 4,
        "checkpoint": "best",
        "accelerator": "cpu",
        "progress": False,
        "doubts": 0,
    }
    outcome = attack(runs / "at", suite, out=tmp_path / "e", **options)
    assert outcome.header.data == "digits validation"
    assert len(outcome.samples) == 4


# --- comparisons


def test_a_comparison_has_a_row_and_a_curve_for_each_run(runs):
    found = comparison([runs])
    assert [network.name for network in found.networks] == ["AT", "vanilla"]
    for network in found.networks:
        assert network.summary.header.eps == 0.3
        assert network.curve.eps == (0.0, 0.1, 0.3)
        assert network.curve.robust[0] == network.summary.clean
        assert network.training["epochs_done"] == 1
    assert "vanilla" in str(comparison_table(found))
    assert found == comparison([runs / "at", runs / "vanilla"])


def test_an_evaluation_can_be_chosen(runs):
    name = evaluation_name(make_suite(0.1, attacks=["fgsm"], estimators=["rga"]))
    found = comparison([runs], evaluation=name, title="mine", notes=("a note",))
    assert {network.summary.header.eps for network in found.networks} == {0.1}
    assert (found.title, found.notes[0]) == ("mine", "a note")
    with pytest.raises(ResultError, match=f"has no evaluation 'fgsm'; .*{name}"):
        comparison([runs / "at"], evaluation="fgsm")


def test_partial_folders_say_what_is_missing(runs, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        comparison([tmp_path / "nowhere"])
    with pytest.raises(CheckpointError, match=r"no run in it \(no experiment.yaml\)"):
        comparison([tmp_path])
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "experiment.yaml").write_text(Experiment.of().yaml())
    with pytest.raises(ResultError, match=r"no evaluation in .*bare; run `robustspike attack"):
        comparison([bare])
    with pytest.raises(ResultError, match="bare has no evaluation"):
        comparison([runs / "at", bare])


def test_an_unfinished_evaluation_is_named_or_left_out(runs, tmp_path):
    train(Experiment.of(**SMALL), tmp_path / "half", progress=False)
    for eps in (0.1, 0.3):
        suite = make_suite(eps, attacks=["fgsm"], estimators=["rga"])
        attack(tmp_path / "half", suite, accelerator="cpu", batch_size=8, doubts=0, progress=False)
    rows = tmp_path / "half" / "attacks" / evaluation_name(suite) / ROWS_FILE
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:8]))
    with pytest.raises(ResultError, match="holds 8 of 16 samples"):
        comparison([tmp_path / "half"])
    (tmp_path / "whole").symlink_to(runs / "at")
    found = comparison([tmp_path / "whole", tmp_path])
    assert len(found.networks) == 1
    assert "Left out" in found.notes[-1]


def test_two_runs_of_one_defence_are_told_apart(runs, tmp_path):
    train(Experiment.of(defence="at", **SMALL | {"seed": 5}), tmp_path / "again", progress=False)
    suite = make_suite(0.1, attacks=["fgsm"], estimators=["rga"])
    attack(tmp_path / "again", suite, accelerator="cpu", doubts=0, progress=False)
    seeds = comparison([runs / "at", tmp_path / "again"])  # another seed takes the same test images
    assert [network.name for network in seeds.networks] == ["AT (at)", "AT (again)"]


def test_evaluations_under_other_conditions_share_no_table(runs, tmp_path):
    suite = make_suite(0.1, attacks=["fgsm"], estimators=["rga"])
    for name, seed in (("one", 0), ("two", 1)):
        shutil.copytree(runs / "at", tmp_path / name)
        out = tmp_path / name / "attacks" / "same"
        attack(tmp_path / name, suite, out=out, seed=seed, accelerator="cpu", doubts=0, progress=False)
    with pytest.raises(ResultError, match=r"evaluated differently \(seed differ\)"):
        comparison([tmp_path / "one", tmp_path / "two"], evaluation="same")


def test_networks_with_one_name_get_their_folders(runs, tmp_path):
    (tmp_path / "twin").symlink_to(runs / "at")
    names = [network.name for network in comparison([runs / "at", tmp_path / "twin"]).networks]
    assert names == ["AT (at)", "AT (twin)"]


def earlier_version(folder):
    """An evaluation by an earlier version."""
    folder.mkdir(parents=True)
    (folder / HEADER_FILE).write_text('{"format": 1, "suite": "liu2024"}')
    return folder


def test_an_evaluation_by_an_earlier_version_is_left_out(runs, tmp_path):
    for name in ("at", "vanilla"):
        shutil.copytree(runs / name, tmp_path / name)
    old = earlier_version(tmp_path / "at" / "attacks" / "old")
    for paths in ([tmp_path], [tmp_path / "at", tmp_path / "vanilla"]):
        found = comparison(paths)
        assert [network.name for network in found.networks] == ["AT", "vanilla"]
        assert f"Left out: {old / HEADER_FILE} was made by an earlier version" in found.notes[-1]
    shutil.rmtree(tmp_path / "at" / "attacks")
    earlier_version(old)
    found = comparison([tmp_path / "at", tmp_path / "vanilla"])
    assert [network.name for network in found.networks] == ["vanilla"]
    with pytest.raises(ResultError, match="made by an earlier version"):
        comparison([tmp_path / "at"])
    with pytest.raises(ResultError, match="made by an earlier version"):
        evaluation_folders([tmp_path / "at", tmp_path / "at"])


def test_the_first_network_is_tested_against_each_other(runs):
    found = comparison([runs])
    outcomes = [load_outcome(runs / name / "attacks" / folder) for name in ("at", "vanilla") for folder in FULLEST]
    expected = mcnemar(*outcomes)
    (test,) = found.tests
    assert (test.a, test.b) == ("AT", "vanilla")
    assert (test.n, test.only_a, test.only_b, test.p) == (16, expected.only_a, expected.only_b, expected.p)
    assert f"Worst case against AT, sample by sample: vanilla p = {test.p:.2g}" in comparison_table(found).note
    assert comparison([runs / "at"]).tests == ()


FULLEST = [evaluation_name(make_suite(0.3, attacks=["fgsm"], estimators=["rga"]))]


def test_folders_of_evaluations_are_found(runs):
    inside = [runs / name / "attacks" / FULLEST[0] for name in ("at", "vanilla")]
    assert evaluation_folders([runs / "at", runs / "vanilla"]) == inside
    assert evaluation_folders(inside) == inside
    other = evaluation_name(make_suite(0.1, attacks=["fgsm"], estimators=["rga"]))
    assert evaluation_folders([runs / "at", inside[1]], other) == [runs / "at" / "attacks" / other, inside[1]]
    with pytest.raises(ResultError, match="has no evaluation 'fgsm'; "):
        evaluation_folders([runs / "at", runs / "vanilla"], "fgsm")
    with pytest.raises(CheckpointError, match="no run at"):
        evaluation_folders([runs / "at", runs / "nowhere"])


def test_several_processes_take_a_device_each(monkeypatch):
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert device("auto") == torch.device("cuda", 1)
    assert device("cpu") == torch.device("cpu")
    assert taken == [torch.device("cuda", 1)]


# --- tables


@pytest.mark.parametrize(("width", "shown"), [(60, 2), (80, 2), (200, 3)])
def test_a_table_fits_the_terminal_and_names_what_it_leaves_out(width, shown):
    row = ("PGD-10", "50.0 [40.0, 60.0]", "a word that is long " * 4)
    console = Console(width=width, record=True, file=io.StringIO())
    show(Table("title", ("attack", "accuracy", "in words"), (row,), "note"), console, keep=2)
    text = console.export_text()
    assert "50.0" in text
    assert "60.0]" in text
    assert ("Left out for lack of width: in words." in text) == (shown == 2)
    assert max(map(len, text.splitlines())) <= width


def test_signed_numbers_stand_under_each_other():
    console = Console(width=80, record=True, file=io.StringIO())
    show(Table("title", ("a", "difference"), (("x", "-10.5"), ("y", "+1.5"))), console)
    lines = console.export_text().splitlines()
    assert lines[3].index(".5") == lines[4].index(".5")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"warmup_epochs": 3, "epochs": 2}, "warmup_epochs 3 is more than the 2 epochs"),
        ({"lr": float("inf")}, "lr: expected a finite number, got inf"),
        ({"clip_norm": float("nan")}, "clip_norm: expected"),
    ],
)
def test_settings_that_no_training_can_have_are_refused_before_a_folder_is_made(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        Experiment.of(**given)
