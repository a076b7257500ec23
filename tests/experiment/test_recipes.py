"""Recipes: what they hold, what they fill in, and what is refused."""

import pytest
import yaml

from robustspike.attacks import SUITES
from robustspike.data import DATA
from robustspike.data.augment import AUGMENTATIONS
from robustspike.defences import DEFENCES
from robustspike.experiment import Experiment, default_eps, make_objective, make_suite, published, scales, tables
from robustspike.experiment.jobs import Plan
from robustspike.experiment.recipes import OPTIONS, REACHES, RECIPES, figures_of
from robustspike.experiment.record import GROUPS, read_experiment
from robustspike.results import marked

FIELDS = set(Experiment.model_fields)


@pytest.mark.parametrize("data", [*DATA, "some/where.npz"])
@pytest.mark.parametrize("defence", DEFENCES)
def test_every_defence_has_a_record_and_an_objective_on_every_data(data, defence):
    experiment = Experiment.of(data=data, defence=defence)
    assert make_objective(experiment)
    assert make_suite(default_eps(data))
    assert Experiment.of(**yaml.safe_load(experiment.yaml())) == experiment


def test_recipes_of_data_hold_only_what_a_record_has():
    for name in ("papers", *DATA):
        path = RECIPES / f"{name}.yaml"
        recipe = yaml.safe_load(path.read_text()) if path.exists() else {}
        fields = [*recipe.get("settings", {})]
        for group, names in (("optimizer", {"sgd", "adam"}), ("defence", set(DEFENCES))):
            assert set(recipe.get(group, {})) <= names
            fields += [field for values in recipe.get(group, {}).values() for field in values]
        assert set(fields) <= FIELDS
        assert set(recipe) <= {"attack_eps", "settings", "optimizer", "defence"}


def test_cifar_gets_the_papers_settings():
    experiment = Experiment.of(data="cifar10", defence="sr-star")
    assert (experiment.model, experiment.epochs, experiment.batch_size, experiment.lr) == ("vgg11", 200, 64, 0.1)
    assert (experiment.train_eps, experiment.train_steps, experiment.train_step_size) == ("2/255", 5, 0.01)
    assert (experiment.momentum, experiment.schedule, experiment.crop_padding) == (0.9, "cosine", 4)
    assert experiment.flip
    weights = {d: [Experiment.of(data=d, defence=name).weight for name in ("sr", "sr-star")] for d in DATA}
    assert weights["cifar10"] == [0.008, 0.002]
    assert weights["cifar100"] == [0.002, 0.001]


def test_the_attack_in_training_is_the_papers():
    def attack(defence):
        e = Experiment.of(data="cifar10", defence=defence)
        return e.train_attack, e.train_estimators, e.train_loss

    assert attack("vanilla") == attack("sr") == (None, None, None)
    assert attack("tgo") == attack("gr") == ("none", None, None)
    assert attack("at") == attack("sr-star") == attack("mart") == attack("alp") == ("pgd", "bptt", "ce")
    assert attack("trades") == ("pgd", "bptt", "kl")
    assert attack("rat") == ("fgsm", "bptt,bptr", "ce")
    assert make_objective(Experiment.of(data="cifar10", defence="rat")).weight_decay == 0


def test_what_a_defence_does_not_take_is_not_set():
    for defence in DEFENCES:
        record = Experiment.of(defence=defence).model_dump()
        takes = set(DEFENCES[defence].__code__.co_varnames[: sum(
            (DEFENCES[defence].__code__.co_argcount, DEFENCES[defence].__code__.co_kwonlyargcount)
        )])  # fmt: skip
        for option, parameter in OPTIONS.items():
            assert (record[option] is not None) == (parameter in takes), (defence, option)


