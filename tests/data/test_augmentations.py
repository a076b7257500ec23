"""The augmentations by name: what each may do to an image, whose numbers decide it, and that all else stays."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from robustspike.data.augment import (
    AUGMENTATIONS,
    augmentation,
    autoaugment,
    cutout,
    randaugment,
    trivialaugment,
)
from robustspike.draws import Draws

pytestmark = pytest.mark.usefixtures("one_thread")
POLICIES = [randaugment, autoaugment, trivialaugment]
names = pytest.mark.parametrize("name", AUGMENTATIONS)


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def streams(n, seed=1):
    return Draws.of(seed, torch.arange(n))


def test_none_leaves_every_image():
    x = images(5, 3, 8, 8)
    assert torch.equal(AUGMENTATIONS["none"](x, streams(5)), x)


@pytest.mark.parametrize("size", [(5, 5), (8, 8), (9, 6)])
def test_cutout_blackens_one_square_of_half_the_side_and_nothing_else(size):
    x, side = images(40, 3, *size) + 0.1, min(size) // 2
    for new, old in zip(cutout(x, streams(40)), x, strict=True):
        rows, columns = (new == 0).all(0).nonzero().unbind(1)
        top, left = int(rows.min()), int(columns.min())
        expected = old.clone()
        expected[:, top : top + side, left : left + side] = 0
        assert torch.equal(new, expected)
        assert (int(rows.max()), int(columns.max())) == (top + side - 1, left + side - 1)


def test_cutout_is_uniform_over_the_places_at_which_the_square_fits():
    x = torch.ones(8000, 1, 4, 5)  # side 2: 3 · 4 places
    black = cutout(x, streams(8000))[:, 0] == 0
    rows, columns = black.any(2).int().argmax(1), black.any(1).int().argmax(1)
    counts = torch.bincount(rows * 4 + columns, minlength=12)  # 667 expected, standard deviation 25
    assert len(counts) == 12
    assert (counts - 667).abs().max() < 125


def everything_trivialaugment_may_do(image):
    """Name and result of each operation of the wide set (Müller and Hutter 2021, table 1) at each of 31 magnitudes."""
    yield "identity", image
    yield "autocontrast", F.autocontrast(image)
    yield "equalize", F.equalize(image)
    factors = {
        "brightness": F.adjust_brightness,
        "color": F.adjust_saturation,
        "contrast": F.adjust_contrast,
        "sharpness": F.adjust_sharpness,
    }
    for k in range(31):
        share = k / 30
        yield "posterize", F.posterize(image, round(8 - 6 * share))
        yield "solarize", F.solarize(image, float(torch.linspace(1.0, 0.0, 31)[k]))
        for sign in (-1, 1):
            slope = torch.tensor(sign * 0.99 * share).atan().rad2deg().item()
            shift = sign * int(torch.linspace(0.0, 32.0, 31)[k])
            moves = {
                "shear x": {"shear": [slope, 0.0], "center": [0, 0]},
                "shear y": {"shear": [0.0, slope], "center": [0, 0]},
                "translate x": {"translate": [shift, 0]},
                "translate y": {"translate": [0, shift]},
            }
            for name, move in moves.items():
                settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | move
                yield name, F.affine(image, **settings)
            yield "rotate", F.rotate(image, sign * 135 * share)
            for name, change in factors.items():
                yield name, change(image, 1 + sign * 0.99 * share)


def test_trivialaugment_does_one_operation_of_its_set():
    image, n = images(3, 32, 32), 150
    seen = set()
    possible = list(everything_trivialaugment_may_do(image))
    table = torch.stack([result for _, result in possible]).flatten(1)
    for new in trivialaugment(image.expand(n, -1, -1, -1), streams(n)).flatten(1):
        distance = (table - new).abs().amax(1)
        assert distance.min() < 1e-5
        seen.add(possible[int(distance.argmin())][0])
    assert len(seen) >= 12  # of 14, in 150 draws


@pytest.mark.parametrize(("function", "changed"), [(randaugment, (0.80, 1.0)), (autoaugment, (0.60, 0.95))])
def test_a_policy_changes_most_images_and_not_always_alike(function, changed):
    image = images(3, 32, 32)
    new = function(image.expand(100, -1, -1, -1), streams(100))
    share = (new != image).flatten(1).any(1).float().mean()
    assert changed[0] <= share <= changed[1]
    assert len(new.flatten(1).unique(dim=0)) > 40


@pytest.mark.parametrize("function", POLICIES)
def test_one_channel_is_a_grey_image(function):
    """Three equal channels are grey as well: the same operations give the same to each, up to rounding of the grey."""
    grey = (images(40, 1, 8, 8) * 255).round() / 255
    coloured = function(grey.expand(-1, 3, -1, -1), streams(40))
    torch.testing.assert_close(function(grey, streams(40)).expand_as(coloured), coloured, rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("function", POLICIES)
def test_two_channels_are_two_grey_images_that_move_alike(function):
    x = images(30, 2, 8, 8)
    new = function(x, streams(30))
    for channel in (0, 1):
        torch.testing.assert_close(new[:, [channel]], function(x[:, [channel]], streams(30)), rtol=0, atol=1e-6)


@names
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_all_steps_of_a_sample_get_the_same(name, channels):
    still = images(20, channels, 8, 8)
    frames = still[:, None].expand(-1, 4, -1, -1, -1)
    moved = AUGMENTATIONS[name](frames, streams(20))
    expected = AUGMENTATIONS[name](still, streams(20))[:, None].expand_as(frames)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


@names
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 8, 11), (3, 33, 32)])
def test_images_stay_images(name, shape):
    x = images(30, *shape)
    before = x.clone()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        new = AUGMENTATIONS[name](x.to(dtype), streams(30))
        assert new.shape == x.shape
        assert new.dtype == dtype
        assert new.min() >= 0
        assert new.max() <= 1
    assert torch.equal(x, before)
    assert AUGMENTATIONS[name](x[:0], streams(0)).shape == (0, *shape)


@names
def test_the_numbers_belong_to_the_sample(name):
    x, which = images(40, 3, 8, 8), torch.tensor([31, 3, 17])
    whole = AUGMENTATIONS[name](x, streams(40))
    assert torch.equal(AUGMENTATIONS[name](x[which], streams(40)[which]), whole[which])
    assert torch.equal(AUGMENTATIONS[name](x, streams(40)), whole)
    if name != "none":
        assert not torch.equal(AUGMENTATIONS[name](x, streams(40, seed=2)), whole)


@names
def test_the_global_generator_is_neither_read_nor_moved(name):
    x, results = images(10, 3, 8, 8), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(AUGMENTATIONS[name](x, streams(10)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)


@pytest.mark.parametrize("function", [cutout, *POLICIES])
@pytest.mark.parametrize(
    ("x", "draws", "sentence"),
    [
        (images(3, 6, 9), streams(3), r"expected images \[N, C, H, W\] or \[N, T, C, H, W\], got \[3, 6, 9\]"),
        (images(5, 3, 6, 9), streams(4), "expected one stream per image, got 5 images and 4 streams"),
    ],
)
def test_refuses(function, x, draws, sentence):
    with pytest.raises(ValueError, match=f"^{function.__name__}: {sentence}"):
        function(x, draws)


@pytest.mark.parametrize("function", POLICIES)
def test_refuses_images_of_another_range(function):
    with pytest.raises(
        ValueError, match=rf"^{function.__name__}: expected floating images in \[0, 1\], got torch.uint8"
    ):
        function(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), streams(2))


def test_an_unknown_name_is_answered_with_all_names():
    assert augmentation("none") is AUGMENTATIONS["none"]
    with pytest.raises(
        ValueError,
        match=r"^augmentation must be one of none, cutout, randaugment, autoaugment, trivialaugment; got 'cutmix'$",
    ):
        augmentation("cutmix")
