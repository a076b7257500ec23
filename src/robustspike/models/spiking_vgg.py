"""SpikingJelly's VGG with 11, 13, 16 and 19 layers; those of Ding 2022 and Liu 2024 are in ``models/vgg.py``.

Modules have the names that SpikingJelly gives them: the ``layers.`` of a state_dict and ``head`` are its keys and
``classifier.6``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robustspike.draws import Draws
from robustspike.models.settings import Settings
from robustspike.models.snn import SNN, initialise
from robustspike.models.vgg import Flatten
from robustspike.neurons import OverTime

_STAGES = (64, 128, 256, 512, 512)  # channels, max pooling after each
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


@dataclass(frozen=True)
class SpikingVGGSettings(Settings):
    """Those of SpikingJelly's VGG.

    Args:
        batch_norm: whether BatchNorm follows each convolution: SpikingJelly's ``spiking_vgg11_bn``.
        width: neurons of each of the two hidden linear layers.
        pooled_size: what reaches them is averaged (or repeated) to pooled_size × pooled_size places.
        dropout: p, the share of their spikes that is left out in training.

    Raises:
        ValueError: for a width or pooled_size below 1, a dropout outside [0, 1), images of fewer than 32 pixels, and as
            :class:`Settings`.
    """

    batch_norm: bool = False
    width: int = 4096
    pooled_size: int = 7
    dropout: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "pooled_size"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout!r}")
        if self.image_size < 2 ** len(_STAGES):
            raise ValueError(f"{self.name} needs images of {2 ** len(_STAGES)} pixels or more, got {self.image_size}")


class Dropout(nn.Module):
    """In training a share p of the inputs is 0 at every time step and the rest divided by 1 − p.

    One mask serves all steps, as in SpikingJelly. It is drawn for each sample by itself, from the streams in force
    (:func:`robustspike.draws.sampling`), else from PyTorch's generator.

    Args:
        p: the share.
        label: tells the masks of a network's layers apart.

    Shape:
        [T, N, ...] to the same.

    Example:
        >>> spikes = Dropout(0.5)(torch.ones(2, 1, 100))
        >>> sorted(set(spikes.flatten().tolist())), torch.equal(spikes[0], spikes[1])
        ([0.0, 2.0], True)
    """

    over_time = True  # takes [T, N, ...]

    def __init__(self, p: float = 0.5, label: str = "") -> None:
        super().__init__()
        self.p, self.label = p, label

    def forward(self, x_seq: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_seq
        draws = Draws.fresh(x_seq.shape[1], x_seq.device).fork(f"dropout {self.label}")
        kept = draws.uniform(x_seq.shape[2:]) >= self.p
        return x_seq * (kept.to(x_seq.dtype) / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _features(settings: SpikingVGGSettings, depth: int) -> OverTime:
    layers, channels = OverTime(), settings.in_channels
    for width, convolutions in zip(_STAGES, _CONVOLUTIONS[depth], strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if settings.batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(settings.make_neuron())
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _classifier(settings: SpikingVGGSettings) -> OverTime:
    features, layers = _STAGES[-1] * settings.pooled_size**2, OverTime()
    for label in "12":
        layers.extend([nn.Linear(features, settings.width), settings.make_neuron(), Dropout(settings.dropout, label)])
        features = settings.width
    return layers


def _spiking_vgg(settings: SpikingVGGSettings, depth: int) -> SNN:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        features=_features(settings, depth),
        avgpool=nn.AdaptiveAvgPool2d(settings.pooled_size),
        flatten=Flatten(),
        classifier=_classifier(settings),
    )
    model = SNN(settings, OverTime(layers), nn.Linear(settings.width, settings.num_classes))
    initialise(model)
    return model


def spiking_vgg11(num_classes: int = 10, time_steps: int = 8, **options: Any) -> SNN:
    """64, P | 128, P | 256, 256, P | 512, 512, P | 512, 512, P | 7 × 7 | 4096, 4096, K: SpikingJelly's VGG-11.

    P is a max pooling of 2 × 2, every convolution has a bias, and ``batch_norm=True`` puts BatchNorm behind it. Weights of
    SpikingJelly are loaded by :func:`robustspike.adapters.state_dicts.load_spikingjelly`.

    Args: as in :class:`robustspike.models.spiking_vgg.SpikingVGGSettings`.

    Source: Simonyan and Zisserman 2015, Table 1, column A, with neurons in place of ReLU; SpikingJelly's ``spiking_vgg``.
    Differs from the authors' code: linear weights start as PyTorch's (SpikingJelly: N(0, 0.01²)), so do the biases of
    convolutions (SpikingJelly: 0).

    Example:
        >>> model = spiking_vgg11(time_steps=1, batch_norm=True, width=64, pooled_size=1)
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _spiking_vgg(SpikingVGGSettings("spiking-vgg11", num_classes, time_steps, **options), 11)


def spiking_vgg13(num_classes: int = 10, time_steps: int = 8, **options: Any) -> SNN:
    """SpikingJelly's VGG-13: as :func:`spiking_vgg11`, with two convolutions in every stage.

    Args: as in :class:`robustspike.models.spiking_vgg.SpikingVGGSettings`.

    Source: Simonyan and Zisserman 2015, Table 1, column B; SpikingJelly's ``spiking_vgg``.

    Example:
        >>> spiking_vgg13(time_steps=1, width=64, pooled_size=1)(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    return _spiking_vgg(SpikingVGGSettings("spiking-vgg13", num_classes, time_steps, **options), 13)


def spiking_vgg16(num_classes: int = 10, time_steps: int = 8, **options: Any) -> SNN:
    """SpikingJelly's VGG-16: as :func:`spiking_vgg11`, with two convolutions in the first two stages, then three.

    Args: as in :class:`robustspike.models.spiking_vgg.SpikingVGGSettings`.

    Source: Simonyan and Zisserman 2015, Table 1, column D; SpikingJelly's ``spiking_vgg``.

    Example:
        >>> spiking_vgg16(time_steps=1, width=64, pooled_size=1)(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    return _spiking_vgg(SpikingVGGSettings("spiking-vgg16", num_classes, time_steps, **options), 16)


def spiking_vgg19(num_classes: int = 10, time_steps: int = 8, **options: Any) -> SNN:
    """SpikingJelly's VGG-19: as :func:`spiking_vgg11`, with two convolutions in the first two stages, then four.

    Args: as in :class:`robustspike.models.spiking_vgg.SpikingVGGSettings`.

    Source: Simonyan and Zisserman 2015, Table 1, column E; SpikingJelly's ``spiking_vgg``.

    Example:
        >>> spiking_vgg19(time_steps=1, width=64, pooled_size=1)(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """
    return _spiking_vgg(SpikingVGGSettings("spiking-vgg19", num_classes, time_steps, **options), 19)
