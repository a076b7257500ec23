"""Training: it learns, it repeats, it resumes to the same weights, and it stops in time with nothing lost."""

import errno
import json
import math

import pytest
import torch
from tests.conftest import small_snn

from robustspike import checkpoints
from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.checkpoints import CheckpointError, fingerprint, load_model, read_tensors, save_model
from robustspike.data import Split
from robustspike.defences import Objective, at, sr, sr_star, vanilla
from robustspike.models import digits_cnn
from robustspike.train import TrainingError, clean_accuracy, fit, learning_rate_factor

pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed=0):
    torch.manual_seed(seed)
    return digits_cnn(num_classes=4, time_steps=1, threshold=0.3)


def data(n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 4)


QUICK = {"epochs": 4, "batch_size": 8, "crop_padding": 1, "lr": 0.01, "progress": False, "accelerator": "cpu"}


def train(model=None, objective=None, split=None, **options):
    model = network() if model is None else model
    objective, split = objective or vanilla(), data() if split is None else split
    log = fit(model, split, objective, **QUICK | options)
    return model, log


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


# Learning


def test_vanilla_training_learns_digits(trained, digits):
    losses = [row.loss for row in trained.log]
    assert losses[-1] < 0.5 * losses[0]
    assert clean_accuracy(trained.model, digits.test) > 0.7


@pytest.mark.parametrize(
    "objective", [vanilla(), sr(0.1), at(PGD(Linf(0.05), steps=2)), sr_star(PGD(Linf(0.05), 1), 0.1)]
)
def test_every_objective_trains(objective, digits):
    torch.manual_seed(0)
    model, split = digits_cnn(time_steps=1, threshold=0.5), digits.train.subset(64)
    _, log = train(model, objective, split, epochs=5, lr=0.05, crop_padding=0, flip=False)
    assert log[-1].loss < 0.8 * log[0].loss
    assert [row.epoch for row in log] == list(range(5))
    assert all(p.isfinite().all() for p in model.parameters())


def test_one_epoch_of_plain_sgd_is_what_torch_does():
    """Batches of torch.randperm under the epoch's seed, momentum and weight decay, no augmentation."""
    model, log = train(epochs=1, crop_padding=0, flip=False, momentum=0.8, weight_decay=0.01, seed=7)
    other, split, losses = network().train(), data(), []
    optimizer = torch.optim.SGD(other.parameters(), 0.01, 0.8, weight_decay=0.01)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(7 * 1_000_003))
    for which in order.split(8):
        optimizer.zero_grad()
        loss = vanilla()(other, split.images[which], split.labels[which])
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(which))
    for name, value in model.state_dict().items():  # up to the rounding of fused steps
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-5, atol=1e-7)
    assert log[0].loss == pytest.approx(sum(losses) / 20)


def test_the_weight_decay_of_the_objective_is_the_default():
    objective = Objective("mine", vanilla().terms, weight_decay=0.3)
    assert fingerprint(train(objective=objective)[0]) == fingerprint(train(weight_decay=0.3)[0])
    assert fingerprint(train(objective=objective)[0]) != fingerprint(train()[0])


def test_adam_takes_its_own_default_rate():
    assert train(optimizer="adam", lr=None, schedule="constant")[1][0].lr == 1e-3
    assert train(lr=None, schedule="constant")[1][0].lr == 0.1


# Schedules


def test_the_cosine_by_hand():
    got = [learning_rate_factor("cosine", step, 2, 4) for step in range(9)]
    quarter = math.sqrt(0.5) / 2
    assert got == pytest.approx([1, 1, 0.5 + quarter, 0.5 + quarter, 0.5, 0.5, 0.5 - quarter, 0.5 - quarter, 0])


