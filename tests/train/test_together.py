"""Two processes of torchrun end with the weights of one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.conftest import small_snn
from tests.train.in_processes import RUNS, branching, double, hashed, trained
from tests.train.making import data, watched
from tests.train.test_watching import scalars
from torch.nn.modules.batchnorm import _BatchNorm

from robustspike.checkpoints import read_tensors
from robustspike.draws import Draws
from robustspike.processes import Processes
from robustspike.train import together
from robustspike.train.averaging import Average
from robustspike.train.fitting import _fabric
from robustspike.train.steps import StepError, Stepper
from robustspike.train.together import synchronised

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).with_name("in_processes.py")
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def torchrun(scenario, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(SCRIPT), scenario, str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(what each process found, its weights, the folder)"""
    folder = tmp_path_factory.mktemp("several")
    done = torchrun("several", folder)
    assert done.returncode == 0, done.stderr
    both = [json.loads((folder / f"found.{rank}.json").read_text()) for rank in range(2)]
    return both, torch.load(folder / "weights.0.pt", weights_only=True), folder


def assert_same_weights(model, theirs):
    for name, t in model.state_dict().items():
        torch.testing.assert_close(theirs[name], t, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_the_weights_of_one(found, name):
    (first, second), weights, _ = found
    assert first[name] == second[name]
    model, log = trained(name)
    assert_same_weights(model, weights[name])
    for row, (loss, accuracy, robust) in zip(log, first[name]["log"], strict=True):
        assert loss == pytest.approx(row.loss, rel=1e-9)
        assert (accuracy, robust) == (row.validation_accuracy, row.validation_robust)


def test_micro_batches_of_two_in_two_processes_are_those_of_four_in_one(found):
    (first, second), weights, _ = found
    assert first["micro"] == second["micro"]
    assert_same_weights(trained("vanilla", micro_batch=4)[0], weights["micro"])


def test_a_parameter_may_get_its_gradient_in_one_process_only(found):
    """Which samples are whose decides who computes which layer; and buffers may have any type."""
    (first, second), weights, _ = found
    assert first["branching"] == second["branching"]
    assert_same_weights(branching(), weights["branching"])


def test_one_process_writes_what_all_resume_from(found):
    (first, second), _, folder = found
    assert first["resumed"] == second["resumed"] == first["vanilla"]["hash"]
    for name in ("whole", "cut"):
        assert not list((folder / name).glob(".*"))
        assert len((folder / name / "log.jsonl").read_text().splitlines()) == 4
    assert [step for step, _ in scalars(folder / "whole")["train/loss"]] == [10]


def test_what_one_process_refuses_all_refuse(found):
    (first, second), _, _ = found
    assert first["refused"] == second["refused"]
    assert "holds a training run already" in first["refused"]
    assert first["unlike"] == second["unlike"]
    assert "were given different runs: seed differ" in first["unlike"]
    assert first["nan"] == second["nan"]
    assert first["nan"].startswith("the loss became nan in epoch 1, step 2;")


def test_a_run_within_a_shared_block_has_one_process_to_itself(found):
    both, _, _ = found
    for rank in range(2):
        assert both[rank]["inside"] == hashed(trained("vanilla", seed=rank)[0])
        assert not both[rank]["group"]


def test_one_process_resumes_what_two_left(found):
    _, weights, folder = found
    position = read_tensors(folder / "left" / "state.safetensors")[1]["position"]
    assert (len(position["log"]), position["step"]) == (1, 2)
    model, log = trained("vanilla", double(seed=3), out=folder / "left", resume=True)
    assert len(log) == 4
    assert_same_weights(model, weights["vanilla"])


@pytest.mark.slow
def test_two_processes_resume_when_one_was_killed(tmp_path, found):
    assert torchrun("killed", tmp_path).returncode != 0
    position = read_tensors(tmp_path / "state.safetensors")[1]["position"]
    assert (len(position["log"]), position["step"]) in [(1, 1), (1, 2)]
    assert_same_weights(trained("vanilla", double(seed=3), out=tmp_path, resume=True)[0], found[1]["vanilla"])


def test_memory_that_runs_out_in_one_of_several_processes_is_said():
    """Nothing is halved: the others could not know."""

    def hook(batch, loss, call):
        raise torch.OutOfMemoryError("out of memory")

    model, split = small_snn(), data(9)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    stepper = Stepper(model, watched(hook), optimizer, Average(0), Processes(1, 2), micro_batch=2)
    load = lambda which: (split.images[which], split.labels[which], Draws.of(0, which))  # noqa: E731
    model.eval()  # BatchNorm has nobody to talk to
    with pytest.raises(StepError, match="^memory ran out in process 2 of 2$") as caught:
        stepper(torch.arange(9), load, 0.0, Draws.of(0, torch.tensor([0])))
    assert caught.value.advice == "set micro_batch below 2"
    assert stepper.micro_batch == 2


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="^2 processes need a GPU each, and this machine has 1; start fewer"):
        _fabric("auto", "32-true", Processes(0, 2))


