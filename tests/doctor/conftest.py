"""The doctor without a look at what is installed."""

import pytest
import torch

from robustspike.doctor import diagnosing, doctor


@pytest.fixture
def images():
    return torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def examine(monkeypatch, one_thread):
    """``doctor``, of the network alone."""
    monkeypatch.setattr(diagnosing, "known_defects", tuple)
    monkeypatch.setattr(diagnosing, "INSTALLATION", {})
    return doctor
