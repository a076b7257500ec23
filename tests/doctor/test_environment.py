"""Checks of the installation: each fails for an installation with that fault."""

import os
import sys

import pytest
import torch

from robustspike.doctor import INSTALLATION, environment
from robustspike.doctor.checks import finding
from robustspike.doctor.environment import PACKAGES, surroundings
from robustspike.kernels import native


def examined(name):
    return finding(name, INSTALLATION[name])


def test_this_installation_is_well():
    for name in INSTALLATION:
        assert examined(name).passed is not False, examined(name)


def test_versions_are_told_without_importing():
    before = set(sys.modules)
    found = surroundings()
    assert {"python", *PACKAGES, "processor", "GPU", "CUDA of torch", "compiler"} == set(found)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert not {"snntorch", "norse", "torchattacks", "foolbox", "art"} & (set(sys.modules) - before)


def test_what_is_not_there_is_a_dash(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", {"none": "there-is-no-such-distribution"})
    monkeypatch.setenv("CC", "no-such-compiler")
    found = surroundings()
    assert (found["none"], found["compiler"]) == ("–", "–")


@pytest.mark.parametrize("wrong", ["numpy", "scipy"])
def test_arrays_that_do_not_fit(wrong, monkeypatch):
    if wrong == "numpy":
        monkeypatch.setattr(torch, "from_numpy", lambda array: torch.tensor([0.0, 0.0]))
    else:
        monkeypatch.setattr(environment.special, "betaincinv", lambda *given: 0.4)
    assert examined("arrays").passed is False


def test_numpy_that_torch_cannot_use(monkeypatch):
    def refuse(array):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", refuse)
    found = examined("arrays")
    assert (found.passed, found.evidence) == (False, "could not be examined: RuntimeError: Numpy is not available")


def test_a_torchvision_of_another_build(monkeypatch):
    def refuse(*given):
        raise RuntimeError("operator torchvision::nms does not exist")

    import torchvision.ops

    monkeypatch.setattr(torchvision.ops, "nms", refuse)
    found = examined("torchvision")
    assert found.passed is False
    assert "operator torchvision::nms does not exist" in found.evidence
    assert f"torch {torch.__version__}" in found.evidence


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "_gpus_seen", lambda: "/dev/nvidia0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = examined("GPU")
    assert found.passed is False
    assert "/dev/nvidia0 says that there is a GPU" in found.evidence
    assert "built without CUDA" in found.evidence
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert "built for CUDA 13.2" in examined("GPU").evidence
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = examined("GPU")
    assert (found.passed, found.evidence) == (None, "hidden by CUDA_VISIBLE_DEVICES; everything runs on the processor")


def test_no_gpu_is_no_fault(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "_gpus_seen", lambda: "")
    assert examined("GPU").passed is None


def test_a_gpu_without_kernels_for_it(monkeypatch):
    def refuse(self):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.Tensor, "cuda", refuse)
    assert "no kernel image" in examined("GPU").evidence
    assert examined("GPU").passed is False
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    found = examined("GPU")
    assert (found.passed, found.evidence) == (True, "a GPU: a product of two matrices is [[2.0, 3.0], [6.0, 11.0]]")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_here_computes():
    assert examined("GPU").passed is True
    assert examined("torchvision").evidence.endswith("cpu and cuda")


def test_the_compiled_kernel(monkeypatch):
    monkeypatch.setenv("ROBUSTSPIKE_KERNEL", "eager")
    assert examined("compiled kernel").passed is None
    monkeypatch.delenv("ROBUSTSPIKE_KERNEL")
    monkeypatch.setattr(native, "library", lambda: None)
    if environment._compiler():
        assert examined("compiled kernel").passed is False
    monkeypatch.setenv("CC", "no-such-compiler")
    found = examined("compiled kernel")
    assert found.passed is None
    assert found.evidence.startswith("no C compiler found")


@pytest.mark.skipif(native.library() is None, reason="no C compiler")
def test_a_compiled_kernel_with_other_spikes(monkeypatch):
    compute = native.Native.forward
    monkeypatch.setattr(native.Native, "forward", lambda self, *given: 1 - compute(self, *given))
    found = examined("compiled kernel")
    assert found.passed is False
    assert found.evidence.endswith("spikes and gradients are not those of plain loops")
    assert os.environ.get("ROBUSTSPIKE_KERNEL") is None
