"""Runs that cannot go on, or not as they were begun: losses that are not finite, memory that runs out, bad settings."""

import math

import pytest
import torch
from tests.conftest import small_snn
from tests.train.making import Killed, data, files, network, stopping, train, watched

from robustspike.attacks import PGD
from robustspike.balls import Linf
from robustspike.checkpoints import fingerprint, load_model
from robustspike.data import Split
from robustspike.defences import vanilla
from robustspike.train import TrainingError
from robustspike.train.steps import _memory_ran_out

pytestmark = pytest.mark.usefixtures("one_thread")

# Losses that are not finite


def sick(at, value):
    """Cross-entropy that becomes NaN or ∞, or whose gradient does, at a given call."""

    def hook(batch, loss, call):
        if call != at:
            return loss
        if value == "gradient":
            batch.point.logits.register_hook(lambda g: g * math.nan)
            return loss
        return loss * value

    return watched(hook)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(tmp_path, value):
    with pytest.raises(TrainingError) as caught:
        train(objective=sick(8, value), out=tmp_path)
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
    with pytest.raises(TrainingError, match=r"^the loss became nan in epoch 1, step 1; no checkpoint had been written"):
        train(objective=sick(1, math.nan), out=tmp_path)
    assert files(tmp_path) == {}


def test_a_state_within_the_first_epoch_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"step 3; the last good checkpoint is .*state.safetensors \(in epoch 1\)"):
        train(objective=sick(3, math.nan), out=tmp_path, save_every=1)


@pytest.mark.parametrize(("save_every", "call"), [(None, 6), (1, 5)])
def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(tmp_path, save_every, call):
    """The gradient of the last step before a state is written is NaN, the loss is not: only the next loss would show it."""
    with pytest.raises(TrainingError, match="is not finite after epoch 2"):
        train(objective=sick(call, "gradient"), out=tmp_path, save_every=save_every)
    assert all(t.isfinite().all() for t in load_model(tmp_path).state_dict().values())


# Memory


def greedy(limit, error=torch.OutOfMemoryError, at=0):
    """Cross-entropy that runs out of memory above so many samples (from the given call on), after its forward pass."""

    def hook(batch, loss, call):
        if len(batch.y) > limit and call >= at:
            raise error("out of memory")
        return loss

    return watched(hook)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_micro_batches_halve_until_they_fit(capfd, error):
    """From 8 to 4 to 2 in the first step, for good: the weights of a run that had said 2."""
    model, log = train(small_snn(), greedy(2, error))
    told = capfd.readouterr().err
    assert [line for line in told.splitlines() if line] == [
        "memory ran out; going on with micro-batches of 4",
        "memory ran out; going on with micro-batches of 2",
    ]
    expected, log_expected = train(small_snn(), greedy(2), micro_batch=2)
    assert fingerprint(model) == fingerprint(expected)  # BatchNorm's statistics and step counts included
    assert [row.loss for row in log] == [row.loss for row in log_expected]
    assert capfd.readouterr().err == ""


def test_what_was_halved_stays_so_on_resume(tmp_path):
    """Memory is short from call 5 on; the run is cut at call 12 and goes on where there is plenty."""
    whole, _ = train(small_snn(), greedy(2, at=5))
    short = greedy(2, at=5).parts[0].term.hook

    def cut(batch, loss, call):
        if call == 12:
            raise Killed
        return short(batch, loss, call)

    with pytest.raises(Killed):
        train(small_snn(), watched(cut), out=tmp_path, save_every=1)
    again, _ = train(small_snn(), stopping(0), out=tmp_path, save_every=1, resume=True)
    assert fingerprint(again) == fingerprint(whole)


def test_memory_that_runs_out_on_one_image_is_said_in_one_sentence(tmp_path):
    with pytest.raises(TrainingError) as caught:
        train(small_snn(), greedy(0), out=tmp_path)
    assert str(caught.value) == (
        "memory ran out with one image at a time in epoch 1, step 1; no checkpoint had been written; use a smaller network "
        "or fewer time steps"
    )
    assert files(tmp_path) == {}


def test_other_errors_are_not_taken_for_memory():
    def hook(batch, loss, call):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="^a bug$"):
        train(objective=watched(hook))


def test_the_cpus_allocator_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert _memory_ran_out(caught.value)
    assert not _memory_ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


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
        ({"warmup_epochs": -0.5}, r"^warmup_epochs must lie in 0 … 4 \(epochs\), got -0.5"),
        ({"warmup_epochs": 5}, r"^warmup_epochs must lie in 0 … 4"),
        ({"warmup_epochs": math.nan}, r"^warmup_epochs must lie in 0 … 4"),
        ({"ema": 1.0}, r"^ema must lie in \[0, 1\), .*; got 1.0"),
        ({"clip_norm": 0.0}, "^clip_norm must be positive, or None for no clipping; got 0.0"),
        ({"augmentation": "mixup"}, "^augmentation must be one of none, cutout, .*; got 'mixup'"),
        ({"micro_batch": 0}, "^micro_batch must be ≥ 1, or None; got 0"),
        ({"save_every": 0}, "^save_every must be ≥ 1, or None; got 0"),
        ({"validation_limit": 0}, "^validation_limit must be ≥ 1, or None; got 0"),
        ({"validation_attack": PGD(Linf(0.1))}, "^validation_attack needs images to attack"),
        ({"tensorboard": True, "out": None}, "^tensorboard=True needs a folder"),
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
        train(model, vanilla(), **{"out": tmp_path / "run"} | options)
    assert files(tmp_path / "run") == {}
    assert fingerprint(model) == before
