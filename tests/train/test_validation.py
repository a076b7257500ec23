"""What tells the best checkpoint."""

import pytest
import torch
from tests.conftest import small_snn
from tests.train.making import data, train

from robustspike.attacks import PGD, fgsm
from robustspike.balls import Linf
from robustspike.checkpoints import read_tensors
from robustspike.data import Split
from robustspike.defences import Mixed
from robustspike.draws import Draws
from robustspike.evaluate import evaluate
from robustspike.processes import Processes
from robustspike.train import clean_accuracy, robust_accuracy
from robustspike.train.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


def test_clean_accuracy_counts_in_evaluation_mode():
    model, split = small_snn().train(), data(10)
    right = (model.eval()(split.images).argmax(1) == split.labels).sum().item()
    model.train()
    assert clean_accuracy(model, split, batch_size=3) == right / 10
    assert model.training


def test_robust_accuracy_is_that_of_an_evaluation():
    model, split = small_snn(), data(40)
    split = Split(split.images, model.eval()(split.images).argmax(1))  # all right without an attack
    attack = fgsm(Linf(0.02))
    outcome = evaluate(model, split, attack, doubts=0, progress=False)
    assert 0 < outcome.robust_accuracy < 1
    assert robust_accuracy(model, split, attack) == outcome.robust_accuracy


@pytest.mark.parametrize("encoder", ["direct", "poisson"])
def test_robust_accuracy_repeats_whatever_the_batches(encoder):
    model, split, attack = small_snn(encoder=encoder), data(40), PGD(Linf(0.02), steps=1)
    torch.manual_seed(1)
    first = robust_accuracy(model, split, attack, batch_size=40)
    torch.manual_seed(2)
    assert robust_accuracy(model, split, attack, batch_size=7) == first
    order = torch.randperm(40)
    assert robust_accuracy(model, split.subset(order), attack) == first


class Unsure(torch.nn.Module):
    """Noise from PyTorch's own generator, in evaluation mode too."""

    def forward(self, x):
        return x + torch.randn_like(x)


def test_accuracies_repeat_where_numbers_come_from_pytorchs_generator():
    """An attack chosen for each mini-batch, a model with noise of its own; the generator itself is left alone."""
    model, split = small_snn(), data(40)
    split = Split(split.images, model.eval()(split.images).argmax(1))
    mixed = Mixed((fgsm(Linf(0.3)), lambda model, x, y: x))
    noisy = torch.nn.Sequential(Unsure(), model)
    found = set()
    for seed in range(8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.add((robust_accuracy(model, split, mixed, batch_size=8), clean_accuracy(noisy, split)))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == 1
    ((robust, clean),) = found
    assert robust_accuracy(model, split, fgsm(Linf(0.3))) < robust < 1
    assert 0 < clean < 1


def test_what_an_attack_mends_is_not_robust():
    model, split = small_snn(), data(40)
    wrong = model.eval()(split.images).argmax(1) != split.labels
    assert wrong.any()
    right = torch.nonzero(~wrong)[0, 0]
    helpful = lambda model, x, y: split.images[right].expand_as(x).clone()  # noqa: E731
    labels = split.labels[right].expand(40).clone()
    expected = (model(split.images).argmax(1) == labels).float().mean().item()
    assert robust_accuracy(model, Split(split.images, labels), helpful) == pytest.approx(expected)
    assert expected < 1


def test_only_so_many_images_are_attacked_of_every_class():
    seen = []

    def attack(model, x, y):
        assert not model.training
        seen.append(y)
        return x

    model, split = small_snn(), data(40)
    split = Split(split.images, model.eval()(split.images).argmax(1).sort().values, torch.arange(40))
    split = split.subset(model(split.images).argmax(1) == split.labels)  # only what is right is attacked
    clean, robust = Validation(split, attack, 8).accuracies(model, Processes(), 5)
    assert (clean, robust) == (1.0, 1.0)
    counts = torch.cat(seen).bincount(minlength=4)
    assert counts.sum() == 8
    assert ((counts - 8 * split.labels.bincount(minlength=4) / len(split)).abs() < 1).all()
    assert max(map(len, seen)) <= 5


class Made(torch.nn.Module):
    """Right on as many of 4 images as it is told, epoch by epoch."""

    def __init__(self, rates):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 64))
        self.rates, self.weights = iter(rates), []

    def forward(self, x):
        if self.training:
            return x.flatten(1) @ self.weight.T
        if len(x) < 4:
            return torch.zeros(len(x), 4)  # looked at for its number of classes
        right = next(self.rates)
        self.weights.append(self.weight.detach().clone())
        answers = torch.tensor([i if i < right else (i + 1) % 4 for i in range(len(x))])
        return torch.nn.functional.one_hot(answers, 4).float()