def test_every_option_of_a_defence_is_a_field_and_has_a_place():
    assert set(REACHES) <= FIELDS
    assert set(REACHES) <= {*GROUPS["Defence"], *GROUPS["Attack in training"]}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"margin": 0.5}, "defence vanilla takes no --margin; leave it out, or choose one that does: tgo"),
        ({"defence": "at", "weight": 1}, "defence at takes no --weight; leave it out, or choose one that does: rat-"),
        ({"defence": "sr", "train_attack": "pgd"}, "defence sr takes no --train-attack; leave it out, or choose one"),
        ({"defence": "sr+at", "mix": 0.5}, "defence sr+at takes no --mix; leave it out, or choose one that does: mppd"),
        (
            {"defence": "at", "train_attack": "none"},
            "defence at needs an attack; choose --train-attack fgsm, rfgsm, pgd",
        ),
        ({"defence": "trades", "train_attack": "fgsm"}, "train_loss kl needs --train-attack pgd or rfgsm"),
        ({"defence": "at", "train_loss": "kll"}, "unknown loss 'kll'; did you mean kl"),
        ({"defence": "at", "train_estimators": "bptt,brga"}, "unknown estimator 'brga'; did you mean rga"),
        ({"defence": "at", "train_estimators": "rga,rga"}, "expected each one once"),
        ({"defence": "sr:0.1+tradse"}, "unknown defence 'tradse'; did you mean trades"),
        ({"defence": "sr+sr:2"}, "sr occurs twice"),
        ({"defence": "sr:much"}, "expected a weight ≥ 0 after the colon, as in \"sr:0.002\", got 'much'"),
        ({"defence": "sr:-1"}, "expected a weight ≥ 0"),
        ({"defence": "at:1"}, "defence at takes no weight, got at:1; write at alone"),
        ({"defence": "sr:1", "weight": 2}, "names every weight itself; leave --weight out"),
        ({"augmentation": "cutoff"}, "unknown augmentation 'cutoff'; did you mean cutout"),
        ({"neuron": "dlf"}, "neuron: expected 'lif' or 'dlif', got 'dlf'"),
        ({"ema": 1}, "ema: expected less than 1, got 1"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=r".") as error:
        Experiment.of(**given)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_augmentations_and_groups_are_complete():
    assert Experiment.of(augmentation="cutout").augmentation in AUGMENTATIONS
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(FIELDS)


# --- sums


def test_a_sum_names_every_weight():
    assert Experiment.of(defence="sr+at").defence == "sr:0.3+at"
    assert Experiment.of(defence="sr+trades:2", weight=0.7).defence == "sr:0.7+trades:2"
    one = Experiment.of(defence="sr:0.5")
    assert (one.defence, one.weight) == ("sr", 0.5)
    several = Experiment.of(defence="at+sr:0.5+trades")
    assert (several.defence, several.weight) == ("at+sr:0.5+trades:6", None)
    assert Experiment.of(**several.model_dump()) == several


def test_in_a_sum_the_first_one_names_the_attack():
    assert Experiment.of(defence="trades+at").train_loss == "kl"
    assert Experiment.of(defence="at+trades").train_loss == "ce"
    assert Experiment.of(defence="tgo+rat").train_estimators == "bptt,bptr"
    assert Experiment.of(defence="at+trades", train_loss="kl").train_loss == "kl"


def test_records_of_earlier_versions_are_read(tmp_path):
    (tmp_path / "experiment.yaml").write_text(
        "data: digits\nmodel: digits-cnn\ndefence: vanilla\nweight: 0.0\nh: 0.01\nclasses: two\npenalty: abs\nepochs: 3\n"
    )
    found = read_experiment(tmp_path)
    assert (found.epochs, found.weight, found.h) == (3, None, None)
    (tmp_path / "experiment.yaml").write_text("defence: sr-star\nweight: 0.2\nh: 0.02\ntrain_steps: 7\n")
    found = read_experiment(tmp_path)
    assert (found.weight, found.h, found.train_attack, found.train_steps) == (0.2, 0.02, "pgd", 7)


# --- published rows


@pytest.mark.parametrize("recipe", published())
def test_every_row_can_be_run_at_every_scale(recipe):
    for scale in scales():
        experiment = Experiment.published(recipe, scale)
        assert make_objective(experiment)
        assert Experiment.of(**experiment.model_dump()) == experiment
    row = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())
    assert set(row) <= FIELDS | {"about", "published"}
    paper = Experiment.published(recipe)
    if recipe.startswith("luu2025"):
        assert recipe == f"luu2025-{paper.data}-{paper.model}-{paper.pooling}"
        assert (paper.epochs, paper.time_steps, paper.train_limit, paper.batch_size) == (100, 10, None, 16)
    else:
        assert recipe == f"liu2024-{paper.data}-{paper.model}-{paper.defence}"
        assert (paper.epochs, paper.time_steps, paper.train_limit, paper.batch_size) == (200, 8, None, 64)


def test_all_rows_are_there():
    names = [f"luu2025-cifar10-sew-resnet{depth}-{pooling}" for depth in (18, 34, 50) for pooling in ("max", "avg")]
    names += [
        f"liu2024-{data}-{model}-{defence}"
        for data in ("cifar10", "cifar100")
        for model in ("vgg11", "wrn16")
        for defence in ("vanilla", "at", "rat", "sr", "sr-star")
    ]
    assert sorted(names) == sorted(published())


