"""``fit``: one call that trains a model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import nn

from robustspike.checkpoints import CheckpointError, architecture, settings_text
from robustspike.data import Split
from robustspike.defences import Objective, Perturb
from robustspike.processes import Processes, launched
from robustspike.train.run import Run
from robustspike.train.settings import OPTIMIZERS, Epoch, Schedule, check, check_data
from robustspike.train.validation import Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(
    model: nn.Module,
    train: Split,
    objective: Objective,
    *,
    epochs: int = 200,
    out: str | Path | None = None,
    validation: Split | None = None,
    batch_size: int = 64,
    optimizer: Literal["sgd", "adam"] = "sgd",
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    schedule: Literal["cosine", "one-cycle", "constant"] = "cosine",
    warmup_epochs: float = 0,
    ema: float = 0,
    clip_norm: float | None = None,
    crop_padding: int = 4,
    flip: bool = True,
    augmentation: str = "none",
    micro_batch: int | None = None,
    validation_attack: Perturb | None = None,
    validation_limit: int | None = None,
    precision: str = "32-true",
    accelerator: str = "auto",
    seed: int = 0,
    resume: bool = False,
    save_every: int | None = None,
    tensorboard: bool = False,
    progress: bool = True,
) -> list[Epoch]:
    """Train a model in place, and leave it in training mode.

    All random numbers belong to (seed, epoch, sample) or to (seed, epoch, step), none to what was computed before: a run
    that was killed at any step goes on to the same weights, bit for bit on the CPU.

    Under ``torchrun`` each mini-batch is shared among the processes, which must all make this call; gradients and
    BatchNorm's statistics are those of the whole mini-batch, so that all processes end with the weights that one process
    would, up to rounding. Process 0 writes the files.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]; moved to the accelerator.
        train: training images and labels; kept as one tensor on the device.
        objective: one of ``robustspike.defences``.
        epochs: passes over the data.
        out: folder for weights.safetensors (the last epoch), best.safetensors (the best epoch by validation),
            state.safetensors (to resume) and log.jsonl (one line per epoch); None writes nothing.
        validation: held-out images for choosing best.safetensors; never the test set.
        batch_size: images per step, over all processes.
        optimizer: "sgd" (the papers) or "adam".
        lr: None: 0.1 for SGD, 1e-3 for Adam.
        momentum: of SGD.
        weight_decay: None: the one published with the objective.
        schedule: "cosine" to 0, stepping once per epoch as in the papers; "one-cycle" over steps; "constant".
        warmup_epochs: over so many epochs the learning rate also rises linearly from 0, step by step; 0 … epochs.
        ema: decay of an exponential moving average of the weights, in [0, 1), such as 0.999. The average is what is
            validated, written and left in the model; BatchNorm's running statistics are averaged too. 0: none.
        clip_norm: gradients of a larger ℓ2 norm, over all parameters, are scaled down to it; None: never.
        crop_padding: random crop after padding by so many pixels, 0 for none.
        flip: random horizontal flip.
        augmentation: what else is done to the images, a name in ``robustspike.data.augment.AUGMENTATIONS``.
        micro_batch: so many images at a time, in each process; gradients are summed, BatchNorm sees micro-batches. None: all
            at once. Where memory runs out in a single process, the step is made again with half of it, and so on.
        validation_attack: (model, x, y) to x_adv, a cheap one: best.safetensors is then chosen by robust validation
            accuracy, among equals by clean accuracy, among equals the earliest. None: by clean accuracy.
        validation_limit: so many validation images are attacked, every class with its share; None: all.
        precision: "32-true"; "tf32" (float32 products in TF32 on GPUs that have it, convolutions included); or "bf16-mixed"
            (activations in bfloat16; potentials and weights stay float32).
        accelerator: of Lightning Fabric: "auto", "cpu", "cuda", …
        seed: of shuffling, augmentation and attacks.
        resume: continue from ``out``/state.safetensors where it exists.
        save_every: the state is also written within an epoch, each so many steps; None: only at its end.
        tensorboard: write loss and learning rate (each 10 steps), accuracies, seconds and the spectral norm of every weight
            matrix (each epoch) to ``out``/tensorboard.
        progress: show a progress bar on a terminal.

    Returns:
        One record per epoch.

    Raises:
        ValueError: for an empty split or settings out of range.
        TrainingError: when the loss is not finite or memory runs out; the last good checkpoint stays and is named.
        CheckpointError: if ``out`` holds another run, or one is there and ``resume`` is False; if processes were given
            different runs.

    Example:
        >>> data = load("digits", train_limit=64)
        >>> log = fit(digits_cnn(time_steps=2), data.train, vanilla(), epochs=1, flip=False, progress=False)
        >>> len(log)
        1

    Source: Ding 2022, appendix B; Liu 2024, Table 5 (the defaults).
    """
    settings = Schedule(
        objective=settings_text(objective), architecture=architecture(model), epochs=epochs, batch_size=batch_size,
        optimizer=optimizer, lr=OPTIMIZERS.get(optimizer, 0.0) if lr is None else lr, momentum=momentum,
        weight_decay=objective.weight_decay if weight_decay is None else weight_decay, schedule=schedule,
        crop_padding=crop_padding, flip=flip, precision=precision, seed=seed, n=len(train),
        data_fingerprint=train.fingerprint(), warmup_epochs=warmup_epochs, ema=ema, clip_norm=clip_norm,
        augmentation=augmentation, micro_batch=micro_batch,
        validation_attack=None if validation_attack is None else settings_text(validation_attack),
        validation_limit=validation_limit,
    )  # fmt: skip
    check(settings, save_every, tensorboard and out is None)
    check_data(model, train, validation, settings)
    with launched(_backend(accelerator)) as processes, _products(precision):
        _check_alike(settings, processes)
        run = Run(_fabric(accelerator, precision, processes), processes, model, objective, settings)
        run.out, run.save_every = None if out is None else Path(out), save_every
        run.restore(resume)
        held_out = None if validation is None else validation.to(run.device)
        judge = Validation(held_out, validation_attack, validation_limit)
        return run.complete(train.to(run.device), judge, progress, tensorboard)


def _backend(accelerator: str) -> str:
    """How tensors travel between processes: gloo on the CPU, NCCL between GPUs where it is there."""
    nccl = accelerator != "cpu" and torch.cuda.is_available() and dist.is_available() and dist.is_nccl_available()
    return "cpu:gloo,cuda:nccl" if nccl else "gloo"


def _fabric(accelerator: str, precision: str, processes: Processes) -> Fabric:
    """Device and precision of this process; of several processes on one machine each has its own GPU.

    Fabric is told of one device only: it would start processes itself where no launcher that it knows has done so.
    """
    devices: int | list[int] = 1
    if processes.world > 1 and accelerator != "cpu" and torch.cuda.is_available():
        here, there = int(os.environ.get("LOCAL_WORLD_SIZE", processes.world)), torch.cuda.device_count()
        if there < here:
            raise ValueError(
                f"{here} processes need a GPU each, and this machine has {there}; start fewer with "
                'torchrun --nproc-per-node, or train with accelerator="cpu"'
            )
        devices = [int(os.environ.get("LOCAL_RANK", processes.rank % here))]
    kind = "32-true" if precision == "tf32" else precision
    from lightning_fabric import Fabric  # takes seconds to load

    fabric = Fabric(accelerator=accelerator, devices=devices, precision=kind)  # type: ignore[arg-type]
    if fabric.device.type == "cuda":
        torch.cuda.set_device(fabric.device)
    return fabric


@contextlib.contextmanager
def _products(precision: str) -> Iterator[None]:
    """Within the block GPUs compute float32 products in TF32 if that is the precision, and never with "32-true".

    PyTorch itself has convolutions in TF32.
    """
    if precision not in ("tf32", "32-true"):
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _check_alike(settings: Schedule, processes: Processes) -> None:
    """Every process must have been given the same run."""
    first, *others = (asdict(theirs) for theirs in processes.gather(settings))
    if differing := [name for name in first if any(other[name] != first[name] for other in others)]:
        raise CheckpointError(
            f"the processes were given different runs: {', '.join(differing)} differ; build the same network and load the "
            "same data in each, with the same settings"
        )
