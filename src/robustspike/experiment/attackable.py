"""What is attacked and audited: a network with its data and a folder, from a training run or from a user's own file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustspike.checkpoints import load_model
from robustspike.data import DataError, DataSet, load
from robustspike.experiment.names import chosen
from robustspike.experiment.networks import check_images, own_network
from robustspike.experiment.own_record import keep
from robustspike.experiment.record import Experiment, read_experiment
from robustspike.experiment.runs import CHECKPOINTS, device, load_data
from robustspike.experiment.user_code import is_target, parse_target
from robustspike.gradients import device_of, is_stochastic

# Training images are read with the others and not used; so many are enough to read.
FEW = 20


@dataclass(frozen=True)
class Attackable:
    """A network with its data, and the folder that its evaluations and audits lie in.

    Attributes:
        folder: of the run.
        model: on its device, in evaluation mode.
        name: as tables print it.
        source: what the data is called, which decides the usual radius.
        data: so many test images (None: all), and the other splits; checks that the network takes them.
        splits: those that figures may be of.
        claim: makes the folder say which network it is of, or refuses it; given some of the images that it is tried on.
        checkpoint: of a training run, "last" or "best".
        experiment: the record of a training run; None for other networks.
    """

    folder: Path
    model: nn.Module
    name: str
    source: str
    data: Callable[[int | None], DataSet]
    splits: tuple[str, ...] = ("test", "validation")
    claim: Callable[[Tensor], None] = lambda images: None
    checkpoint: str = "last"
    experiment: Experiment | None = None

    def stochastic(self) -> bool:
        """Whether two calls of the network may differ."""
        if hasattr(self.model, "stochastic"):
            return is_stochastic(self.model)
        return is_stochastic(self.model, self.data(1).test.images.to(device_of(self.model)))


def attackable(
    run: str | Path | Attackable,
    *,
    checkpoint: str | None = None,
    data: str | None = None,
    weights: str | Path | None = None,
    time_steps: int | None = None,
    image_size: int | None = None,
    out: str | Path | None = None,
    accelerator: str = "auto",
) -> Attackable:
    """The network of a training run, or the one that a user's file makes.

    Args:
        run: the folder of a training run, ``my_net.py:make_model``, or what this function returned.
        checkpoint: of a training run: "last" (None: that) or "best" by validation accuracy.
        data: where the data of a run is now, if no longer where its record says; for a file, the data.
        weights, time_steps: for a file, see :func:`robustspike.experiment.own_network`.
        image_size: for a file: pixels to which images of a folder are resized.
        out: for a file: the folder of its results; None: ``runs/my_net-make_model``.
        accelerator: "auto", "cpu", "cuda", …

    Raises:
        CheckpointError: if the run or the weights are missing, damaged or foreign.
        ValueError: for what the file or the data cause, and for settings that belong to the other kind.
    """
    if isinstance(run, Attackable):
        return run
    given = {"--weights": weights, "--time-steps": time_steps, "--image-size": image_size}
    if not is_target(run):
        if said := [flag for flag, value in given.items() if value is not None]:
            raise ValueError(
                f"{said[0]} belongs to a network of your own, such as my_net.py:make_model; the folder {run} has its own"
            )
        return _trained(Path(run), checkpoint or "last", data, accelerator)
    target = str(run)
    file, name = parse_target(target)
    if checkpoint is not None:
        raise ValueError(f"--checkpoint belongs to training runs; name the weights of {target} with --weights")
    if data is None:
        raise ValueError(f"{target} says nothing of data; name it with --data: digits, my.npz, images/, …")
    place = Path("runs") / f"{file.stem}-{name}" if out is None else Path(out)
    return _made(target, place, data, None if weights is None else Path(weights), time_steps, image_size, accelerator)


def _trained(run: Path, checkpoint: str, data: str | None, accelerator: str) -> Attackable:
    experiment = read_experiment(run)
    return Attackable(
        folder=run,
        model=load_model(run / chosen("checkpoint", checkpoint, CHECKPOINTS)).to(device(accelerator)),
        name=f"{experiment.model} {experiment.label}",
        source=experiment.data,
        data=functools.partial(load_data, experiment, data),
        checkpoint=checkpoint,
        experiment=experiment,
    )


def _made(
    target: str, folder: Path, data: str, weights: Path | None, time_steps: int | None, image_size: int | None,
    accelerator: str,
) -> Attackable:  # fmt: skip
    place = device(accelerator)
    model = own_network(target, weights, time_steps).to(place)

    def images(test_limit: int | None, train_limit: int | None = FEW) -> DataSet:
        given: dict[str, Any] = {"test_limit": test_limit, "train_limit": train_limit, "image_size": image_size}
        try:
            found = load(data, **given)
        except DataError:
            if train_limit is None:
                raise
            return images(test_limit, None)  # fewer than a few, or what is wrong with all
        check_images(model, found.test.images[:2], target)
        return found

    file, name = parse_target(target)
    return Attackable(
        folder=folder,
        model=model,
        name=f"{file.name}:{name}",
        source=data,
        data=images,
        splits=("test",),
        claim=lambda images: keep(folder, model, target, weights, images[:1].to(place)),
    )
