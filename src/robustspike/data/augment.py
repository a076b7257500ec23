"""Augmentation of whole batches on their device; the randomness of each image belongs to that image."""

from __future__ import annotations

import torch
from torch import Tensor
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