def test_one_cycle_by_hand():
    # 100 steps: from 1/25 to 1 over the first 30, halfway at 15 (0.52), then to 0 over 70, half at 65.
    points = {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.5, 100: 0.0}
    assert {s: learning_rate_factor("one-cycle", s, 10, 10) for s in points} == pytest.approx(points)
    rising = [learning_rate_factor("one-cycle", s, 10, 10) for s in range(101)]
    assert rising[:31] == sorted(rising[:31])
    assert rising[30:] == sorted(rising[30:], reverse=True)


def test_one_cycle_is_the_shape_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1001, final_div_factor=1e9)
    for step in range(1000):
        assert learning_rate_factor("one-cycle", step, 100, 10) == pytest.approx(theirs.get_last_lr()[0], abs=0.005)
        optimizer.step()
        theirs.step()


def test_a_constant_rate():
    assert {learning_rate_factor("constant", s, 3, 4) for s in range(12)} == {1.0}


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", [0.01 * 0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]),
        ("one-cycle", [0.01 * learning_rate_factor("one-cycle", s, 3, 4) for s in (2, 5, 8, 11)]),
        ("constant", [0.01] * 4),
    ],
)
def test_the_log_says_the_rate_of_the_last_step_of_each_epoch(schedule, rates):
    assert [row.lr for row in train(schedule=schedule)[1]] == pytest.approx(rates)


# Repeating


ATTACKED = at(PGD(Linf(0.1), steps=2))


def test_the_same_seed_gives_the_same_weights_and_another_others():
    first, log = train(objective=ATTACKED, seed=3)
    torch.manual_seed(55)
    again, log_again = train(network(), ATTACKED, seed=3)
    assert fingerprint(again) == fingerprint(first)
    assert [row.loss for row in log_again] == [row.loss for row in log]
    assert fingerprint(train(objective=ATTACKED, seed=4)[0]) != fingerprint(first)


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_the_global_random_numbers_are_left_alone(encoder):
    model = small_snn(encoder=encoder)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(model, ATTACKED, validation=data(8, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_random_numbers_do_not_matter():
    accuracies = []
    for seed in (1, 2):
        model = small_snn(encoder="poisson")
        torch.manual_seed(seed)
        model, log = train(model, ATTACKED, validation=data(40, seed=1))
        accuracies.append(([(row.loss, row.validation_accuracy) for row in log], fingerprint(model)))
    assert accuracies[0] == accuracies[1]


def test_every_epoch_has_its_own_order_and_its_own_augmentation():
    class Watching:
        differentiates_input = False
        seen = ()

        def __call__(self, batch):
            self.seen += (batch.x.clone(),)
            return torch.nn.functional.cross_entropy(batch.logits, batch.y)

    def epochs(**options):
        term = Watching()
        train(objective=Objective("watching", ((1.0, term),)), epochs=2, **options)
        return torch.cat(term.seen[:3]), torch.cat(term.seen[3:])

    def sorted_images(x):
        return sorted(map(tuple, x.flatten(1).tolist()))

    first, second = epochs(crop_padding=0, flip=False)
    assert not torch.equal(first, second)
    assert sorted_images(first) == sorted_images(second) == sorted_images(data().images)
    first, second = epochs(crop_padding=1, flip=True)
    assert sorted_images(first) != sorted_images(second)
    assert sorted_images(first) != sorted_images(data().images)


def test_writing_and_validating_change_no_weight(tmp_path):
    plain = fingerprint(train()[0])
    assert fingerprint(train(out=tmp_path, validation=data(8, seed=1))[0]) == plain


# Stopping and resuming


class Killed(BaseException):
    """As a kill would end it: past every `except Exception`."""


class Stopping:
    """Cross-entropy that kills the process at a given call."""

    differentiates_input = False

    def __init__(self, at):
        self.at, self.calls = at, 0

    def __repr__(self):
        return "cross-entropy, until killed"

    def __call__(self, batch):
        self.calls += 1
        if self.calls == self.at:
            raise Killed
        return torch.nn.functional.cross_entropy(batch.logits, batch.y)


def stopping(at, name="vanilla"):
    return Objective(name, ((1.0, Stopping(at)),))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("call", [1, 4, 8, 12], ids=["first step", "after epoch 1", "in epoch 3", "in the last step"])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, optimizer, call):
    options = {"optimizer": optimizer, "validation": data(8, seed=1), "schedule": "one-cycle"}
    whole, log = train(objective=stopping(0), **options, out=tmp_path / "whole")
    with pytest.raises(Killed):
        train(objective=stopping(call), **options, out=tmp_path / "cut")
    done = (call - 1) // 3
    for name in ("weights.safetensors", "state.safetensors"):
        (tmp_path / "cut").mkdir(exist_ok=True)
        (tmp_path / "cut" / f".{name}.1.unfinished").write_bytes(b"half a file")
    again, log_again = train(
        network(seed=9) if done else network(), stopping(0), **options, out=tmp_path / "cut", resume=True
    )
    assert fingerprint(again) == fingerprint(whole)
    assert [(r.epoch, r.loss, r.lr, r.validation_accuracy) for r in log_again] == [
        (r.epoch, r.loss, r.lr, r.validation_accuracy) for r in log
    ]
    for name in ("weights.safetensors", "best.safetensors"):
        assert fingerprint(load_model(tmp_path / "cut" / name)) == fingerprint(load_model(tmp_path / "whole" / name))


@pytest.mark.parametrize("write", range(1, 9))
def test_a_kill_between_two_files_loses_no_more_than_an_epoch(tmp_path, monkeypatch, write):
    """Each epoch replaces best (here: as it happens), weights, log and state in turn."""
    whole = fingerprint(train()[0])
    replace, calls = checkpoints.os.replace, []

    def counted(source, target):
        calls.append(target)
        if len(calls) == write:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as m:
        m.setattr(checkpoints.os, "replace", counted)
        with pytest.raises(Killed):
            train(out=tmp_path)
    again, log = train(out=tmp_path, resume=True)
    assert fingerprint(again) == whole
    assert len(log) == 4
    assert fingerprint(load_model(tmp_path)) == whole


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    train(out=tmp_path, epochs=4, objective=stopping(0))
    state, written = (tmp_path / "state.safetensors"), []
    before = fingerprint(load_model(tmp_path))

    def full(path, content):
        written.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.Path, "write_bytes", full)
    state.unlink()
    with pytest.raises(OSError, match="No space left"):
        train(out=tmp_path, epochs=1, resume=True)
    assert written
    assert fingerprint(load_model(tmp_path)) == before


