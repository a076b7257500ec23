"""How a network is made, as one record that travels with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from robustspike.encoders import ENCODERS, Phase
from robustspike.neurons import DLIF, LIF
from robustspike.surrogates import SURROGATES, Surrogate, Triangle


@dataclass(frozen=True)
class Settings:
    """Everything that the weights do not say.

    Args:
        num_classes: K.
        time_steps: T.
        mean, std: of each channel, in [0, 1] units; None: no normalisation.
        in_channels, image_size: images are [N, in_channels, image_size, image_size].
        encoder: a name in ``robustspike.encoders.ENCODERS``.
        phases: bits per period of the phase code.
        leak, threshold, reset, detach_reset, surrogate: of every neuron, see :class:`robustspike.LIF`.
        readout: "current" or "spikes", see :class:`robustspike.models.SNN`.
        neuron: "lif", or "dlif" for learned weights of each step's currents, see :class:`robustspike.neurons.DLIF`.

    Raises:
        ValueError: for an encoder or a neuron that does not exist or numbers below 1.
    """

    name: str
    num_classes: int = 10
    time_steps: int = 8
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    in_channels: int = 3
    image_size: int = 32
    encoder: str = "direct"
    phases: int = 8
    leak: float = 1.0
    threshold: float = 1.0
    reset: str = "hard"
    detach_reset: bool = False
    surrogate: Surrogate = field(default_factory=Triangle)
    readout: str = "current"
    neuron: str = "lif"

    def __post_init__(self) -> None:
        for name in ("num_classes", "time_steps", "in_channels", "image_size"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std must be positive for every channel, got {list(self.std)}")
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}; got {self.encoder!r}")
        if self.neuron not in ("lif", "dlif"):
            raise ValueError(f'neuron must be "lif" or "dlif", got {self.neuron!r}')

    def make_neuron(self) -> LIF | DLIF:
        neuron = LIF(self.leak, self.threshold, self.reset, self.detach_reset, self.surrogate)
        return DLIF(self.time_steps, neuron) if self.neuron == "dlif" else neuron

    def make_encoder(self) -> nn.Module:
        return (
            Phase(self.time_steps, self.phases) if self.encoder == "phase" else ENCODERS[self.encoder](self.time_steps)
        )

    def record(self) -> dict[str, Any]:
        """As plain JSON values; :func:`from_record` is the inverse."""
        names = {cls: name for name, cls in SURROGATES.items()}
        if type(self.surrogate) not in names:
            raise ValueError(f"only the surrogates of robustspike can be saved with a model, got {self.surrogate!r}")
        record = asdict(self)
        record["surrogate"] = {"name": names[type(self.surrogate)], **asdict(self.surrogate)}  # type: ignore[call-overload]
        for name in ("mean", "std"):
            record[name] = None if record[name] is None else list(record[name])
        return record


def from_record(record: dict[str, Any], kind: type[Settings] = Settings) -> Settings:
    """The settings that :meth:`Settings.record` wrote; ``kind`` is their class.

    Raises:
        ValueError: for a surrogate or settings that this version does not know, or values that are unfit.
    """
    settings = dict(record)
    unknown = [key for key in settings if key not in {f.name for f in fields(kind)}]
    if unknown:
        raise ValueError(
            f"this version cannot build the network: unknown settings {unknown} of {settings.get('name')!r}"
        )
    if "surrogate" in settings:
        surrogate = dict(settings["surrogate"])
        if (name := surrogate.pop("name", None)) not in SURROGATES:
            raise ValueError(f"this version cannot build the network: unknown surrogate {name!r}")
        settings["surrogate"] = SURROGATES[name](**surrogate)
    return kind(**settings)
