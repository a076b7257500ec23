"""Defects of released frameworks, each found by running it on a tiny tensor: a release that has repaired it passes."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from robustspike.doctor import norse_defects, snntorch_defects, spikingjelly_defects, torchattacks_defects
from robustspike.doctor.checks import Check, NotApplicableError, Verdict, finding, sentence, version
from robustspike.results import Finding


@dataclass(frozen=True)
class Known(Check):
    """A defect of a framework.

    Attributes:
        framework: the package, which is imported only if it is installed.
        affects: whether a module of a network carries the defect; not asked where the release is repaired.
    """

    framework: str
    affects: Callable[[nn.Module], bool] = lambda module: False


def _imports() -> Verdict:
    """For a framework that is known to break with releases of others: it was imported, if this is asked at all."""
    return Verdict(True, "it can be imported")


KNOWN: dict[str, Known] = {
    "SpikingJelly's eval mode": Known(
        "Update to SpikingJelly 2.0, or attack rs.adapt(model, …); by hand: model.eval(), then .train() for the neurons "
        "alone.",
        spikingjelly_defects.gradient_in_eval, "spikingjelly", spikingjelly_defects.loses_gradient_in_eval,
    ),
    "SpikingJelly's forced CUDA kernels": Known(
        "Unset the variables, or set them to auto: a forced implementation refuses every surrogate but its own on a GPU.",
        spikingjelly_defects.forced_kernels, "spikingjelly",
    ),
    "SpikingJelly's reset_net": Known(
        "Call functional.invalidate_reset_cache(net) after exchanging a neuron, or replace none: rs.adapt does not.",
        spikingjelly_defects.replaced_neurons, "spikingjelly",
    ),
    "SpikingJelly's default surrogates": Known(
        "Never write to neuron.surrogate_function.alpha: give each neuron a surrogate of its own.",
        spikingjelly_defects.shared_surrogate, "spikingjelly",
    ),
    "SpikingJelly's encoders": Known(
        "Attack through an encoder with a gradient: rs.adapt(model, encoder=…); a plain attack gets no gradient here.",
        spikingjelly_defects.encoders, "spikingjelly", spikingjelly_defects.cuts_the_graph,
    ),
    "snnTorch's sigmoid": Known(
        "Use surrogate.atan() or fast_sigmoid(), or attack rs.adapt(model, …) through estimators of robustspike: a NaN "
        "gradient has no sign, so PGD stands still and the network looks robust.",
        snntorch_defects.sigmoid, "snntorch", snntorch_defects.fires_by("sigmoid"),
    ),
    "snnTorch's triangular": Known(
        "Use surrogate.atan(): the slope of this one is negative above the threshold and never falls off.",
        snntorch_defects.triangular, "snntorch", snntorch_defects.fires_by("triangular"),
    ),
    "snnTorch's LSO": Known(
        "Use surrogate.atan().", snntorch_defects.leaky_operator, "snntorch", snntorch_defects.fires_by("LSO"),
    ),
    "snnTorch's spikegen.rate": Known(
        'Encode by rs.adapt(model, encoder="poisson"), whose gradient is that of the mean; through spikegen.rate every '
        "gradient is 0, no attack moves, and no error is raised.",
        snntorch_defects.rate_coding, "snntorch",
    ),
    "snnTorch's encoders": Known(
        "Attack through an encoder with a gradient: rs.adapt(model, encoder=…).", snntorch_defects.encoders, "snntorch",
    ),
    "snnTorch's reset of nested neurons": Known(
        "Call reset_mem() of every neuron before each forward pass, as rs.adapt does.", snntorch_defects.nested, "snntorch",
    ),
    "snnTorch's reset of copies": Known(
        "Call reset_mem() of every neuron of the copy, as rs.adapt does.", snntorch_defects.copies, "snntorch",
    ),
    "snnTorch's reset of one network": Known(
        "Call reset_mem() of the network's own neurons, as rs.adapt does.", snntorch_defects.foreign, "snntorch",
    ),
    "Norse's alpha": Known(
        'Attack rs.adapt(model, …) through robustspike\'s surrogates, take another method ("tanh", "triangle", "circ"), '
        "or install Norse from its repository.",
        norse_defects.alpha, "norse", norse_defects.sets_alpha,
    ),
    "Norse's encoders": Known(
        'Encode by rs.adapt(model, encoder="poisson"), whose gradient is that of the mean.', norse_defects.encoders, "norse",
    ),
    "foolbox's imports": Known(
        "Install a SciPy that foolbox was written for (pip install 'scipy<2'), or attack with robustspike alone.",
        _imports, "foolbox",
    ),
    "torchattacks' modes": Known(
        "Attack rs.adapt(model, …), which needs no mode of its neurons; or set every module's mode again after each attack.",
        torchattacks_defects.modes, "torchattacks",
    ),
}  # fmt: skip
"""Known defects by name."""


def known_defects() -> tuple[Finding, ...]:
    """One finding for each known defect; PyTorch's generator is left as it was."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        warnings.simplefilter("ignore")
        return tuple(finding(name, Known(known.remedy, _run(known), known.framework)) for name, known in KNOWN.items())


def _run(known: Known) -> Callable[[], Verdict]:
    def judge() -> Verdict:
        release = version(known.framework)
        if release is None:
            raise NotApplicableError(f"{known.framework} is not installed")
        try:
            importlib.import_module(known.framework)
        except Exception as error:
            said = f"{known.framework} {release} is installed but cannot be imported: {sentence(error)}"
            anew = f"Install {known.framework} anew, with what it needs, or remove it."
            return Verdict(False, said, "" if known.judge is _imports else anew)
        try:
            passed, evidence, remedy = known.judge()
        except (AttributeError, ImportError) as error:
            raise NotApplicableError(f"{known.framework} {release} has no such thing: {sentence(error)}") from None
        return Verdict(passed, f"{evidence} ({known.framework} {release})", remedy)

    return judge


def affected(model: nn.Module, findings: tuple[Finding, ...]) -> dict[str, list[str]]:
    """The defects of the installed releases that modules of this network carry, and the modules' paths."""
    failed = {one.check for one in findings if one.passed is False}
    modules = [(path or type(model).__name__, module) for path, module in model.named_modules()]
    found = {
        name: [path for path, module in modules if known.affects(module)]
        for name, known in KNOWN.items()
        if name in failed
    }
    return {name: paths for name, paths in found.items() if paths}