def test_scales_hold_only_what_a_record_has():
    for name in scales():
        scale = yaml.safe_load((RECIPES / "scales.yaml").read_text())[name]
        assert set(scale["settings"]) <= FIELDS
        assert set(scale["evaluation"]) <= {"limit", "doubts"}
    assert list(scales()) == ["smoke", "short", "paper"]


def test_rows_and_tables_belong_together():
    for name, table in tables().items():
        assert table["rows"] == [row for row in table["rows"] if name in figures_of(row)]
        assert set(table["rows"]) == {row for row in published() if name in figures_of(row)}
        assert table["suite"] in SUITES
    assert {table for row in published() for table in figures_of(row)} == set(tables())


@pytest.mark.parametrize("name", tables())
def test_every_published_figure_is_of_an_attack_that_is_run(name):
    table = tables()[name]
    suite = Plan(suite=table["suite"], only=table.get("estimator"), eps=table["eps"]).suite_on()
    known = {marked(member.name, getattr(member, "caveat", "")) for member in suite.attacks} | {"clean"}
    for row in table["rows"]:
        for attack, value in figures_of(row)[name].items():
            assert attack.removesuffix(", black box") in known
            assert 0 <= value <= 100


def test_figures_are_the_printed_ones():
    one, three = figures_of("liu2024-cifar10-wrn16-sr-star").values()
    assert list(one.values()) == [85.63, 39.18, 37.04, 36.74, 29.03, 50.84, 50.23, 49.97, 57.93]
    assert list(three.values()) == [85.63, 48.47, 64.65, 37.04, 36.74, 29.03]
    assert figures_of("liu2024-cifar100-wrn16-at")["liu2024-table1"]["PGD-50"] == 7.86
    assert figures_of("liu2024-cifar100-wrn16-at")["liu2024-table3"]["PGD-50"] == 7.68  # so printed
    assert figures_of("liu2024-cifar100-vgg11-rat")["ding2022-table-a1"] == {
        "clean": 70.89,
        "FGSM": 25.86,
        "PGD-7": 10.38,
    }
    # Luu 2025's Table 3 prints by how much it differs from Table 2
    printed = {18: (-1.28, -8.61, 1.98), 34: (-0.48, -7.16, 2.01), 50: (-1.21, -7.26, 1.94)}
    for depth, differences in printed.items():
        row = f"luu2025-cifar10-sew-resnet{depth}"
        two, three = figures_of(f"{row}-max")["luu2025-table2"], figures_of(f"{row}-avg")["luu2025-table3"]
        assert list(two) == list(three) == ["clean", "encoded FGSM †", "encoded PGD-7 †"]
        clean, *attacked = (round(three[name] - two[name], 2) for name in two)
        assert (*attacked, clean) == differences


@pytest.mark.parametrize("row", [name for name in published() if name.startswith("luu2025")])
def test_luus_rows_have_the_papers_settings(row):
    e = Experiment.published(row)
    assert (e.encoder, e.phases, e.surrogate, e.detach_reset, e.normalise) == ("phase", 8, "arctan:2", True, False)
    assert (e.optimizer, e.lr, e.weight_decay, e.schedule) == ("adam", 0.001, 0.001, "constant")
    assert (e.flip, e.crop_padding, e.augmentation, e.defence, e.stem, e.connect) == (
        True, 0, "none", "vanilla", "imagenet", "add",
    )  # fmt: skip


def test_a_row_keeps_the_recipe_of_its_data_wherever_that_is():
    row = "liu2024-cifar100-wrn16-sr-star"
    assert Experiment.published(row).weight == 0.001
    moved = Experiment.published(row, data="c100.npz")
    assert (moved.data, moved.weight) == ("c100.npz", 0.001)
    assert Experiment.published(row, data="cifar10").weight == 0.002
    smoke = Experiment.published(row, "smoke")
    assert (smoke.data, smoke.model, smoke.weight, smoke.flip) == ("digits", "digits-cnn", 0.3, False)


def test_flags_win_over_the_row_and_the_scale():
    given = Experiment.published("liu2024-cifar10-vgg11-sr", "short", epochs=9, defence="vanilla", model="vgg11")
    assert (given.epochs, given.defence, given.model, given.time_steps) == (9, "vanilla", "vgg11", 4)
    with pytest.raises(
        ValueError, match="unknown recipe 'liu2042-cifar10-vgg11-sr'; did you mean liu2024-cifar10-vgg11-sr"
    ):
        Experiment.published("liu2042-cifar10-vgg11-sr")
    with pytest.raises(ValueError, match="unknown scale 'shrot'; did you mean short"):
        Experiment.published("liu2024-cifar10-vgg11-sr", "shrot")
