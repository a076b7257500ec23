"""Random streams: SplitMix64 itself, independence of batches, and the distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustspike.draws import Draws, sampling, uniform_per_step

MASK = 2**64 - 1


def splitmix64(state, n):
    """Steele, Lea and Flood 2014 in Python integers."""
    numbers = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        numbers.append(z ^ (z >> 31))
    return numbers


def signed(number):
    return number - 2**64 if number >= 2**63 else number


def test_the_bits_are_the_published_numbers_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert splitmix64(1234567, 4) == published
    bits = Draws(torch.tensor([1234567])).bits((2, 2))
    assert bits.flatten().tolist() == [signed(number) for number in published]


@settings(deadline=None, max_examples=30)
@given(key=st.integers(-(2**63), 2**63 - 1))
def test_bits_and_uniform_agree_with_python_integers_for_any_key(key):
    draws = Draws(torch.tensor([key]))
    numbers = splitmix64(key & MASK, 3)
    assert draws.bits((3,))[0].tolist() == [signed(number) for number in numbers]
    assert draws.uniform((3,))[0].tolist() == [(number >> 40) / 2**24 for number in numbers]


KINDS = {
    "uniform": lambda d: d.uniform((2, 3)),
    "normal": lambda d: d.normal((2, 3)),
    "integers": lambda d: d.integers(10, (2, 3)),
    "fork": lambda d: d.fork("a").fork(3).uniform((2, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(samples=st.lists(st.integers(0, 10**9), min_size=1, max_size=6), seed=st.integers(0, 2**62))
def test_a_sample_draws_the_same_numbers_in_any_batch(kind, samples, seed):
    together = KINDS[kind](Draws.of(seed, torch.tensor(samples)))
    for i, sample in enumerate(samples):
        assert torch.equal(together[i], KINDS[kind](Draws.of(seed, torch.tensor([sample])))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_subsets_and_orders_select_streams(kind):
    draws = Draws.of(3, torch.arange(6))
    whole = KINDS[kind](draws)
    mask, order = torch.tensor([True, False, True, True, False, False]), torch.tensor([5, 0, 3])
    assert torch.equal(KINDS[kind](draws[mask]), whole[mask])
    assert len(draws[mask]) == 3
    assert torch.equal(KINDS[kind](draws[order]), whole[order])


def test_seeds_samples_and_labels_all_give_different_streams():
    labels = [0, 1, 2, "a", "b", "restart"]
    streams = [Draws.of(seed, torch.arange(50)) for seed in range(4)]
    keys = torch.cat([stream.keys for stream in streams] + [stream.fork(f).keys for stream in streams for f in labels])
    assert len(keys.unique()) == len(keys) == 4 * 50 * 7


def test_forks_depend_on_the_path_and_not_on_what_was_drawn():
    draws = Draws.of(0, torch.arange(2))
    before = draws.fork("x").uniform((4,))
    draws.uniform((100,))
    assert torch.equal(draws.fork("x").uniform((4,)), before)
    assert not torch.equal(draws.fork(1).fork(2).keys, draws.fork(2).fork(1).keys)


def test_uniform_numbers_have_the_moments_and_counts_of_the_uniform_distribution():
    u = Draws.of(1, torch.arange(100)).uniform((1000,), torch.float64).flatten()
    n = len(u)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean().item() - 1 / 2) < 5 * (1 / 12 / n) ** 0.5
    assert abs(u.var().item() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    counts = torch.histc(u, 32, 0, 1)
    chi_square = ((counts - n / 32) ** 2 / (n / 32)).sum().item()
    assert 31 - 5 * 62**0.5 < chi_square < 31 + 5 * 62**0.5


@pytest.mark.parametrize("other", ["next sample", "next position", "fork", "next seed"])
def test_neighbouring_streams_are_uncorrelated(other):
    draws = Draws.of(1, torch.arange(101))
    whole = draws.uniform((501,), torch.float64)
    u = whole[:100, :500]
    v = {
        "next sample": whole[1:, :500],
        "next position": whole[:100, 1:],
        "fork": draws.fork(0).uniform((500,), torch.float64)[:100],
        "next seed": Draws.of(2, torch.arange(100)).uniform((500,), torch.float64),
    }[other]
    correlation = torch.corrcoef(torch.stack([u.flatten(), v.flatten()]))[0, 1]
    assert abs(correlation.item()) < 5 / 50_000**0.5


def test_normal_numbers_have_the_moments_of_the_standard_normal():
    z = Draws.of(2, torch.arange(100)).normal((1000,), torch.float64).flatten()
    n = len(z)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean().item() - moment) < 5 * (variance / n) ** 0.5, power
    assert abs((z.abs() < 1).double().mean().item() - 0.6826895) < 5 * (0.217 / n) ** 0.5


def test_integers_cover_their_range_evenly():
    k = Draws.of(3, torch.arange(100)).integers(7, (1000,))
    assert k.dtype == torch.int64
    assert k.min() == 0
    assert k.max() == 6
    assert ((torch.bincount(k.flatten()) - 1e5 / 7).abs() < 5 * (1e5 * 6 / 49) ** 0.5).all()
    assert Draws.of(3, torch.arange(4)).integers(7).shape == (4,)


def test_fresh_streams_follow_the_global_generator():
    torch.manual_seed(5)
    first, second = Draws.fresh(3), Draws.fresh(3)
    torch.manual_seed(5)
    assert torch.equal(Draws.fresh(3).keys, first.keys)
    assert not torch.equal(first.keys, second.keys)


def test_uniform_per_step_gives_every_step_its_own_numbers_of_the_sample():
    draws = Draws.of(0, torch.arange(3))
    with sampling(draws):
        u = uniform_per_step(torch.zeros(3, 2, 2), 4)
    assert u.shape == (4, 3, 2, 2)
    assert len(u.unique()) == u.numel()
    with sampling(draws[torch.tensor([2])]):
        assert torch.equal(uniform_per_step(torch.zeros(1, 2, 2), 4)[:, 0], u[:, 2])


def test_sampling_nests_and_is_undone_after_an_exception():
    x, outer, inner = torch.zeros(2, 3), Draws.of(0, torch.arange(2)), Draws.of(1, torch.arange(2))

    def drawn():
        torch.manual_seed(0)
        return uniform_per_step(x, 2)

    def fail_inside():
        with sampling(inner):
            assert not torch.equal(drawn(), from_outer)
            raise RuntimeError("inside")

    plain = drawn()
    with sampling(outer):
        from_outer = drawn()
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
        assert torch.equal(drawn(), from_outer)
        with sampling(None):
            assert torch.equal(drawn(), plain)
    assert torch.equal(drawn(), plain)
    assert not torch.equal(plain, from_outer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_uniform_numbers_stay_below_one_in_every_type(dtype):
    u = Draws.of(0, torch.arange(50)).uniform((400,), dtype)
    assert u.dtype == dtype
    assert u.min() >= 0
    assert u.max() < 1
    assert u.double().mean().item() == pytest.approx(0.5, abs=0.02)
