"""Weights that SpikingJelly saved, in our own networks: by name and strictly; SpikingJelly itself is not needed.

A state_dict says nothing about the neurons, but for those of ParametricLIFNode: :func:`neuron_settings` gives the settings
that make ours equal to SpikingJelly's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustspike.checkpoints import misshapen, unfit
from robustspike.models import SNN, ResNetSettings, SEWSettings, SpikingVGGSettings
from robustspike.neurons import spiking_layers
from robustspike.surrogates import SURROGATES, Sigmoid, StraightThrough, Surrogate

# Under which names training scripts put a state_dict into what they save.
_NESTS = ("state_dict", "model_state_dict", "model", "net")
_ALPHA = "surrogate_function.alpha"
# A constant of a neuron, itself maybe in a container; the neuron of a shortcut is the last of its modules in old networks.
_CONSTANT = re.compile(r"(.+?)(?:\.module)?\.(?:surrogate_function\.alpha|w)")
_IN_SHORTCUT = re.compile(r"\.downsample\.[12]$")
_EXPECTED = f"expected a state_dict, names to tensors, or a mapping that holds one as one of {', '.join(_NESTS)}"
# The names of the SEW-ResNet authors' own networks, where a container holds convolution and BatchNorm.
_CONTAINERS = (
    (re.compile(r"\.conv(\d)\.(?:module\.)?0\."), r".conv\1."),
    (re.compile(r"\.conv(\d)\.(?:module\.)?1\."), r".bn\1."),
    (re.compile(r"\.downsample\.(?:0\.)?module\.([01])\."), r".downsample.\1."),
    (re.compile(r"\.downsample\.0\.([01])\."), r".downsample.\1."),
)


def neuron_settings(
    tau: float | None = None,
    decay_input: bool = True,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    surrogate: Surrogate | None = None,
    detach_reset: bool = False,
) -> dict[str, Any]:
    """The settings of a network of ours whose neurons fire as SpikingJelly's IFNode or LIFNode; defaults are theirs.

    With V measured from v_reset, their LIFNode charges H[t] = (1 − 1/τ)·V[t−1] + X[t]/τ and fires at θ = v_threshold −
    v_reset. τ·H then is our potential for leak 1 − 1/τ, threshold τ·θ and the same currents X, so weights are taken as they
    are. A surrogate of the distance from the threshold becomes g(d/τ)/τ. Logits, and gradients through this surrogate, are
    theirs up to rounding. Estimators that bring a rule of their own (BPTR, RGA, CBA, BPTT with another surrogate, …) then
    see currents τ times as large as those that charge SpikingJelly's neurons. They see the same with ``decay_input=False``
    here and ``decay_input_tau`` in :func:`load_spikingjelly`.

    Args:
        tau: of LIFNode, above 1; None for IFNode.
        decay_input: whether their LIFNode divides its input by τ.
        v_threshold, v_reset, detach_reset: theirs; v_reset=None is the soft reset.
        surrogate: ours for theirs: ``ArcTan(a)`` for ``surrogate.ATan(a)``, ``Sigmoid(a)`` for ``surrogate.Sigmoid(a)``,
            ``Triangle(1 / a)`` for ``surrogate.PiecewiseQuadratic(a)``. Default: ``Sigmoid(4)``, theirs.

    Raises:
        ValueError: for tau ≤ 1, a v_threshold that is not above v_reset, or a surrogate that cannot be scaled.

    Example:
        >>> settings = neuron_settings(tau=2.0, surrogate=ArcTan(2.0))
        >>> settings["leak"], settings["threshold"], settings["surrogate"]
        (0.5, 2.0, ArcTan(sharpness=1.0))
        >>> model = rs.models.sew_resnet18(**settings)
    """
    if tau is not None and not (math.isfinite(tau) and tau > 1):
        raise ValueError(f"tau must be above 1, as LIFNode demands, or None for IFNode; got {tau}")
    threshold = v_threshold - (v_reset or 0.0)
    if not threshold > 0:
        raise ValueError(f"v_threshold must be above v_reset, got {v_threshold} and {v_reset}")
    scale = tau if tau is not None and decay_input else 1.0
    return {
        "leak": 1.0 if tau is None else 1 - 1 / tau,
        "threshold": scale * threshold,
        "reset": "soft" if v_reset is None else "hard",
        "detach_reset": detach_reset,
        "surrogate": _stretched(surrogate or Sigmoid(4.0), scale),
    }


def _stretched(surrogate: Surrogate, scale: float) -> Surrogate:
    """The surrogate g(d/scale)/scale."""
    if scale == 1:
        return surrogate
    if type(surrogate) not in SURROGATES.values() or isinstance(surrogate, StraightThrough):
        raise ValueError(
            f"decay_input=True needs a surrogate that can be made tau times as wide and low, got {surrogate!r}; take one of "
            "rs.SURROGATES that has a width or a sharpness"
        )
    factors = {"width": scale, "sigma": scale, "sharpness": 1 / scale, "height": 1 / scale}
    return type(surrogate)(**{name: value * factors[name] for name, value in vars(surrogate).items()})


def load_spikingjelly(model: SNN, weights: Mapping[str, Any], *, decay_input_tau: float | None = None) -> None:
    """Copy a state_dict of SpikingJelly's SEW-ResNet, Spiking-ResNet or VGG into our network of the same architecture.

    Entries go by name: ``fc`` or ``classifier.6`` is our ``head``, all else lies below our ``layers``. A state_dict below
    ``state_dict``, ``model_state_dict``, ``model`` or ``net`` is found, a first name that all entries share (such as
    ``module`` of DataParallel) is left out, and the names in the SEW-ResNet authors' checkpoints are understood. Read a file
    with ``torch.load(path, weights_only=True)``, which runs no pickled code.

    With the neurons of :func:`neuron_settings`, and with ``connect`` and ``pooling`` as trained, which weights do not show
    either, the logits are the mean over time of what SpikingJelly's network returns. What some state_dicts do say about
    neurons is compared, not loaded: each ``w`` of ParametricLIFNode must give the model's leak, each
    ``surrogate_function.alpha`` of old releases the sharpness of its surrogate (or that times τ).

    Args:
        model: of ``rs.models``: a SEW-ResNet, a Spiking-ResNet, or ``spiking_vgg11`` … ``spiking_vgg19``. It is changed only
            if everything fits.
        weights: names to tensors, or what a training script saved around them.
        decay_input_tau: τ of their LIFNode with ``decay_input=True``: the last weights before each neuron are divided by it,
            for a model made with ``neuron_settings(tau, decay_input=False)``. None: weights are taken as they are.

    Raises:
        ValueError: for another model or no state_dict; naming the first tensors that are missing, unexpected, of another
            shape, kind of number or layout, or not finite; for SEW-ResNet-50 with "iand", where SpikingJelly computes
            A·(1 − S) and Fang 2021 (1 − A)·S; for neurons that differ; for a decay_input_tau that is not that of the model's
            leak, or for a Spiking-ResNet, where spikes of shortcuts reach neurons past all weights.

    Example:
        >>> theirs = {"fc.weight": torch.zeros(10, 512)}  # torch.load("checkpoint.pth", weights_only=True)
        >>> load_spikingjelly(rs.models.sew_resnet18(), {"model": theirs})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the weights do not fit sew-resnet18: conv1.weight is missing; ...
    """
    _check_model(model)
    if decay_input_tau is not None:
        _check_tau(model, decay_input_tau)
    head = "classifier.6" if isinstance(model.settings, SpikingVGGSettings) else "fc"
    ours = {_their_name(name, head): name for name in model.state_dict()}
    found = _plain_names(_unwrapped(weights, {name.split(".")[0] for name in ours}))
    constants = _of_neurons(model, found)
    tensors = {name: t for name, t in found.items() if name not in constants}
    _check_tensors(model, {name: model.state_dict()[own] for name, own in ours.items()}, tensors)
    for name, value in constants.items():
        (_check_alpha if name.endswith(_ALPHA) else _check_leak)(model, name, value)
    tau = decay_input_tau or 1.0
    divided = _before_neurons(model) if tau != 1 else set()
    model.load_state_dict({ours[name]: t / tau if ours[name] in divided else t for name, t in tensors.items()})


def _check_model(model: SNN) -> None:
    settings = getattr(model, "settings", None)
    if not isinstance(model, SNN) or not isinstance(settings, (ResNetSettings, SpikingVGGSettings)):
        name = settings.name if isinstance(model, SNN) and settings else type(model).__name__
        raise ValueError(
            f"load_spikingjelly expects a SEW-ResNet, a Spiking-ResNet or a spiking_vgg of rs.models, got {name}; "
            "any other network made with SpikingJelly goes through rs.adapt"
        )
    if isinstance(settings, SEWSettings) and (settings.name, settings.connect) == ("sew-resnet50", "iand"):
        raise ValueError(
            "SpikingJelly's sew_resnet50 computes A·(1 − S) for IAND and ours (1 − A)·S, so that its weights would make "
            "another network here; take SpikingJelly's own network, through rs.adapt"
        )


def _check_tau(model: SNN, tau: float) -> None:
    settings = model.settings
    if not (math.isfinite(tau) and tau > 1 and math.isclose(settings.leak, 1 - 1 / tau, rel_tol=1e-6)):
        raise ValueError(
            f"decay_input_tau must be the tau of the model's neurons, whose leak is 1 − 1/tau; got {tau} and a leak of "
            f"{settings.leak}; build the model with neuron_settings(tau, decay_input=False)"
        )
    if not isinstance(settings, (SEWSettings, SpikingVGGSettings)):
        raise ValueError(
            f"shortcuts of {settings.name} bring spikes to neurons past all weights, so that these cannot be divided; "
            f"leave decay_input_tau out and build the model with neuron_settings({tau}, decay_input=True)"
        )


def _before_neurons(model: SNN) -> set[str]:
    """Names of the last weights and biases on every way to a neuron: BatchNorm's, or where there is none a convolution's."""
    modules = dict(model.layers.named_modules())
    norms = [name for name, m in modules.items() if isinstance(m, nn.BatchNorm2d)]
    last = norms or [name for name, m in modules.items() if isinstance(m, nn.Conv2d)]
    last += [name for name, m in modules.items() if isinstance(m, nn.Linear)]
    return {f"layers.{name}.{part}" for name in last for part in ("weight", "bias")}


def _their_name(ours: str, head: str) -> str:
    return ours.replace("head", head, 1) if ours.startswith("head.") else ours.removeprefix("layers.")


def _unwrapped(weights: Mapping[str, Any], first_names: set[str]) -> dict[str, Tensor]:
    """The state_dict itself, its names without those of wrappers around the network."""
    while nest := _nest_of(weights):
        weights = weights[nest]
    if not isinstance(weights, Mapping) or not weights:
        raise ValueError(f"{_EXPECTED}; got {'nothing' if isinstance(weights, Mapping) else type(weights).__name__}")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{_EXPECTED}; got {name!r} of type {type(value).__name__}")
    while len(first := {name.split(".")[0] for name in weights}) == 1 and not first & first_names:
        if not all("." in name for name in weights):
            break
        weights = {name.split(".", 1)[1]: value for name, value in weights.items()}
    return dict(weights)


def _nest_of(weights: Any) -> str | None:
    if not isinstance(weights, Mapping):
        return None
    return next((name for name in _NESTS if isinstance(weights.get(name), Mapping)), None)


def _plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under SpikingJelly's names what the SEW-ResNet authors' networks call otherwise."""
    plain = {}
    for name, value in weights.items():
        for pattern, replacement in _CONTAINERS:
            name = pattern.sub(replacement, name)
        plain[name] = value
    return plain


