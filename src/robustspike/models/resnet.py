"""SEW-ResNet and Spiking-ResNet with 18, 34 and 50 layers: the networks of Luu 2025.

Modules have the names that SpikingJelly gives them: the ``layers.`` of a state_dict and ``head`` are its keys and ``fc``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from robustspike.models.settings import Settings
from robustspike.models.snn import SNN, initialise
from robustspike.neurons import OverTime, at_every_step
from robustspike.surrogates import ArcTan, Surrogate


def _gate(main: Tensor) -> Tensor:
    """Spikes as they are; what ReLU gives in their place (CBA) ends at 1, or the products of a deep network overflow."""
    return main.masked_fill(main > 1, 1.0)  # the gradient at 1 itself is 1, which clamp does not promise


# How the spikes of the main branch and those of the shortcut meet (Fang 2021, Table 1).
CONNECTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda main, shortcut: main + shortcut,
    "and": lambda main, shortcut: _gate(main) * shortcut,
    "iand": lambda main, shortcut: (1 - _gate(main)) * shortcut,
}
POOLINGS: dict[str, Callable[[], nn.Module] | None] = {
    "max": lambda: nn.MaxPool2d(3, 2, padding=1),
    "avg": lambda: nn.AvgPool2d(3, 2, padding=1),
    "none": None,
}
STEMS = {"imagenet": "max", "cifar": "none"}  # the pooling that goes with each where none is given
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def _check(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


@dataclass(frozen=True)
class ResNetSettings(Settings):
    """Those of a Spiking-ResNet; neurons and code are Luu 2025's where nothing else is said.

    Args:
        stem: "imagenet", a 7 × 7 convolution of stride 2, or "cifar", one of 3 × 3 and stride 1.
        pooling: what follows the stem's neurons, over 3 × 3 with stride 2 and padding 1: "max", "avg" (padding counts as
            zeros), or "none". Default: "max" in the ImageNet stem, "none" in the CIFAR stem.

    Raises:
        ValueError: for a stem or a pooling that does not exist, and as :class:`Settings`.
    """

    time_steps: int = 10
    encoder: str = "phase"
    detach_reset: bool = True
    surrogate: Surrogate = field(default_factory=ArcTan)
    stem: str = "imagenet"
    pooling: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("stem", self.stem, STEMS)
        if self.pooling is None:
            object.__setattr__(self, "pooling", STEMS[self.stem])
        _check("pooling", str(self.pooling), POOLINGS)


@dataclass(frozen=True)
class SEWSettings(ResNetSettings):
    """Those of a SEW-ResNet.

    Args:
        connect: "add", "and" (A·S) or "iand" ((1 − A)·S), A and S being the spikes of the main branch and of the shortcut.
            As a ReLU network (:class:`robustspike.CBA`), "and" and "iand" take min(A, 1) for A.

    Raises:
        ValueError: for another connection, and as :class:`ResNetSettings`.
    """

    connect: str = "add"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("connect", self.connect, CONNECTS)


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions, or a bottleneck of three, with BatchNorm and neurons, beside a shortcut.

    Of a SEW block both branches are spikes, and ``connect`` says how they meet; of a Spiking-ResNet's block both are
    currents, and their sum goes into the last neurons.
    """

    over_time = True

    def __init__(self, settings: ResNetSettings, channels: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.connect = settings.connect if isinstance(settings, SEWSettings) else None
        convolutions = _bottleneck(channels, width, stride) if bottleneck else _basic(channels, width, stride)
        self.depth, out = len(convolutions), convolutions[-1].out_channels
        for i, convolution in enumerate(convolutions, 1):
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", nn.BatchNorm2d(convolution.out_channels))
            if i < self.depth or self.connect:
                self.add_module(f"sn{i}", settings.make_neuron())
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        if not self.connect:
            self.add_module(f"sn{self.depth}", settings.make_neuron())
        elif self.downsample is not None:
            self.downsample_sn = settings.make_neuron()

    def forward(self, x_seq: Tensor) -> Tensor:
        main = x_seq
        for i in range(1, self.depth):
            main = self._neurons(i)(self._currents(i, main))
        main = self._currents(self.depth, main)
        shortcut = x_seq if self.downsample is None else at_every_step(self.downsample, x_seq)
        if not self.connect:
            return self._neurons(self.depth)(main + shortcut)
        main = self._neurons(self.depth)(main)
        return CONNECTS[self.connect](main, shortcut if self.downsample is None else self.downsample_sn(shortcut))

    def _neurons(self, i: int) -> Callable[[Tensor], Tensor]:
        return getattr(self, f"sn{i}")  # type: ignore[no-any-return]

    def _currents(self, i: int, x_seq: Tensor) -> Tensor:
        convolution, norm = getattr(self, f"conv{i}"), getattr(self, f"bn{i}")
        return at_every_step(lambda x: norm(convolution(x)), x_seq)

    def extra_repr(self) -> str:
        return f"connect={self.connect!r}"


def _basic(channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    return [
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
    ]


def _bottleneck(channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    return [
        nn.Conv2d(channels, width, 1, bias=False),
        nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
        nn.Conv2d(width, 4 * width, 1, bias=False),
    ]


def _stem(settings: ResNetSettings) -> OrderedDict[str, nn.Module]:
    size, stride = (7, 2) if settings.stem == "imagenet" else (3, 1)
    stem: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(settings.in_channels, 64, size, stride, padding=size // 2, bias=False),
        bn1=nn.BatchNorm2d(64),
        sn1=settings.make_neuron(),
    )
    if pooling := POOLINGS[str(settings.pooling)]:
        stem["pool"] = pooling()
    return stem


def _resnet(settings: ResNetSettings, depth: int) -> SNN:
    layers, channels, bottleneck = _stem(settings), 64, depth >= 50
    for stage, blocks in enumerate(_BLOCKS[depth]):
        width, made = 64 * 2**stage, []
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            made.append(ResidualBlock(settings, channels, width, stride, bottleneck))
            channels = width * (4 if bottleneck else 1)
        layers[f"layer{stage + 1}"] = OverTime(*made)
    layers["avgpool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = SNN(settings, OverTime(layers), nn.Linear(channels, settings.num_classes))
    initialise(model)
    return model


def sew_resnet18(num_classes: int = 10, time_steps: int = 10, **options: Any) -> SNN:
    """SEW-ResNet-18: 64 | 2 blocks each of 64, 128, 256, 512 | global average pooling, K; branches meet as spikes.

    PyTorch's max pooling hands the gradient of a window to its first maximum only. Among spikes most maxima are ties: of
    several ones, or of zeros alone, the first in reading order gets all of the gradient and the others none. The
    "architectural sparsity" of Luu 2025, section 4.3, rests on that.

    Args: as in :class:`robustspike.models.resnet.SEWSettings`; the defaults are Luu 2025's: phase code with T = 10 and
        K = 8, IF neurons with arctan 2, no gradient through the reset, the ImageNet stem also for images of 32 × 32.

    Source: Fang et al. 2021, section 3; Luu 2025, sections 4.1 and 4.3, where "MaxPool replaced with AvgPool" is read as
    the one pooling that these networks have besides the global one, the stem's. Differs from the authors' code: the bias
    of the last layer starts at zero.

    Example:
        >>> sew_resnet18(time_steps=1, image_size=8, pooling="avg")(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _resnet(SEWSettings("sew-resnet18", num_classes, time_steps, **options), 18)


def sew_resnet34(num_classes: int = 10, time_steps: int = 10, **options: Any) -> SNN:
    """SEW-ResNet-34: as :func:`sew_resnet18`, with 3, 4, 6 and 3 blocks.

    Args: as in :class:`robustspike.models.resnet.SEWSettings`.

    Source: Fang et al. 2021; Luu 2025.

    Example:
        >>> sew_resnet34(time_steps=1, image_size=8, connect="iand")(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _resnet(SEWSettings("sew-resnet34", num_classes, time_steps, **options), 34)


def sew_resnet50(num_classes: int = 10, time_steps: int = 10, **options: Any) -> SNN:
    """SEW-ResNet-50: as :func:`sew_resnet34`, with bottlenecks of 1 × 1, 3 × 3 and 1 × 1, four times as wide at the end.

    Args: as in :class:`robustspike.models.resnet.SEWSettings`.

    Source: Fang et al. 2021; Luu 2025. Differs from SpikingJelly and Luu's code with connect="iand": their bottlenecks
    compute A·(1 − S), those of Fang's text and code (1 − A)·S, and so do these.

    Example:
        >>> sew_resnet50(time_steps=1, image_size=8)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _resnet(SEWSettings("sew-resnet50", num_classes, time_steps, **options), 50)


def spiking_resnet18(num_classes: int = 10, time_steps: int = 10, **options: Any) -> SNN:
    """Spiking-ResNet-18: ResNet-18 with neurons in place of ReLU; the currents of both branches are added before they fire.

    Args: as in :class:`robustspike.models.resnet.ResNetSettings`; of pooling see :func:`sew_resnet18`.

    Source: Hu et al. 2021; Luu 2025, Table 1. Differs from the authors' code, whose Spiking-ResNets do not detach the reset:
    ``detach_reset=False`` is theirs.

    Example:
        >>> spiking_resnet18(time_steps=1, image_size=8, stem="cifar")(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _resnet(ResNetSettings("spiking-resnet18", num_classes, time_steps, **options), 18)


def spiking_resnet34(num_classes: int = 10, time_steps: int = 10, **options: Any) -> SNN:
    """Spiking-ResNet-34: as :func:`spiking_resnet18`, with 3, 4, 6 and 3 blocks.

    Args: as in :class:`robustspike.models.resnet.ResNetSettings`.

    Source: Hu et al. 2021; Luu 2025, Table 1.

    Example:
        >>> spiking_resnet34(time_steps=1, image_size=8)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _resnet(ResNetSettings("spiking-resnet34", num_classes, time_steps, **options), 34)


def spiking_resnet50(num_classes: int = 10, time_steps: int = 10, **options: Any) -> SNN:
    """Spiking-ResNet-50: as :func:`spiking_resnet34`, with bottlenecks of 1 × 1, 3 × 3 and 1 × 1.

    Args: as in :class:`robustspike.models.resnet.ResNetSettings`.

    Source: Hu et al. 2021; Luu 2025, Table 1.

    Example:
        >>> spiking_resnet50(time_steps=1, image_size=8)(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """
    return _resnet(ResNetSettings("spiking-resnet50", num_classes, time_steps, **options), 50)