def test_a_finished_run_resumes_to_itself(tmp_path, monkeypatch):
    model, log = train(out=tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(Objective, "__call__", None)  # training on would raise
    again, log_again = train(network(seed=5), out=tmp_path, resume=True)
    assert log_again == log
    assert fingerprint(again) == fingerprint(model)
    assert files(tmp_path) == before


def test_resume_without_a_run_starts_one(tmp_path):
    assert fingerprint(train(out=tmp_path / "new", resume=True)[0]) == fingerprint(train()[0])


def test_a_folder_in_use_is_refused_without_resume(tmp_path):
    train(out=tmp_path, epochs=1)
    before = files(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"holds a training run already; resume it \(--resume\), or choose another"
    ):
        train(out=tmp_path, epochs=1)
    assert files(tmp_path) == before


def test_weights_that_are_there_are_not_written_over(tmp_path):
    save_model(network(seed=1), tmp_path / "weights.safetensors")
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match="choose another folder"):
        train(out=tmp_path, epochs=1)
    assert files(tmp_path) == before


OTHERS = {
    "epochs": {"epochs": 5},
    "batch_size": {"batch_size": 7},
    "lr": {"lr": 0.02},
    "optimizer": {"optimizer": "adam"},
    "momentum": {"momentum": 0.5},
    "weight_decay": {"weight_decay": 0.0},
    "schedule": {"schedule": "constant"},
    "crop_padding": {"crop_padding": 0},
    "flip": {"flip": False},
    "precision": {"precision": "bf16-mixed"},
    "seed": {"seed": 1},
    "n": {"split": data(16)},
    "data_fingerprint": {"split": data(20, seed=5)},
    "objective": {"objective": sr()},
}


