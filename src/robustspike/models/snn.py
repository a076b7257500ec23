"""A spiking network: encode, normalise, layers over time, read-out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustspike.encoders import Frames
from robustspike.models.settings import Settings
from robustspike.neurons import OverTime, at_every_step


class SNN(nn.Module):
    """x [N, ...] in [0, 1] to logits [N, K]; encoder and normalisation inside, so an attack always moves pixels.

    Logits are the mean over T of the head's output (``readout="current"``, as in the papers' code) or the number of
    output spikes (``readout="spikes"``, Liu 2024 eq. 8).

    Args:
        settings: the architecture; kept as ``settings`` and saved with the weights.
        layers: what turns x_seq [T, N, ...] into features [T, N, F].
        head: the last linear layer, [·, F] to [·, K].

    Raises:
        ValueError: at call time for inputs with the wrong shape; at once for mean and std of different lengths.

    Example:
        >>> layers = OverTime(nn.Flatten(), nn.Linear(4, 3), LIF())
        >>> model = SNN(Settings("tiny", num_classes=2, in_channels=1, image_size=2), layers, nn.Linear(3, 2))
        >>> model(torch.rand(5, 1, 2, 2)).shape
        torch.Size([5, 2])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, settings: Settings, layers: OverTime, head: nn.Module) -> None:
        super().__init__()
        if settings.readout not in ("current", "spikes"):
            raise ValueError(f'readout must be "current" or "spikes", got {settings.readout!r}')
        if any(v is not None and len(v) != settings.in_channels for v in (settings.mean, settings.std)):
            raise ValueError(
                f"mean and std need {settings.in_channels} number(s), one for each channel; got {settings}"
            )
        if (settings.mean is None) != (settings.std is None):
            raise ValueError("give both mean and std, or neither")
        self.settings = settings
        self.encoder, self.layers, self.head = settings.make_encoder(), layers, head
        self.output_neuron = settings.make_neuron() if settings.readout == "spikes" else None
        self.time_collapsed = False  # set by an estimator without a time axis
        for name in ("mean", "std"):
            value = getattr(settings, name)
            self.register_buffer(name, None if value is None else torch.tensor(value), persistent=False)

    def extra_repr(self) -> str:
        return f"readout={self.settings.readout!r}"

    @property
    def time_steps(self) -> int:
        return self.settings.time_steps

    @property
    def stochastic(self) -> bool:
        """Whether two calls may give different logits."""
        return bool(self.encoder.stochastic)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        encoder: Any = self.encoder
        x_seq = encoder.rate(x)[None] if self.time_collapsed else encoder(x)
        features = self.layers(at_every_step(self._normalise, x_seq))
        if self.output_neuron is not None:
            return self.output_neuron(at_every_step(self.head, features)).sum(0)
        return self._mean_current(features)

    def _mean_current(self, features: Tensor) -> Tensor:
        """The head's output averaged over T: that of the average, as the head is linear. Never rounded to 16 bits."""
        with torch.autocast(features.device.type, enabled=False):
            kind = next((p.dtype for p in self.head.parameters()), features.dtype)
            return self.head(features.mean(0, dtype=kind))

    def _normalise(self, x: Tensor) -> Tensor:
        if self.mean is not None and self.std is not None:
            shape = (-1, *[1] * (x.dim() - 2))
            x = (x - self.mean.to(x.dtype).reshape(shape)) / self.std.to(x.dtype).reshape(shape)
        return x.contiguous(memory_format=torch.channels_last)

    def _check(self, x: Tensor) -> None:
        s = self.settings
        want = [s.in_channels, s.image_size, s.image_size]
        lead = ["N", self.encoder.time_steps] if isinstance(self.encoder, Frames) else ["N"]
        if x.dim() != len(lead) + 3 or list(x.shape[-3:]) != want:
            raise ValueError(f"{s.name} takes inputs {[*lead, *want]}, got {list(x.shape)}".replace("'", ""))


def initialise(model: nn.Module) -> nn.Module:
    """He initialisation (fan out) for convolutions and zero biases for linear layers, as in the authors' code."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model.to(memory_format=torch.channels_last)
