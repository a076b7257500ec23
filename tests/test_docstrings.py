"""Every example in a docstring runs, and everything that users name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import robustspike
from robustspike import checkpoints, draws, encoders, gradients, neurons, results, surrogates, train

MODULES = ["robustspike", *sorted(m.name for m in pkgutil.walk_packages(robustspike.__path__, "robustspike."))]
NAMESPACES = [surrogates, draws, encoders, neurons, gradients, checkpoints, results, train]
NAMESPACES += [robustspike.audits, robustspike.data, robustspike.models, robustspike.attacks, robustspike.defences]
NAMESPACES += [robustspike]


def names(tmp_path):
    """What examples may use without importing it."""
    known = {"torch": torch, "nn": nn, "rs": robustspike, "tmp_path": tmp_path}
    for namespace in NAMESPACES:
        known |= {name: value for name, value in vars(namespace).items() if not name.startswith("_")}
    return known


def examples(module):
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch, one_thread, capsys):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    for test in examples(module):
        torch.manual_seed(0)
        test.globs = names(tmp_path) | vars(module) | {"tmp_path": tmp_path}
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test)
        assert results.failed == 0, f"{test.name}\n{capsys.readouterr().out}"


def test_examples_are_found():
    found = sum(len(test.examples) for name in MODULES for test in examples(importlib.import_module(name)))
    assert found > 100


DICTS = {
    "attack": robustspike.ATTACKS,
    "suite": robustspike.SUITES,
    "estimator": robustspike.ESTIMATORS,
    "defence": robustspike.DEFENCES,
    "model": robustspike.MODELS,
    "surrogate": robustspike.SURROGATES,
    "encoder": encoders.ENCODERS,
    "data": robustspike.data.DATA,
    "ball": importlib.import_module("robustspike.balls").BALLS,
}
ENTRIES = {f"{kind} {name}": entry for kind, entries in DICTS.items() for name, entry in entries.items()}
ENTRIES |= {
    f"rs.{name}": value
    for name in robustspike.__all__
    if callable(value := getattr(robustspike, name)) and value not in ENTRIES.values()
}


@pytest.mark.parametrize("entry", [pytest.param(e, id=name) for name, e in ENTRIES.items()])
def test_a_public_name_has_an_example(entry):
    text = inspect.getdoc(entry)
    assert text
    assert ">>>" in text, f"{entry.__module__}.{entry.__qualname__} has no example"
