"""The exponential moving average of the weights."""

import pytest
import torch
from tests.conftest import small_snn
from tests.train.making import data, files, train
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robustspike.checkpoints import read_tensors
from robustspike.data import Split
from robustspike.defences import Objective
from robustspike.train import clean_accuracy
from robustspike.train.averaging import Average

pytestmark = pytest.mark.usefixtures("one_thread")


def moved(model, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for t in model.state_dict().values():
            t.add_(torch.rand(t.shape, generator=generator).to(t) if t.is_floating_point() else 1)


def test_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(0.75)
    for value in (1.0, 2.0, 4.0):
        model.weight.data.fill_(value)
        average.update(model)
    with average.in_place(model):
        assert model.weight.item() == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)
    assert model.weight.item() == 4.0


def test_it_is_torchs():
    model = small_snn()
    average = Average(0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for step in range(4):
        moved(model, step)
        average.update(model)
        theirs.update_parameters(model)
    floating = {name: t for name, t in theirs.module.state_dict().items() if t.is_floating_point()}
    assert len(floating) == 8
    for name, t in floating.items():
        torch.testing.assert_close(average.tensors[name], t, rtol=0, atol=0)
    assert average.tensors["layers.1.num_batches_tracked"] == 4


def test_the_average_is_validated_written_and_left_in_the_model(tmp_path):
    """Two epochs of one step: the average is decay · first + (1 − decay) · second."""
    options = {"batch_size": 20, "flip": False, "crop_padding": 0, "schedule": "constant"}
    first, second = (train(small_snn(), epochs=n, **options)[0] for n in (1, 2))
    model, log = train(small_snn(), epochs=2, ema=0.8, out=tmp_path, validation=data(12, seed=1), **options)
    for name, t in model.state_dict().items():
        if t.is_floating_point():
            expected = 0.8 * first.state_dict()[name] + 0.2 * second.state_dict()[name]
            torch.testing.assert_close(t, expected, rtol=1e-5, atol=1e-6)
    assert model.training
    for name, t in read_tensors(tmp_path / "weights.safetensors")[0].items():
        assert torch.equal(t, model.state_dict()[name])
    state, _ = read_tensors(tmp_path / "state.safetensors")
    for name, t in second.state_dict().items():
        torch.testing.assert_close(state[f"model.{name}"], t)
    assert log[-1].validation_accuracy == clean_accuracy(model, data(12, seed=1))


def test_the_average_is_what_tells_the_best_epoch(monkeypatch):
    """One weight that grows by 1 each step; images are classified correctly while it is below 1.5."""

    class Made(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            logits = torch.zeros(len(x), 4)
            logits[:, 0] = 1.5 - self.weight
            return logits if self.training else logits.detach()

    split = Split(torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    options = {"split": split, "validation": split, "epochs": 4, "batch_size": 4, "schedule": "constant"}

    monkeypatch.setattr(Objective, "__call__", lambda self, model, x, y, **_: -model.weight.sum())
    options |= {"lr": 1.0, "momentum": 0, "weight_decay": 0}
    _, plain = train(Made(), **options)
    model, averaged = train(Made(), ema=0.5, **options)
    # weight 1, 2, 3, 4; average 1, 1.5, 2.25, 3.125; at exactly 1.5 all logits are 0 and class 0 is the first of equals
    assert [row.validation_accuracy for row in plain] == [1, 0, 0, 0]
    assert [row.validation_accuracy for row in averaged] == [1, 1, 0, 0]
    assert model.weight.item() == 3.125


def test_no_average_is_no_tensor(tmp_path):
    train(out=tmp_path, epochs=1)
    state, _ = read_tensors(tmp_path / "state.safetensors")
    assert not [name for name in state if name.startswith("average.")]
    assert sorted(files(tmp_path)) == ["log.jsonl", "state.safetensors", "weights.safetensors"]