@pytest.mark.parametrize("local", [None, "1"])
def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch, local):
    """By LOCAL_RANK, else by rank; Fabric hears of one device and starts no process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    told = []
    monkeypatch.setattr(
        "lightning_fabric.Fabric", lambda **options: told.append(options) or SimpleNamespace(device=CPU)
    )
    _fabric("auto", "bf16-mixed", Processes(3 if local is None else 2, 4))
    assert told == [{"accelerator": "auto", "devices": [1], "precision": "bf16-mixed"}]


@pytest.mark.parametrize("launcher", [{}, {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}])
def test_no_process_is_started_whoever_started_these(monkeypatch, launcher):
    """MPI, Slurm or torch.multiprocessing set no LOCAL_RANK; Fabric told of several devices starts the rest."""

    def refuse(*_, **__):
        raise AssertionError("started a process")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"} | launcher).items():
        monkeypatch.setenv(name, value)
    assert _fabric("cpu", "32-true", Processes(0, 2)).device == CPU


# BatchNorm over all samples: here one process plays two that hold the same samples, so that sums are doubled.


@pytest.fixture
def doubled(monkeypatch):
    monkeypatch.setattr(together.dist, "all_reduce", lambda t, group=None: t.mul_(2))
    return Processes(0, 2)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_synchronised_batchnorm_is_batchnorm_of_all_samples(doubled, momentum, affine):
    torch.manual_seed(0)
    layer = torch.nn.BatchNorm2d(3, momentum=momentum, affine=affine).double()
    twin = torch.nn.BatchNorm2d(3, momentum=momentum, affine=affine).double()
    x, weight = torch.rand(2, 5, 3, 4, 4, dtype=torch.float64)
    for step in range(2):
        mine, theirs = (x + step).requires_grad_(), (x + step).repeat(2, 1, 1, 1).requires_grad_()
        with synchronised(layer, doubled):
            y = layer(mine)
        z = twin(theirs)
        torch.testing.assert_close(y, z[:5])
        (y * weight).sum().backward()
        (z * weight.repeat(2, 1, 1, 1)).sum().backward()
        torch.testing.assert_close(mine.grad, theirs.grad[:5])
    for name, t in twin.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], t)


def test_its_second_derivative_too(doubled):
    torch.manual_seed(0)
    layer, twin = torch.nn.BatchNorm1d(3).double(), torch.nn.BatchNorm1d(3).double()
    x, weight = torch.rand(2, 5, 3, dtype=torch.float64)

    def second(layer, x, weight):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((layer(x).sin() * weight).sum(), x, create_graph=True)
        gradient.square().sum().backward()
        return x.grad

    with synchronised(layer, doubled):
        mine = second(layer, x, weight)
    torch.testing.assert_close(mine, second(twin, x.repeat(2, 1), weight.repeat(2, 1))[:5])


def test_the_network_is_left_as_it_was(doubled):
    model = small_snn()
    before = list(model.state_dict()), repr(model), [dict(m.__dict__) for m in model.modules()]
    with synchronised(model, doubled):
        assert list(model.state_dict()) == before[0]
        assert repr(model) == before[1]
        assert any(isinstance(m, _BatchNorm) and "forward" in m.__dict__ for m in model.modules())
    assert [m.__dict__.keys() for m in model.modules()] == [d.keys() for d in before[2]]


def test_a_layer_with_a_forward_pass_of_its_own_keeps_it(doubled):
    layer, x = torch.nn.BatchNorm1d(3), torch.rand(5, 3)
    own = layer.forward = lambda x: 2 * x
    with synchronised(layer, doubled):
        assert torch.equal(layer(x), 2 * x)
    assert layer.forward is own


def test_evaluation_mode_talks_to_nobody(monkeypatch):
    def nobody(*_, **__):
        raise AssertionError("talked")

    monkeypatch.setattr(together.dist, "all_reduce", nobody)
    model, x = small_snn().eval(), data(3).images
    alone = model(x)
    with synchronised(model, Processes(0, 2)):
        assert torch.equal(model(x), alone)
        with pytest.raises(AssertionError, match="talked"):
            model.train()(x)


def test_one_process_keeps_the_batchnorm_of_torch():
    model = small_snn()
    with synchronised(model, Processes()):
        assert all("forward" not in m.__dict__ for m in model.modules())
