"""A published suite with some of its settings changed, or single attacks, by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from robustspike.attacks import ATTACKS, LOSSES, SUITES, Attack, Suite, Transfer
from robustspike.balls import BALLS, Ball
from robustspike.experiment.names import chosen, parse_estimator
from robustspike.gradients import BPTT, Estimator
from robustspike.stand_ins import ReLUNetwork


def make_suite(
    eps: float | str,
    suite: str = "standard",
    *,
    attacks: Sequence[str] = (),
    estimators: Sequence[str] = (),
    norm: str = "Linf",
    steps: Sequence[int] = (),
    sources: Sequence[nn.Module] = (),
    loss: str | None = None,
    **options: int | float | None,
) -> Suite:
    """A published suite, or, where ``attacks`` are named, each of them under each estimator.

    Args:
        eps: radius in pixel units, 0.03 or "8/255".
        suite: a name in SUITES; not used where ``attacks`` are named. It takes only those of the settings below that are
            parameters of its own.
        attacks: names in ATTACKS.
        estimators: see :func:`parse_estimator`; none: "bptt", the surrogate trained with (a suite: its own).
        norm: "Linf" or "L2".
        steps: gradient steps; each single attack that has steps is run once for each number.
        sources: other models; what is made on each of them is transferred (single attacks: those through gradients, with
            the first estimator).
        loss: a name in LOSSES, for single attacks.
        options: step_size, restarts, samples, queries, targets: see the attacks; those that are None are left out. Of
            several single attacks, each takes those that it has.

    Raises:
        ValueError: for unknown names, or settings that the suite or all of the attacks do not take.

    Example:
        >>> [attack.name for attack in make_suite(0.1, attacks=["fgsm", "pgd"], estimators=["rga"], steps=[5]).attacks]
        ['FGSM', 'PGD-5']
        >>> [attack.name for attack in make_suite("8/255", "assg", steps=[10]).attacks]
        ['SA-PGD-10']
    """
    ball = chosen("norm", norm, BALLS)(eps)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if loss is not None:
        given["loss"] = chosen("loss", loss, LOSSES)
    parsed = [parse_estimator(text) for text in estimators]
    if not attacks:
        made = _published(suite, ball, given, parsed, steps, sources)
        return dataclasses.replace(made, attacks=tuple(map(_with_own_gradient, made.attacks)))
    members = _single(attacks, ball, given, parsed or [BPTT()], steps)
    black_box = [_transferred(member, source) for source in sources for member in _first_of_each(members)]
    if sources and not black_box:
        raise ValueError(
            f"{', '.join(attacks)}: nothing to transfer, no gradients are used; name an attack such as pgd"
        )
    names = "+".join(dict.fromkeys(member.name for member in members))
    words = [names, "+".join(estimators or ["bptt"]), *([f"{loss} loss"] if loss and loss not in names.lower() else [])]
    return Suite(" ".join(words), ball, (*members, *black_box))


def _published(
    name: str, ball: Ball, options: dict[str, Any], estimators: Sequence[Estimator], steps: Sequence[int],
    sources: Sequence[nn.Module],
) -> Suite:  # fmt: skip
    """A suite with those of its parameters replaced that are given."""
    builder = chosen("suite", name, SUITES)
    takes = inspect.signature(builder).parameters
    given = options | {"estimator": list(estimators), "steps": list(steps), "sources": tuple(sources)}
    given = {key: value for key, value in given.items() if not isinstance(value, (list, tuple)) or value}
    if refused := [_flag(key) for key in given if key not in takes]:
        raise ValueError(
            f"suite {name!r} takes no {', '.join(refused)}: it fixes that itself; leave it out, or name single attacks "
            "(--attack pgd)"
        )
    for key in ("estimator", "steps"):
        if key in given and not isinstance(takes[key].default, tuple):
            if len(given[key]) > 1:
                raise ValueError(f"suite {name!r} takes one {_flag(key)}, got {len(given[key])}; run it once for each")
            (given[key],) = given[key]
    return builder(ball, **given)


def _flag(parameter: str) -> str:
    """A parameter as its flag is called."""
    return f"--{'transfer-from' if parameter == 'sources' else parameter.replace('_', '-')}"


def _single(
    names: Sequence[str], ball: Ball, options: Mapping[str, Any], estimators: Sequence[Estimator], steps: Sequence[int]
) -> list[Attack]:
    """Each attack under each estimator, once for each number of steps, with those of the options that it takes."""
    builders = {name: chosen("attack", name, ATTACKS) for name in names}
    takes = {name: _parameters(builder) for name, builder in builders.items()}
    wanted = [*options, *(["steps"] if steps else [])]
    if refused := [_flag(option) for option in wanted if not any(option in found for found in takes.values())]:
        raise ValueError(
            f"attack {', '.join(map(repr, names))} takes no {', '.join(refused)}; leave it out, or use pgd"
        )
    members: list[Attack] = []
    for name, builder in builders.items():
        own = {option: value for option, value in options.items() if option in takes[name]}
        own |= {"early_stop": True} if "early_stop" in takes[name] else {}
        lengths = [{"steps": n} for n in steps] if steps and "steps" in takes[name] else [{}]
        views = [{"estimator": e} for e in estimators] if "estimator" in takes[name] else [{}]
        members += [builder(ball, **length, **view, **own) for length in lengths for view in views]
    return members


def _parameters(builder: Callable[..., Attack]) -> set[str]:
    """What an attack can be told; one-step forms pass on to PGD all but what makes them one-step."""
    takes = set(inspect.signature(builder).parameters)
    return takes | {"restarts", "samples", "loss", "early_stop"} if "options" in takes else takes


def _first_of_each(members: Sequence[Attack]) -> list[Attack]:
    """Of each attack through gradients, the member with the first estimator."""
    return list({member.name: member for member in reversed(members) if hasattr(member, "estimator")}.values())[::-1]


def _transferred(member: Attack, source: nn.Module) -> Attack:
    return _with_own_gradient(Transfer(member, source))


def _with_own_gradient(attack: Attack) -> Attack:
    """A ReLU network has no neurons to look through: what is made on one uses its own gradient."""
    if isinstance(attack, Transfer) and isinstance(attack.source, ReLUNetwork) and hasattr(attack.attack, "estimator"):
        return dataclasses.replace(attack, attack=dataclasses.replace(attack.attack, estimator=BPTT()))
    return attack