def test_the_best_checkpoint_is_the_first_of_the_highest_validation_accuracy(tmp_path):
    """The accuracies are made: 1/4, 3/4, 3/4, 1/2. Epoch 2 is the best."""
    model = Made([1, 3, 3, 2])
    _, log = train(model, out=tmp_path, validation=data(4))
    assert [row.validation_accuracy for row in log] == [0.25, 0.75, 0.75, 0.5]
    assert [row.validation_robust for row in log] == [None] * 4
    best, record = read_tensors(tmp_path / "best.safetensors")
    assert torch.equal(best["weight"], model.weights[1])
    assert record["history"]["epochs_done"] == 2
    assert torch.equal(read_tensors(tmp_path / "weights.safetensors")[0]["weight"], model.weights[3])


@pytest.mark.parametrize(
    ("clean", "robust", "best"),
    [
        ([4, 3, 3, 3], [1, 2, 2, 1], 2),  # robust before clean, the earliest of equals
        ([3, 4, 4, 3], [2, 2, 2, 2], 2),  # clean among equals
        ([4, 3, 3, 4], [0, 0, 0, 1], 4),
    ],
)
def test_with_an_attack_the_best_checkpoint_is_the_most_robust(tmp_path, monkeypatch, clean, robust, best):
    made = iter(zip(clean, robust, strict=True))

    def accuracies(self, model, processes, batch_size):
        c, r = next(made)
        return c / 4, r / 4

    monkeypatch.setattr(Validation, "accuracies", accuracies)
    train(out=tmp_path, validation=data(4), validation_attack=fgsm(Linf(0.1)))
    assert read_tensors(tmp_path / "best.safetensors")[1]["history"]["epochs_done"] == best


def test_the_log_holds_what_the_checkpoints_give(tmp_path):
    split, attack = data(12, seed=1), PGD(Linf(0.05), steps=2)
    model, log = train(small_snn(), out=tmp_path, validation=split, validation_attack=attack)
    assert log[-1].validation_robust == robust_accuracy(model, split, attack)
    assert log[-1].validation_accuracy == clean_accuracy(model, split)


def test_three_processes_count_what_one_does():
    """Their shares are disjoint and whole, also where one has none."""
    model, attack, counts = small_snn(), PGD(Linf(0.02), steps=1), []

    class Counting(Processes):
        def gather(self, value):
            counts.append(value)
            return [value]

    for n in (2, 40):
        split = data(n)
        alone = Validation(split, attack).accuracies(model, Processes(), 7)
        counts.clear()
        for rank in range(3):
            Validation(split, attack).accuracies(model, Counting(rank, 3), 7)
        assert (sum(counts[::2]) / n, sum(counts[1::2]) / n) == alone


def test_the_draws_are_those_of_the_samples():
    drawn = {}

    def attack(model, x, y):
        for image, key in zip(x, Draws.fresh(len(x)).keys.tolist(), strict=True):
            drawn.setdefault(tuple(image.flatten().tolist()), set()).add(key)
        return x

    model, split = small_snn(), data(20)
    for size in (20, 3):
        robust_accuracy(model, split, attack, batch_size=size)
    assert drawn
    assert all(len(keys) == 1 for keys in drawn.values())
