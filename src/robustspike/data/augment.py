"""Augmentation of whole batches on their device; the randomness of each image belongs to that image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustspike.draws import Draws


def _check(images: Tensor, draws: Draws, function: str) -> None:
    if images.ndim < 4:
        raise ValueError(
            f"{function}: expected images [N, C, H, W] or [N, T, C, H, W], got {list(images.shape)}; add the missing axes."
        )
    if len(draws) != len(images):
        raise ValueError(
            f"{function}: expected one stream per image, got {len(images)} images and {len(draws)} streams; "
            "pass the draws of these samples."
        )
    if draws.keys.device != images.device:
        raise ValueError(
            f"{function}: expected images and draws on one device, got {images.device} and {draws.keys.device}; "
            "make the draws from sample numbers on the images' device."
        )


def random_crop(images: Tensor, draws: Draws, pad: int = 4) -> Tensor:
    """Pads each image with zeros on all sides and cuts its old size out at a random place.

    Args:
        images: [N, C, H, W], any type; in [N, T, C, H, W] all steps of a sample move together.
        draws: N streams; the place is uniform over (2·pad + 1)² offsets.
        pad: pixels, 0 or more.

    Returns:
        As images.

    Raises:
        ValueError: another number of streams than of images, another device, a negative pad.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> random_crop(images, Draws.of(0, torch.arange(2)), pad=2).shape
        torch.Size([2, 3, 8, 8])
    """
    _check(images, draws, "random_crop")
    if pad < 0:
        raise ValueError(f"random_crop: expected a pad of 0 pixels or more, got {pad}; pass pad=4 or so.")
    n, (height, width), device = len(images), images.shape[-2:], images.device
    planes = images.flatten(1, -3)
    padded = functional.pad(planes, (pad, pad, pad, pad))
    top, left = draws.fork("crop").integers(2 * pad + 1, (2,)).unbind(1)
    rows = top[:, None] + torch.arange(height, device=device)
    columns = left[:, None] + torch.arange(width, device=device)
    sample = torch.arange(n, device=device)[:, None, None, None]
    plane = torch.arange(planes.shape[1], device=device)[None, :, None, None]
    return padded[sample, plane, rows[:, None, :, None], columns[:, None, None, :]].reshape(images.shape)


def random_flip(images: Tensor, draws: Draws) -> Tensor:
    """Mirrors each image left to right with probability 1/2.

    Args:
        images: [N, C, H, W], any type; in [N, T, C, H, W] all steps of a sample are mirrored together.
        draws: N streams.

    Returns:
        As images.

    Raises:
        ValueError: another number of streams than of images, or another device.

    Example:
        >>> images = torch.arange(3.0).expand(16, 1, 1, 3)
        >>> sorted(random_flip(images, Draws.of(0, torch.arange(16)))[:, 0, 0, 0].unique().tolist())
        [0.0, 2.0]
    """
    _check(images, draws, "random_flip")
    mirrored = draws.fork("flip").uniform(()) < 0.5
    return torch.where(mirrored.reshape(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)


def augment(images: Tensor, draws: Draws, pad: int = 4, flip: bool = True) -> Tensor:
    """Crops at random, then mirrors at random: the usual augmentation of CIFAR.

    Args:
        images: [N, C, H, W] or [N, T, C, H, W].
        draws: N streams; fork them by epoch to get new places each time.
        pad: pixels of zeros on each side before the crop; 0 for no crop.
        flip: False where left and right differ in meaning, as for digits.

    Returns:
        As images.

    Raises:
        ValueError: as random_crop and random_flip.

    Example:
        >>> draws = Draws.of(seed=0, samples=torch.arange(2)).fork("epoch").fork(3)
        >>> augment(torch.rand(2, 3, 32, 32), draws).shape
        torch.Size([2, 3, 32, 32])
    """
    cropped = random_crop(images, draws, pad)
    return random_flip(cropped, draws) if flip else cropped


def unchanged(images: Tensor, draws: Draws) -> Tensor:
    """The images as they are.

    Args:
        images: [N, C, H, W] or [N, T, C, H, W].
        draws: N streams, not used.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> unchanged(images, Draws.of(0, torch.arange(2))) is images
        True
    """
    return images


def cutout(images: Tensor, draws: Draws) -> Tensor:
    """Blackens one square of each image: its side half of the image's shorter one, all of it inside, filled with 0.

    Args:
        images: [N, C, H, W], any type; in [N, T, C, H, W] the same square at all steps of a sample.
        draws: N streams; the place is uniform over all at which the square fits.

    Returns:
        As images.

    Raises:
        ValueError: another number of streams than of images, or another device.

    Example:
        >>> cutout(torch.ones(2, 1, 8, 8), Draws.of(0, torch.arange(2))).sum((1, 2, 3)).tolist()
        [48.0, 48.0]

    Source: DeVries and Taylor 2017. Differs from the authors' code: there the centre is uniform, so that a part of the
    square may lie outside.
    """
    _check(images, draws, "cutout")
    height, width = images.shape[-2:]
    side = min(height, width) // 2
    top = draws.fork("cutout top").integers(height - side + 1)
    left = draws.fork("cutout left").integers(width - side + 1)
    inside = _covered(top, side, height)[:, :, None] & _covered(left, side, width)[:, None, :]
    return images.masked_fill(inside.reshape(len(images), *[1] * (images.ndim - 3), height, width), 0)


def _covered(start: Tensor, side: int, length: int) -> Tensor:
    """Whether each place of an axis lies in [start, start + side), [N, length]."""
    places = torch.arange(length, device=start.device)
    return (places >= start[:, None]) & (places < start[:, None] + side)


def randaugment(images: Tensor, draws: Draws) -> Tensor:
    """Two operations of RandAugment's fourteen, one after the other, at magnitude 9 of 30 (torchvision's defaults).

    Args:
        images: [N, C, H, W], floating, in [0, 1]; in [N, T, C, H, W] all steps of a sample get the same operations. With
            another number of channels than 3, each channel is taken for a grey image: colour does nothing, all else does
            the same to all channels.
        draws: N streams.

    Returns:
        As images, in [0, 1]. What an operation moves in from outside the image is 0; equalising and posterising round to
        256 levels.

    Raises:
        ValueError: another number of streams than of images, another device, or integer images.

    Example:
        >>> randaugment(torch.rand(2, 3, 32, 32), Draws.of(0, torch.arange(2))).shape
        torch.Size([2, 3, 32, 32])

    Source: Cubuk et al. 2020; ``torchvision.transforms.v2.RandAugment``.
    """
    from torchvision.transforms import v2

    return _one_by_one(images, draws, "randaugment", v2.RandAugment())


def autoaugment(images: Tensor, draws: Draws) -> Tensor:
    """One of the 25 pairs of operations that AutoAugment found for CIFAR-10.

    Args:
        images, draws: as for :func:`randaugment`.

    Returns:
        As :func:`randaugment`.

    Raises:
        ValueError: as :func:`randaugment`.

    Example:
        >>> autoaugment(torch.rand(2, 3, 32, 32), Draws.of(0, torch.arange(2))).shape
        torch.Size([2, 3, 32, 32])

    Source: Cubuk et al. 2019; ``torchvision.transforms.v2.AutoAugment``.
    """
    from torchvision.transforms import v2

    return _one_by_one(images, draws, "autoaugment", v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10))


def trivialaugment(images: Tensor, draws: Draws) -> Tensor:
    """One operation of TrivialAugment's wide set at a random magnitude.

    Its shifts are up to 32 pixels whatever the size: about one in ten images of 8 × 8 becomes black.

    Args:
        images, draws: as for :func:`randaugment`.

    Returns:
        As :func:`randaugment`.

    Raises:
        ValueError: as :func:`randaugment`.

    Example:
        >>> trivialaugment(torch.rand(2, 3, 32, 32), Draws.of(0, torch.arange(2))).shape
        torch.Size([2, 3, 32, 32])

    Source: Müller and Hutter 2021; ``torchvision.transforms.v2.TrivialAugmentWide``.
    """
    from torchvision.transforms import v2

    return _one_by_one(images, draws, "trivialaugment", v2.TrivialAugmentWide())


def _one_by_one(images: Tensor, draws: Draws, name: str, transform: nn.Module) -> Tensor:
    """A transform of torchvision, which draws once for all it is given, on each image with that image's numbers.

    It draws from PyTorch's CPU generator only, whatever the images' device.
    """
    _check(images, draws, name)
    if not images.is_floating_point():
        raise ValueError(f"{name}: expected floating images in [0, 1], got {images.dtype}; divide 8-bit images by 255.")
    planes = images.to(torch.float32)
    if images.shape[-3] != 3:
        planes = planes.unsqueeze(-3)
    out = torch.empty_like(planes)
    seeds = draws.fork(name).bits(()).tolist()
    with torch.random.fork_rng(devices=[]):
        for k, seed in enumerate(seeds):
            torch.default_generator.manual_seed(seed)
            out[k] = transform(planes[k])
    return out.clamp_(0, 1).reshape(images.shape).to(images.dtype)


Augmentation = Callable[[Tensor, Draws], Tensor]

AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "cutout": cutout,
    "randaugment": randaugment,
    "autoaugment": autoaugment,
    "trivialaugment": trivialaugment,
}


def augmentation(name: str) -> Augmentation:
    """The augmentation of this name in :data:`AUGMENTATIONS`.

    Raises:
        ValueError: for a name that is not there.

    Example:
        >>> augmentation("cutout") is cutout
        True
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}; got {name!r}")
    return AUGMENTATIONS[name]
