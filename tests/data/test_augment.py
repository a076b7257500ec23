import pytest
import torch

from robustspike.data import augment, random_crop, random_flip
from robustspike.draws import Draws

IMAGES = torch.rand(64, 3, 6, 9, generator=torch.Generator().manual_seed(0)) + 0.1
DRAWS = Draws.of(seed=1, samples=torch.arange(64))


def crop_by_hand(image, top, left, pad):
    """A window of the old size whose corner is at (top − pad, left − pad); zeros outside the image."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = row + top - pad, column + left - pad
            if 0 <= y < height and 0 <= x < width:
                out[:, row, column] = image[:, y, x]
    return out


def places_of(image, cropped, pad):
    """All offsets that explain a crop."""
    side = range(2 * pad + 1)
    return [(t, c) for t in side for c in side if torch.equal(crop_by_hand(image, t, c, pad), cropped)]


def test_every_crop_is_a_window_of_its_own_image_at_one_place():
    places = [places_of(image, crop, 2) for image, crop in zip(IMAGES, random_crop(IMAGES, DRAWS, pad=2), strict=True)]
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) > 15  # of 25, in 64 draws
    assert {t for [(t, _)] in places} == {c for [(_, c)] in places} == {0, 1, 2, 3, 4}


def test_places_are_uniform():
    image = torch.zeros(1, 1, 3, 3)
    image[..., 1, 1] = 1.0
    crops = random_crop(image.expand(9000, 1, 3, 3), Draws.of(0, torch.arange(9000)), pad=1)
    seen = crops.sum(0)[0]  # the bright pixel lands on each of 9 places: expected 1000, standard deviation 30
    assert seen.sum() == 9000
    assert seen.min() > 850
    assert seen.max() < 1150


def test_no_padding_changes_nothing():
    assert torch.equal(random_crop(IMAGES, DRAWS, pad=0), IMAGES)


def test_flip_mirrors_about_half():
    flipped = random_flip(IMAGES, DRAWS)
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(flipped, IMAGES, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(flipped, IMAGES, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 20 < sum(mirrored) < 44  # expected 32, standard deviation 4


def test_augment_is_crop_then_flip():
    assert torch.equal(augment(IMAGES, DRAWS, pad=3), random_flip(random_crop(IMAGES, DRAWS, 3), DRAWS))
    assert torch.equal(augment(IMAGES, DRAWS, pad=3, flip=False), random_crop(IMAGES, DRAWS, 3))
    assert not torch.equal(augment(IMAGES, DRAWS), augment(IMAGES, DRAWS.fork(1)))


def test_flip_and_place_are_independent():
    n = 4000
    image = torch.zeros(1, 1, 1, 4)
    image[..., 0], image[..., 1] = 1.0, 0.5
    draws = Draws.of(0, torch.arange(n))
    flipped = random_flip(image.expand(n, 1, 1, 4), draws)[:, 0, 0, 0] == 0
    left = random_crop(image.expand(n, 1, 1, 4), draws, pad=1)[:, 0, :, 1].amax(1) == 1
    assert abs(flipped[left].float().mean() - flipped[~left].float().mean()) < 0.07


@pytest.mark.parametrize("function", [random_crop, random_flip, augment])
def test_a_sample_is_augmented_alike_in_any_batch(function):
    which = torch.tensor([40, 3, 17])
    assert torch.equal(function(IMAGES, DRAWS)[which], function(IMAGES[which], DRAWS[which]))


@pytest.mark.parametrize("function", [random_crop, random_flip, augment])
def test_time_steps_move_together_and_types_stay(function):
    frames = IMAGES[:, None].expand(-1, 5, -1, -1, -1)
    moved = function(frames, DRAWS)
    assert torch.equal(moved, function(IMAGES, DRAWS)[:, None].expand_as(frames))
    assert function(IMAGES.bfloat16(), DRAWS).dtype == torch.bfloat16
    assert function(IMAGES[:0], DRAWS[torch.arange(0)]).shape == (0, 3, 6, 9)


@pytest.mark.parametrize("function", [random_crop, random_flip])
@pytest.mark.parametrize(
    ("images", "draws", "message"),
    [
        (IMAGES[0], DRAWS, r"expected images \[N, C, H, W\] or \[N, T, C, H, W\], got \[3, 6, 9\]"),
        (IMAGES[:5], DRAWS, "expected one stream per image, got 5 images and 64 streams"),
        (IMAGES.to("meta"), DRAWS, "expected images and draws on one device, got meta and cpu"),
    ],
)
def test_refuses(function, images, draws, message):
    with pytest.raises(ValueError, match=f"{function.__name__}: {message}"):
        function(images, draws)


def test_refuses_a_negative_pad():
    with pytest.raises(ValueError, match="expected a pad of 0 pixels or more, got -1"):
        random_crop(IMAGES, DRAWS, pad=-1)
