"""Evaluation: figures that depend on nothing but the model, the data and the seed; resuming; what is refused."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.conftest import InDouble, record_of, small_snn
from torch import nn

from robustspike.attacks import PGD, GaussianNoise, Suite, Transfer, UniformNoise, WorstOf, fgsm, rfgsm, suites
from robustspike.attacks.attempt import Attempt
from robustspike.balls import L2, Linf
from robustspike.data import Split, load
from robustspike.evaluate import evaluate
from robustspike.evaluate.folder import alone
from robustspike.gradients import BPTR, CBA, RGA
from robustspike.models import digits_cnn
from robustspike.processes import Processes
from robustspike.results import HEADER_FILE, ROWS_FILE, ResultError, load_outcome

pytestmark = pytest.mark.usefixtures("one_thread")
BALL = Linf(0.04)


def data(n=13):
    generator = torch.Generator().manual_seed(6)
    images = torch.rand(n, 1, 8, 8, generator=generator)
    with torch.no_grad():
        labels = small_snn().eval()(images).argmax(1)
    labels[::6] = (labels[::6] + 1) % 4  # some are misclassified
    return Split(images, labels)


def attacks():
    return [
        fgsm(BALL, BPTR(), early_stop=True),
        UniformNoise(BALL, tries=2),
        PGD(BALL, steps=2, estimator=CBA()),
        PGD(BALL, steps=3, restarts=2, samples=2, early_stop=True),
        GaussianNoise(BALL),
    ]


def run(model=None, split=None, members=None, **options):
    model = InDouble(small_snn()) if model is None else model
    split = data() if split is None else split
    return evaluate(model, split, members or attacks(), **{"progress": False, "seed": 5, "doubts": 0} | options)


def rows(outcome):
    """All that an outcome says of each sample, but for the seconds."""
    attempts = outcome.attempts[:, :, :-1]
    return np.concatenate([outcome.labels[:, None], outcome.clean[:, None], attempts.reshape(len(attempts), -1)], 1)


def assert_same_rows(a, b):
    np.testing.assert_allclose(rows(a), rows(b), rtol=0, atol=1e-12)


# Figures


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=["direct", "poisson"])
@pytest.mark.parametrize("survivors_only", [True, False])
def test_figures_do_not_depend_on_the_batch_size(options, survivors_only):
    model = InDouble(small_snn(**options))
    whole = run(model, batch_size=64, survivors_only=survivors_only)
    assert whole.robust_accuracy < whole.clean_accuracy < 1
    assert whole.robust.any() or options
    for batch_size in (1, 3, 8):
        assert_same_rows(run(model, batch_size=batch_size, survivors_only=survivors_only), whole)


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=["direct", "poisson"])
def test_figures_do_not_depend_on_the_order_of_the_samples(options):
    model, split = InDouble(small_snn(**options)), data()
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    assert_same_rows(run(model, split.subset(order), batch_size=4), run(model, split, batch_size=4))


def test_a_sample_keeps_its_draws_in_a_part_of_the_split():
    model, split = InDouble(small_snn(encoder="poisson")), data()
    whole, part = run(model, split), run(model, split.subset(torch.tensor([2, 7, 11])))
    assert part.samples.tolist() == [2, 7, 11]
    np.testing.assert_allclose(rows(part), rows(whole)[[2, 7, 11]], rtol=0, atol=1e-12)


def test_a_member_keeps_its_draws_beside_others():
    members = [UniformNoise(BALL), PGD(BALL, steps=2), GaussianNoise(BALL)]
    all_ = run(InDouble(small_snn()), members=members, survivors_only=False)
    last = run(InDouble(small_snn()), members=members[2:], survivors_only=False)
    np.testing.assert_array_equal(last.fooled[:, 0], all_.fooled[:, 2])
    np.testing.assert_array_equal(last.field("distance")[:, 0], all_.field("distance")[:, 2])


def test_a_sample_that_stands_twice_in_the_split_is_refused():
    with pytest.raises(ValueError, match="occurs twice"):
        run(split=data().subset(torch.tensor([1, 1])))


def test_answers_that_are_no_numbers_are_errors():
    class Breaking(nn.Module):
        """Class 0 for the images as they are, not a number for all others."""

        def forward(self, x):
            moved = (x != 0.5).flatten(1).any(1, keepdim=True)
            return torch.where(moved, torch.nan, torch.tensor([[1.0, 0.0]])) + 0 * x.flatten(1).sum(1, keepdim=True)

    split = Split(torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64))
    outcome = run(Breaking(), split, [UniformNoise(BALL)])
    assert (outcome.clean_accuracy, outcome.robust_accuracy) == (1, 0)


def test_chance_that_nobody_declares_is_found():
    class Noisy(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4] + torch.rand(len(x), 4)

    assert run(nn.Sequential(small_snn(encoder="poisson"))).header.calls == 10
    assert run(Noisy(), members=[fgsm(BALL)]).header.calls == 10
    assert run(small_snn()).header.calls == 1


def test_the_seed_decides_and_another_seed_differs():
    model = InDouble(small_snn(encoder="poisson"))
    first = run(model)
    torch.manual_seed(77)
    assert_same_rows(run(model), first)
    assert not np.array_equal(rows(run(model, seed=6)), rows(first), equal_nan=True)


def test_survivors_only_gives_the_same_robust_samples():
    few, all_ = run(survivors_only=True), run(survivors_only=False)
    np.testing.assert_array_equal(few.robust, all_.robust)
    np.testing.assert_array_equal(few.first_break(), all_.first_break())
    assert few.tried.sum() < all_.tried.sum() == all_.correct.sum() * 5
    assert (few.tried <= all_.tried).all()
    both = few.tried
    np.testing.assert_allclose(few.attempts[both][:, :-1], all_.attempts[both][:, :-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=["direct", "poisson"])
def test_the_worst_case_is_no_higher_than_any_member_and_attacks_only_lower_it(options):
    model = InDouble(small_snn(**options))
    whole = run(model, survivors_only=False)
    summary = whole.summary()
    assert all(whole.robust_accuracy <= m.alone.value <= whole.clean_accuracy for m in summary.members)
    assert all(whole.robust_accuracy <= r.value for r in summary.by_attack.values())
    accuracies = [run(model, members=attacks()[: k + 1]).robust_accuracy for k in range(5)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] == whole.robust_accuracy
    assert [m.standing_after.value for m in summary.members] == accuracies


def test_more_eps_never_helps_the_defender():
    accuracies = [run(members=suites.liu2024(eps)).robust_accuracy for eps in (0, 0.01, 0.03, 0.1, 1)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == run().clean_accuracy
    assert accuracies[-1] == 0


def test_every_row_agrees_with_the_attack_run_alone():
    model, split, attack = InDouble(small_snn()), data(), PGD(BALL, steps=3, random_start=False)
    outcome = run(model, split, [attack])
    x_adv = attack(model, split.images.double(), split.labels)
    with torch.no_grad():
        predicted = model.eval()(x_adv).argmax(1).numpy()
    tried = outcome.tried[:, 0]
    np.testing.assert_array_equal(tried, outcome.correct)
    np.testing.assert_array_equal(outcome.field("predicted")[tried, 0], predicted[tried])
    np.testing.assert_array_equal(outcome.fooled[tried, 0], (predicted != split.labels.numpy())[tried])
    distance = (x_adv.double() - split.images.double()).abs().flatten(1).amax(1).numpy()
    np.testing.assert_array_equal(outcome.field("distance")[tried, 0], distance[tried])
    assert (outcome.field("gradients")[tried] == 3).all()


@pytest.mark.parametrize("ball", [Linf("8/255"), Linf(1), L2(0.7), L2(20)], ids=str)
def test_the_largest_distance_is_measured_and_within_eps(ball):
    outcome = run(small_snn(), members=[PGD(ball, steps=2), UniformNoise(ball)], survivors_only=False)
    largest = [m.largest_distance for m in outcome.summary().members]
    assert max(largest) <= ball.eps + 1e-6
    assert min(largest) > 0.5 * min(ball.eps, 1)
    assert outcome.header.norm == ball.norm


def test_gradient_health_is_booked_to_the_samples():
    class Flat(nn.Module):
        """Class 0 for everyone, by rounding: the gradient is zero everywhere."""

        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1).round() * 0 + 1, x.flatten(1).sum(1) * 0], 1)

    split = Split(torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 0, 1]))
    (member,) = run(Flat(), split, [PGD(BALL, steps=3)]).summary().members
    assert (member.tried, member.gradients, member.zero_share, member.nan_share) == (3, 9, 1.0, 0.0)


def test_a_network_that_knows_digits_is_broken_by_the_ensemble(trained, digits):
    accuracies = [row.validation_accuracy for row in trained.log]
    assert accuracies == [None] * len(trained.log)
    outcome = evaluate(
        trained.model, digits.test.subset(60), suites.liu2024(0.15, steps=(3,), apgd_steps=0), doubts=0, progress=False
    )
    assert outcome.clean_accuracy > 0.7
    assert outcome.robust_accuracy < 0.5 * outcome.clean_accuracy
    assert len(outcome.table().rows) == 14


def test_the_header_says_what_was_measured():
    model = small_snn(encoder="poisson")
    h = run(model, model_name="mine", data_name="toy", batch_size=5).header
    assert (h.suite, h.norm, h.eps, h.seed, h.n, h.batch_size) == ("custom", "Linf", 0.04, 5, 13, 5)
    assert (h.model, h.data, h.calls) == ("mine", "toy", 10)
    assert [m.attack for m in h.members] == [
        "FGSM",
        "uniform noise ×2",
        "PGD-2",
        "PGD-3, 2 restarts, 2 draws",
        "Gaussian noise",
    ]
    assert [m.estimator for m in h.members] == ["BPTR", "–", "CBA", "BPTT own surrogate", "–"]
    assert torch.__version__.startswith(h.versions["torch"])
    other = small_snn(encoder="poisson")
    nn.init.zeros_(other.head.bias)
    assert run(other).header.weights_fingerprint != h.weights_fingerprint


def test_the_model_comes_back_as_it_was():
    model = small_snn().train()
    model.layers[1].eval()
    model.head.weight.requires_grad_(False)
    before = record_of(model)
    run(model)
    assert record_of(model) == before

    class Failing:
        name, ball = "failing", BALL

        def run(self, model, x, y, draws=None):
            PGD(BALL).run(model, x, y, draws)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        run(model, members=[Failing()])
    assert record_of(model) == before


def test_an_attack_that_leaves_its_ball_is_noticed():
    class Cheating:
        name, ball = "cheating", BALL

        def run(self, model, x, y, draws=None):
            return Attempt.begin((x + 0.041).clamp(0, 1))

    with pytest.raises(ResultError, match="cheating left its ball"):
        run(members=[Cheating()])


# On disk


def lines(folder):
    """The lines of samples.jsonl without the seconds."""
    found = [json.loads(line) for line in (folder / ROWS_FILE).read_text().splitlines()]
    for row in found:
        for attempt in row["attempts"]:
            del attempt["seconds"]
    return found


def test_what_is_written_is_what_is_returned(tmp_path):
    outcome = run(out=tmp_path / "deep" / "e", batch_size=4)
    loaded = load_outcome(tmp_path / "deep" / "e")
    assert loaded.header == outcome.header
    np.testing.assert_array_equal(loaded.attempts, outcome.attempts)
    assert [row["sample"] for row in lines(tmp_path / "deep" / "e")] == list(range(13))


@pytest.mark.parametrize("cut", ["mid-line", "mid-block", "whole block", "everything", "last newline", "no file"])
@pytest.mark.parametrize("options", [{}, {"encoder": "poisson"}], ids=["direct", "poisson"])
def test_a_run_cut_short_resumes_to_the_same_rows(tmp_path, cut, options):
    model = InDouble(small_snn(**options))
    whole = run(model, out=tmp_path, batch_size=4)
    expected, path = lines(tmp_path), tmp_path / ROWS_FILE
    text = path.read_text().splitlines(keepends=True)
    left = {
        "mid-line": "".join(text[:6]) + text[6][: len(text[6]) // 2],
        "mid-block": "".join(text[:6]),
        "whole block": "".join(text[:8]),
        "everything": "",
        "last newline": "".join(text)[:-1],
        "no file": "",
    }[cut]
    path.write_text(left)
    if cut == "no file":
        path.unlink()
    seen = []
    model.network.register_forward_hook(lambda *_: seen.append(1))
    again = run(model, out=tmp_path, batch_size=4, resume=True)
    assert_same_rows(again, whole)
    assert sorted(lines(tmp_path), key=lambda row: row["sample"]) == expected
    assert (len(seen) > 1) == (cut != "last newline")  # one pass looks at the labels
    assert_same_rows(load_outcome(tmp_path), whole)


def test_a_finished_run_resumes_without_work(tmp_path):
    model = small_snn()
    first = run(model, out=tmp_path)
    before = (tmp_path / ROWS_FILE).read_bytes()
    again = run(model, out=tmp_path, resume=True)
    np.testing.assert_array_equal(again.attempts, first.attempts)
    assert (tmp_path / ROWS_FILE).read_bytes() == before


def test_a_crash_costs_one_batch(tmp_path):
    class Crashing(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.network = InDouble(small_snn())

        def forward(self, x):
            Crashing.calls += 1
            if Crashing.calls == 8:
                raise KeyboardInterrupt
            return self.network(x)

    members = [PGD(BALL, steps=2, random_start=False)]
    model = Crashing()
    with pytest.raises(KeyboardInterrupt):
        run(model, members=members, out=tmp_path, batch_size=4)
    assert [row["sample"] for row in lines(tmp_path)] == [0, 1, 2, 3]
    outcome = run(model, members=members, out=tmp_path, batch_size=4, resume=True)
    assert_same_rows(outcome, run(members=members))


SCRIPT = """
import sys, torch
from tests.test_evaluate import run, small_snn
run(small_snn(), out=sys.argv[1], resume=True, batch_size=4)
"""


def test_another_process_can_resume(tmp_path):
    """Headers hold no memory addresses."""
    run(small_snn(), out=tmp_path, batch_size=4)
    path = tmp_path / ROWS_FILE
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:4]))
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, timeout=120)
    assert len(load_outcome(tmp_path).samples) == 13


def test_a_folder_in_use_is_refused_without_resume(tmp_path):
    run(out=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ResultError, match=r"holds an evaluation already; resume it \(--resume\), or choose another"):
        run(out=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def other_weights():
    model = small_snn()
    nn.init.zeros_(model.head.bias)
    return model


OTHERS = {
    "seed": lambda: {"seed": 6},
    "members": lambda: {"members": attacks()[:-1]},
    "eps": lambda: {"members": [dataclasses.replace(a, ball=Linf(0.05)) for a in attacks()]},
    "batch_size": lambda: {"batch_size": 7},
    "survivors_only": lambda: {"survivors_only": False},
    "weights_fingerprint": lambda: {"model": other_weights()},
    "data_fingerprint": lambda: {"split": Split(data().images, (data().labels + 1) % 4)},
    "n": lambda: {"split": data(9)},
    "data": lambda: {"data_name": "other"},
}


@pytest.mark.parametrize("field", OTHERS)
def test_the_folder_of_another_evaluation_is_refused_naming_the_field(tmp_path, field):
    run(small_snn(), out=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ResultError, match=rf"holds another evaluation: (.*, )?{field}(, .*)? differ; choose another"):
        run(**{"model": small_snn(), "out": tmp_path, "resume": True} | OTHERS[field]())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("member", ["transfer", "worst"])
def test_an_evaluation_of_composed_attacks_resumes(tmp_path, member):
    made = {
        "transfer": Transfer(fgsm(BALL), small_snn(threshold=0.5)),
        "worst": WorstOf((fgsm(BALL), rfgsm(BALL, RGA()))),
    }[member]
    model = small_snn()
    first = run(model, members=[made], out=tmp_path)
    again = run(model, members=[made], out=tmp_path, resume=True)
    np.testing.assert_array_equal(again.attempts, first.attempts)


def test_a_transfer_from_other_weights_is_another_evaluation(tmp_path):
    run(small_snn(), members=[fgsm(BALL), Transfer(fgsm(BALL), small_snn())], out=tmp_path)
    with pytest.raises(ResultError, match="members"):
        run(small_snn(), members=[fgsm(BALL), Transfer(fgsm(BALL), other_weights())], out=tmp_path, resume=True)


def test_the_header_is_written_before_the_first_row(tmp_path):
    class Failing(nn.Module):
        def forward(self, x):
            if len(x) > 2:
                raise RuntimeError("on the first batch")
            return torch.zeros(len(x), 10)

    with pytest.raises(RuntimeError, match="first batch"):
        run(Failing(), out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [HEADER_FILE]
    with pytest.raises(ResultError, match="holds 0 of 13 samples"):
        load_outcome(tmp_path)


# Refused


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^the split to evaluate is empty; give it at least one image"):
        run(split=Split(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)), out=tmp_path / "e")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("where", [0, 12])
def test_labels_outside_the_models_classes_are_refused(where):
    split = data()
    split.labels[where] = 4
    with pytest.raises(ValueError, match=r"^labels go up to 4, but the model has only 4 classes"):
        run(split=split, batch_size=4)


def test_no_attack_is_refused():
    with pytest.raises(ValueError, match=r"^give at least one attack, or a suite such as suites.liu2024\('8/255'\)"):
        evaluate(small_snn(), data(), [], progress=False)


def test_attacks_on_different_balls_are_refused():
    with pytest.raises(ValueError, match=r"^attacks of one evaluation must share one ball, got "):
        run(members=[fgsm(Linf(0.1)), fgsm(Linf(0.2))])


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^small takes inputs \[N, 1, 8, 8\], got \[1, 3, 8, 8\]"):
        run(small_snn(), Split(torch.rand(13, 3, 8, 8), data().labels))


def test_a_suite_gives_its_name_and_ball():
    outcome = run(members=Suite("named", BALL, (fgsm(BALL),)))
    assert (outcome.header.suite, outcome.header.eps) == ("named", 0.04)


@pytest.mark.parametrize("other", [{"time_steps": 3}, {"threshold": 0.9}, {"leak": 0.5}], ids=str)
def test_another_network_with_the_same_weights_is_another_evaluation(tmp_path, other):
    model, twin = small_snn(), small_snn(**other)
    twin.load_state_dict(model.state_dict())
    run(model, out=tmp_path)
    with pytest.raises(ResultError, match="holds another evaluation: weights_fingerprint differ"):
        run(twin, out=tmp_path, resume=True)


def test_an_attack_outside_the_pixel_box_is_refused():
    class Brighter:
        name, ball = "brighter", Linf(0.5)

        def run(self, model, x, y, draws=None):
            attempt = Attempt.begin(x)
            attempt.x_adv = x + 0.4
            return attempt

    with pytest.raises(ResultError, match=r"brighter left the box \[0, 1\]"):
        run(members=[Brighter()])


def test_an_answer_needs_more_than_half_of_the_calls():
    class Torn(nn.Module):
        """Class 0 in four calls of ten, classes 1 and 2 in three each."""

        stochastic = True

        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            answer = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0][self.calls % 10]
            return torch.nn.functional.one_hot(torch.full((len(x),), answer), 10).float()

    split = data()
    split = split.subset((split.labels == 0).nonzero().flatten())
    assert run(Torn(), split, members=[UniformNoise(Linf(0.1))]).clean_accuracy == 0


def test_a_float64_model_is_evaluated_in_float64():
    seen = []
    model = small_snn().double()
    model.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    assert 0 <= run(model).robust_accuracy <= 1
    assert set(seen) == {torch.float64}


def test_findings_of_an_evaluation_that_is_gone_are_not_taken_over(tmp_path):
    run(out=tmp_path)
    (tmp_path / "doubts.json").write_text("of another evaluation")
    (tmp_path / HEADER_FILE).unlink()
    assert run(out=tmp_path).doubts is None


def test_a_folder_takes_one_evaluation_at_a_time(tmp_path):
    model, data, attack = digits_cnn(time_steps=1), load("digits").test.subset(4), fgsm(Linf(0.1))
    with (
        alone(tmp_path / "a", Processes()),
        pytest.raises(ResultError, match="another process is writing to .*torchrun"),
    ):
        evaluate(model, data, attack, out=tmp_path / "a", doubts=0, progress=False)
    assert evaluate(model, data, attack, out=tmp_path / "a", doubts=0, progress=False).finished