@pytest.mark.parametrize("field", OTHERS)
def test_other_settings_are_refused_on_resume_naming_the_field(tmp_path, field):
    train(out=tmp_path, epochs=4)
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match=rf"belongs to another run: (.*, )?{field}(, .*)? differ; choose another"):
        train(**{"out": tmp_path, "resume": True} | OTHERS[field])
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "pair",
    [(sr(0.1), sr(0.2)), (sr(0.1), sr(0.1, penalty="square")), (ATTACKED, at(PGD(Linf(0.2), steps=2)))],
    ids=["weight", "penalty", "attack"],
)
def test_another_setting_of_the_objective_is_refused_on_resume(tmp_path, pair):
    train(objective=pair[0], out=tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="belongs to another run: objective differ"):
        train(objective=pair[1], out=tmp_path, epochs=1, resume=True)


def test_another_architecture_is_refused_on_resume(tmp_path):
    train(out=tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match=r"state.safetensors belongs to another run: architecture differ"):
        train(digits_cnn(num_classes=6, time_steps=1), out=tmp_path, epochs=1, resume=True)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_damaged_state_is_refused_by_name(tmp_path, length):
    train(out=tmp_path, epochs=1)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"state.safetensors is no readable safetensors file"):
        train(out=tmp_path, epochs=1, resume=True)


# Losses that are not finite


class Sick:
    """Cross-entropy that becomes NaN or ∞, or whose gradient does, at a given call."""

    differentiates_input = False

    def __init__(self, at, value):
        self.at, self.value, self.calls = at, value, 0

    def __call__(self, batch):
        self.calls += 1
        loss = torch.nn.functional.cross_entropy(batch.logits, batch.y)
        if self.calls != self.at:
            return loss
        if self.value == "gradient":
            batch.logits.register_hook(lambda g: g * math.nan)
            return loss
        return loss * self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(tmp_path, value):
    sick = Objective("sick", ((1.0, Sick(8, value)),))
    with pytest.raises(TrainingError) as caught:
        train(objective=sick, out=tmp_path)
    last = tmp_path / "weights.safetensors"
    assert str(caught.value) == (
        f"the loss became {value} in epoch 3, step 2; the last good checkpoint is {last} (epoch 2); "
        "try a lower learning rate"
    )
    two = network()
    with pytest.raises(Killed):
        train(two, stopping(7))
    named = load_model(last)
    for (name, p), q in zip(named.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert all(t.isfinite().all() for t in named.state_dict().values())


def test_a_loss_that_is_nan_at_once_says_that_there_is_no_checkpoint(tmp_path):
    sick = Objective("sick", ((1.0, Sick(1, math.nan)),))
    with pytest.raises(TrainingError, match=r"^the loss became nan in epoch 1, step 1; no checkpoint had been written"):
        train(objective=sick, out=tmp_path)
    assert files(tmp_path) == {}


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(tmp_path):
    """The gradient of an epoch's last step is NaN, the loss is not: only the next loss would show it."""
    sick = Objective("sick", ((1.0, Sick(6, "gradient")),))
    with pytest.raises(TrainingError):
        train(objective=sick, out=tmp_path)
    assert all(t.isfinite().all() for t in load_model(tmp_path).state_dict().values())


# Files


def test_the_log_has_one_line_for_each_epoch(tmp_path):
    _, log = train(out=tmp_path, validation=data(8, seed=1))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert [line["loss"] for line in lines] == [row.loss for row in log]
    assert all(0 <= line["validation_accuracy"] <= 1 and line["seconds"] > 0 for line in lines)


def test_the_best_checkpoint_is_the_first_of_the_highest_validation_accuracy(tmp_path):
    """The accuracies are made: 1/4, 3/4, 3/4, 1/2. Epoch 2 is the best."""
    validation, weights = data(4), []
    rates = iter([[0], [0, 1, 2], [0, 1, 2], [0, 1]])

    class Made(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4, 64))

        def forward(self, x):
            if self.training:
                return x.flatten(1) @ self.weight.T
            if len(x) < 4:
                return torch.zeros(len(x), 4)
            weights.append(self.weight.detach().clone())
            right = next(rates)
            answers = torch.tensor([i if i in right else (i + 1) % 4 for i in range(4)])
            return torch.nn.functional.one_hot(answers, 4).float()

    _, log = train(Made(), out=tmp_path, validation=validation)
    assert [row.validation_accuracy for row in log] == [0.25, 0.75, 0.75, 0.5]
    best, record = read_tensors(tmp_path / "best.safetensors")
    assert torch.equal(best["weight"], weights[1])
    assert record["history"]["epochs_done"] == 2
    assert torch.equal(read_tensors(tmp_path / "weights.safetensors")[0]["weight"], weights[3])


