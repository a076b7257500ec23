"""The examples in the docstrings of robustspike.data run."""

import doctest
import importlib
import pkgutil

import pytest

import robustspike.data

MODULES = [module.name for module in pkgutil.iter_modules(robustspike.data.__path__, "robustspike.data.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