def _of_neurons(model: SNN, found: Mapping[str, Tensor]) -> dict[str, float]:
    """What the state_dict says of neurons that the model has at these places, each in one number."""
    neurons = {name.removeprefix("layers.") for name in spiking_layers(model)}
    constants = {}
    for name, value in found.items():
        place = _CONSTANT.fullmatch(name)
        if place and _IN_SHORTCUT.sub(".downsample_sn", place[1]) in neurons and _is_number(value):
            constants[name] = float(value)
    return constants


def _is_number(t: Tensor) -> bool:
    return unfit(torch.zeros(()), t) is None and t.numel() == 1


def _check_tensors(model: SNN, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    wrong = [f"{name} is missing" for name in expected if name not in got]
    wrong += [f"{name} is unexpected" for name in got if name not in expected]
    wrong += misshapen(expected, got)
    own = "batch_norm, width, pooled_size" if isinstance(model.settings, SpikingVGGSettings) else "stem"
    advice = f"build the model with the depth, {own}, in_channels and num_classes that they were trained with"
    if not wrong:
        wrong = [f"{name} {phrase}" for name, t in expected.items() if (phrase := unfit(t, got[name]))]
        advice = "take the weights as they were trained"
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"the weights do not fit {model.settings.name}: {'; '.join(wrong[:3])}{more}; {advice}")


def _check_alpha(model: SNN, name: str, alpha: float) -> None:
    settings = model.settings
    own = getattr(settings.surrogate, "sharpness", math.nan)
    if not any(math.isclose(own, value, rel_tol=1e-5) for value in (alpha, alpha * (1 - settings.leak))):
        raise ValueError(
            f"{name} is {alpha:g} and the surrogate of this {settings.name} is {settings.surrogate}: equal logits, other "
            f"gradients; build it with the surrogate trained with, such as ArcTan({alpha:g}), or keep its own by deleting "
            f"the entries that end in {_ALPHA}"
        )


def _check_leak(model: SNN, name: str, w: float) -> None:
    leak, own = 1 / (1 + math.exp(min(w, 700.0))), model.settings.leak
    if not math.isclose(leak, own, abs_tol=1e-6):
        raise ValueError(
            f"{name} of ParametricLIFNode is a leak of {leak:.6g}, all neurons of {model.settings.name} have {own:.6g}; "
            "take SpikingJelly's own network, which keeps the time constants that its layers learned, through rs.adapt"
        )