def test_the_checkpoint_says_where_it_comes_from(tmp_path):
    model, _ = train(out=tmp_path, objective=sr(0.1))
    _, record = read_tensors(tmp_path / "weights.safetensors")
    assert record["model"] == model.settings.record()
    assert record["history"]["epochs_done"] == 4
    schedule = record["history"]["schedule"]
    assert (schedule["epochs"], schedule["batch_size"], schedule["n"]) == (4, 8, 20)
    assert not (tmp_path / "best.safetensors").exists()
    assert sorted(files(tmp_path)) == ["log.jsonl", "state.safetensors", "weights.safetensors"]


def test_bfloat16_keeps_the_weights_in_float32_and_differs(tmp_path):
    model, log = train(precision="bf16-mixed", out=tmp_path)
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
    assert all(math.isfinite(row.loss) for row in log)
    exact, exact_log = train()
    assert fingerprint(model) != fingerprint(exact)
    assert log[-1].loss == pytest.approx(exact_log[-1].loss, rel=0.2)
    again, _ = train(precision="bf16-mixed")
    assert fingerprint(again) == fingerprint(model)


# Refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "^epochs and batch_size must be ≥ 1, got 0 and 8"),
        ({"batch_size": 0}, "^epochs and batch_size must be ≥ 1, got 4 and 0"),
        ({"optimizer": "lion"}, '^optimizer must be "sgd" or "adam", got \'lion\''),
        ({"schedule": "step"}, "^schedule must be .*, got 'step'"),
        ({"precision": "8-bit"}, "^precision must be one of .*; got '8-bit'"),
        ({"lr": 0.0}, "^lr must be positive"),
        ({"lr": math.nan}, "^lr must be positive"),
        ({"weight_decay": -1.0}, "^lr must be positive, weight_decay and crop_padding ≥ 0"),
        ({"crop_padding": -1}, "^lr must be positive, weight_decay and crop_padding ≥ 0"),
        ({"split": data(0)}, "^the training split is empty; give it at least one image"),
        ({"validation": data(0)}, "^the validation split is empty"),
        (
            {"split": Split(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))},
            r"^digits-cnn takes inputs \[N, 1, 8, 8\], got",
        ),
        ({"split": Split(torch.rand(2, 1, 8, 8), torch.tensor([0, 4]))}, "labels .* 4, .* 4 classes"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, options, message):
    model = network()
    before = fingerprint(model)
    with pytest.raises(ValueError, match=message):
        train(model, out=tmp_path / "run", **options)
    assert files(tmp_path / "run") == {}
    assert fingerprint(model) == before


def test_clean_accuracy_counts_in_evaluation_mode():
    model, split = network().train(), data(10)
    right = (model.eval()(split.images).argmax(1) == split.labels).sum().item()
    model.train()
    assert clean_accuracy(model, split, batch_size=3) == right / 10
    assert model.training
