import pytest
import torch

from robustspike.data.stratify import others, stratified

LABELS = torch.tensor([0] * 50 + [2] * 30 + [5] * 20)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("count", [1, 7, 10, 33, 99, 100])
def test_exact_count_and_every_class_within_one_of_its_share(count):
    chosen = stratified(LABELS, count, seed=3, purpose="test")
    assert len(chosen.unique()) == len(chosen) == count
    share = LABELS.bincount() * count / 100
    assert ((LABELS[chosen].bincount(minlength=6) - share).abs() < 1).all()
    assert (chosen.diff() > 0).all()


def test_hand_worked_quotas():
    chosen = stratified(LABELS, 5, seed=0, purpose="test")
    assert LABELS[chosen].bincount().tolist() == [3, 0, 1, 0, 0, 1]  # shares 2.5, 1.5, 1; ties go to the lower class


def test_depends_on_seed_and_purpose_only():
    chosen = stratified(LABELS, 20, seed=0, purpose="a")
    assert torch.equal(chosen, stratified(LABELS, 20, seed=0, purpose="a"))
    assert not torch.equal(chosen, stratified(LABELS, 20, seed=1, purpose="a"))
    assert not torch.equal(chosen, stratified(LABELS, 20, seed=0, purpose="b"))


def test_published_indices():
    assert stratified(torch.arange(40) % 2, 4, seed=0, purpose="validation").tolist() == [3, 16, 22, 37]


def test_every_sample_is_chosen_about_equally_often():
    times = torch.zeros(100)
    for seed in range(300):
        times[stratified(LABELS, 20, seed=seed, purpose="test")] += 1
    assert times.min() > 25
    assert times.max() < 100


def test_others():
    chosen = stratified(LABELS, 20, seed=0, purpose="test")
    assert sorted(chosen.tolist() + others(chosen, 100).tolist()) == list(range(100))
