"""Random perturbations."""

import math

import pytest
import torch
from torch import nn

from robustspike.attacks import GaussianNoise, UniformNoise
from robustspike.balls import L2, Linf
from robustspike.draws import Draws

NOISES = pytest.mark.parametrize("noise", [UniformNoise, GaussianNoise])
N = 20_000


class FirstPixel(nn.Module):
    """Class 1 where the first pixel exceeds a half."""

    def forward(self, x):
        return torch.stack((torch.full_like(x[:, 0], 0.5), x[:, 0]), 1)


def moved_by(attack, pixels=1):
    x = torch.full((N, pixels), 0.5, dtype=torch.float64)
    return attack(FirstPixel(), x, torch.zeros(N, dtype=torch.int64), Draws.of(1, torch.arange(N))) - x


def test_uniform_noise_has_the_moments_of_the_uniform_distribution():
    moved = moved_by(UniformNoise(Linf(0.25)))
    assert 0.2499 < moved.abs().max() <= 0.25
    assert abs(moved.mean()) < 4 * 0.25 / math.sqrt(3 * N)
    assert abs(moved.var() - 0.25**2 / 3) < 0.001


def test_gaussian_noise_is_sigma_times_a_normal_number_cut_at_the_ball():
    moved = moved_by(GaussianNoise(Linf(0.25)))
    inside = moved.abs() < 0.25
    assert (moved[~inside].abs() - 0.25).abs().max() < 1e-12
    share = math.erf(1 / math.sqrt(2))  # of a normal distribution within one σ
    assert abs(inside.double().mean() - share) < 4 * math.sqrt(share * (1 - share) / N)
    draws = Draws.of(1, torch.arange(N)).fork(0)  # those of the first try
    torch.testing.assert_close(moved, (0.25 * draws.normal((1,), torch.float64)).clamp(-0.25, 0.25), rtol=0, atol=1e-12)


def test_gaussian_noise_is_projected_on_the_sphere_in_l2():
    moved = moved_by(GaussianNoise(L2(0.25)), pixels=4)
    lengths = moved.norm(dim=1)
    raw = (0.25 * Draws.of(1, torch.arange(N)).fork(0).normal((4,), torch.float64)).norm(dim=1)
    torch.testing.assert_close(lengths, raw.clamp(max=0.25), rtol=0, atol=1e-9)


@NOISES
def test_of_several_tries_one_that_the_model_errs_on_is_kept(noise):
    once, thrice = moved_by(noise(Linf(0.25))), moved_by(noise(Linf(0.25), 3))
    for moved, expected in ((once, 1 / 2), (thrice, 1 - 1 / 8)):  # each try errs on half of them
        share = (moved > 0).double().mean()
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / N)
    assert (thrice[once > 0] == once[once > 0]).all()


@NOISES
def test_costs_are_those_of_the_answers_asked_for(noise):
    x, y = torch.full((2, 1), 0.5), torch.tensor([0, 1])  # the second is wrong wherever its pixel is below a half
    one, three = (noise(Linf(0.25), tries).run(FirstPixel(), x, y, Draws.of(0, torch.arange(2))) for tries in (1, 3))
    assert one.queries.tolist() == [0, 0]
    assert one.gradients.tolist() == three.gradients.tolist() == [0, 0]
    assert three.queries.max() <= 2  # the last try is not compared with anything


@NOISES
@pytest.mark.parametrize("tries", [0, -1])
def test_fewer_than_one_try_is_refused(noise, tries):
    with pytest.raises(ValueError, match=f"^tries must be ≥ 1, got {tries}$"):
        noise(Linf(0.1), tries)


def test_names():
    assert [UniformNoise(Linf(0.1)).name, UniformNoise(Linf(0.1), 5).name] == ["uniform noise", "uniform noise ×5"]
    assert [GaussianNoise(Linf(0.1)).name, GaussianNoise(Linf(0.1), 5).name] == ["Gaussian noise", "Gaussian noise ×5"]
