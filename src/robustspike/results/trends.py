"""Several networks against the one number in which their training differs (Liu 2024, Fig. 3)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustspike.results.audits import Gradients
from robustspike.results.rates import Rate, Record
from robustspike.results.records import Network, under
from robustspike.results.tables import Table
from robustspike.results.views import Chart, Line, View

# What a record of a training run holds beside its settings, or what makes no difference to the network.
NOT_SETTINGS = {
    "accelerator", "epochs_done", "folder", "loss", "out", "path", "save_every", "seed", "tensorboard",
    "training_seconds", "validation_accuracy",
}  # fmt: skip


class Mean(Record):
    """A mean over samples and the interval of ± 1.96 standard errors around it; None of one sample, which has none."""

    value: float
    low: float | None = None
    high: float | None = None


class TrendPoint(Record):
    """One network.

    Attributes:
        network: its name.
        value: of the setting.
        clean, worst: accuracy without attack and in the worst case; None where every attack has a caveat.
        under: what they hold under.
        l0, l1, l2: of ∇_x f_y, means over samples; None where the gradients were not measured or not finite.
        gradients_under: what they were measured under.
    """

    network: str
    value: float
    clean: Rate
    worst: Rate | None
    under: str = ""
    l0: Mean | None = None
    l1: Mean | None = None
    l2: Mean | None = None
    gradients_under: str = ""


class Trend(Record):
    """Accuracy and gradient norms against one setting of the training.

    Attributes:
        setting: its name, "attack.steps" for a nested one.
        points: by rising value.
        under: what the accuracies hold under.
        also: other settings in which the networks differ.
        left_out: networks whose setting is no number.
    """

    setting: str
    points: tuple[TrendPoint, ...]
    under: str
    also: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def logarithmic(self) -> bool:
        """Whether the axis is: where no value is negative and the positive ones span a factor of ten or more."""
        positive = sorted({p.value for p in self.points if p.value > 0})
        return self.points[0].value >= 0 and len(positive) > 1 and positive[-1] / positive[0] >= 10

    def answer(self) -> str:
        """From the smallest to the largest value, in words."""
        low, high = self.points[0].value, self.points[-1].value
        told = []
        for name, text, unit, end in (
            ("clean", "accuracy without attack", 100, " %"), ("worst", "worst case", 100, " %"),
            ("l1", "‖∇f_y‖₁", 1, ""), ("l2", "‖∇f_y‖₂", 1, ""),
        ):  # fmt: skip
            means = dict(self._means(name))
            if low in means and high in means:
                told.append(f"{text} from {unit * means[low]:.3g} to {unit * means[high]:.3g}{end}")
        found = f"From {self.setting} = {low:g} to {high:g}: {'; '.join(told)} (under {self.under}, an upper bound)."
        return f"{found} {self._verdict(low, high)}".strip()

    def _verdict(self, low: float, high: float) -> str:
        """Whether the smaller gradient and more robustness go together from end to end, where all is measured alike."""
        conditions = {
            "accuracies": {p.under for p in self.points},
            "gradients": {p.gradients_under for p in self.points if p.gradients_under},
        }
        unlike = [what for what, different in conditions.items() if len(different) > 1]
        if unlike:
            return f"The {' and the '.join(unlike)} were not all measured under the same conditions: this is no comparison."
        norms, worst = dict(self._means("l1")), self._at("worst")
        if not all(x in norms and x in worst for x in (low, high)):
            return ""
        if norms[high] >= norms[low]:
            return "The gradient does not get smaller."
        if min(r.low for r in worst[high]) > max(r.high for r in worst[low]):
            return "A smaller gradient goes with more robustness, as in Liu 2024, Fig. 3; that is no proof of a cause."
        return "The gradient gets smaller, and the worst case does not rise beyond its intervals."

    def views(self) -> tuple[View, ...]:
        """Accuracy against the setting, gradient norms against it where they were measured, and the table."""
        accuracy = self._chart("Accuracy", "accuracy in %", {"clean": "without attack", "worst": "worst case"}, 100)
        charts = [accuracy.model_copy(update={"percent": True})]
        if any(p.l1 is not None for p in self.points):
            norms = self._chart("Norms of ∇f_y", "norm, per pixel unit, mean over samples", {"l1": "ℓ1", "l2": "ℓ2"}, 1)
            positive = all(y > 0 for line in norms.lines for y in (*line.y, *(low for low in line.low if low == low)))
            share = self._chart("Entries of ∇f_y that are not exactly zero", "share in %", {"l0": "not zero"}, 100)
            charts += [norms.model_copy(update={"y_log": positive}), share.model_copy(update={"percent": True})]
        return (*charts, self._table())

    def _at(self, name: str) -> dict[float, list[Any]]:
        """The figures of the networks at each value that have one."""
        found: dict[float, list[Any]] = {}
        for point in self.points:
            if (figure := getattr(point, name)) is not None:
                found.setdefault(point.value, []).append(figure)
        return found

    def _means(self, name: str) -> list[tuple[float, float]]:
        return [(x, sum(f.value for f in found) / len(found)) for x, found in self._at(name).items()]

    def _chart(self, title: str, y: str, names: Mapping[str, str], unit: float) -> Chart:
        lines: list[Line] = []
        for name, label in names.items():
            found = self._at(name)
            shown = [x for x in found if x > 0 or not self.logarithmic]
            means = dict(self._means(name))
            if not shown:
                continue
            bounds = [_bounds(found[x], unit) for x in shown]
            low, high = zip(*bounds, strict=True) if any(b == b for b, _ in bounds) else ((), ())
            y_shown = tuple(unit * means[x] for x in shown)
            lines.append(Line(label=label, x=tuple(shown), y=y_shown, low=low, high=high))
            if self.logarithmic and 0.0 in found:
                at_zero = (unit * means[0.0],) * 2
                lines.append(
                    Line(label=f"{label}, {self.setting} = 0", x=(shown[0], shown[-1]), y=at_zero, dashed=True)
                )
        return Chart(
            title=f"{title} against {self.setting}", x=self.setting, y=y, lines=tuple(lines), x_log=self.logarithmic,
            note=" ".join(self._notes()),
        )  # fmt: skip

    def _notes(self) -> list[str]:
        notes = [f"Accuracies under {self.under}; under attack they are upper bounds."]
        if measured := list(dict.fromkeys(p.gradients_under for p in self.points if p.gradients_under)):
            notes.append(f"Gradients under {'; '.join(measured)}.")
        if broken := [p.network for p in self.points if p.gradients_under and p.l1 is None]:
            notes.append(f"Not finite, and left out: gradients of {', '.join(broken)}.")
        if self.logarithmic and self.points[0].value == 0:
            notes.append(f"Dashed: {self.setting} = 0, which a logarithmic axis has no place for.")
        if len({p.value for p in self.points}) < len(self.points):
            notes.append("Of several networks at one value the mean is shown, and all their intervals together.")
        if self.also:
            notes.append(f"The networks also differ in {', '.join(self.also)}.")
        if self.left_out:
            notes.append(f"Left out, without a number for {self.setting}: {', '.join(self.left_out)}.")
        return notes

    def _table(self) -> Table:
        rows = tuple(
            (
                p.network, f"{p.value:g}", str(p.clean), "–" if p.worst is None else str(p.worst),
                *("·" if m is None else f"{unit * m.value:.4g}" for unit, m in ((1, p.l1), (1, p.l2), (100, p.l0))),
            )
            for p in self.points
        )  # fmt: skip
        return Table(
            title=f"Against {self.setting}: accuracy in % [95 % interval] and ∇f_y",
            columns=("network", self.setting, "clean", "worst case", "‖∇f_y‖₁", "‖∇f_y‖₂", "∇f_y not 0, %"),
            rows=rows,
            note=" ".join(self._notes()),
        )


def trend(networks: Sequence[Network], setting: str | None = None) -> Trend | None:
    """The networks against the one numeric setting in which their training differs.

    Args:
        networks: evaluated alike, with the record of their training.
        setting: its name, "attack.steps" for a nested one; None: the only one that differs. Seeds, times and losses are no
            settings.

    Returns:
        None where ``setting`` is None and no setting, more than one, or one that is not a number differs.

    Raises:
        ValueError: if the named setting does not occur, or is not a number that differs.

    Example:
        >>> data = load("digits").test.subset(4)
        >>> summary = rs.evaluate(digits_cnn(time_steps=2), data, fgsm(Linf(0.1)), doubts=0, progress=False).summary()
        >>> networks = [Network(name=str(w), training={"weight": w, "seed": 0}, summary=summary) for w in (0.1, 1.0)]
        >>> trend(networks).setting
        'weight'

    Source: Liu 2024, section 5.4 and appendix F, Figs. 3 and 6.
    """
    settings = {k: dict(_flat(network.training)) for k, network in enumerate(networks)}
    names = list(dict.fromkeys(name for found in settings.values() for name in found))
    differing = [name for name in names if len({_comparable(found.get(name)) for found in settings.values()}) > 1]
    numbers = {
        name: {k: x for k, found in settings.items() if (x := _number(found.get(name))) is not None} for name in names
    }
    if setting is None:
        if len(differing) != 1 or len(set(numbers[differing[0]].values())) < 2:
            return None
        setting = differing[0]
    elif setting not in names or len(set(numbers[setting].values())) < 2:
        fit = [name for name in differing if len(set(numbers[name].values())) > 1]
        raise ValueError(
            f"setting: expected a number in which the training differs, got {setting!r}; "
            + (f"choose one of {', '.join(fit)}" if fit else "these networks have none")
        )
    shown = sorted(numbers[setting].items(), key=lambda one: one[1])
    return Trend(
        setting=setting,
        points=tuple(_point(networks[k], x) for k, x in shown),
        under="; ".join(dict.fromkeys(under(networks[k].summary.header) for k, _ in shown)),
        also=tuple(name for name in differing if name != setting),
        left_out=tuple(network.name for k, network in enumerate(networks) if k not in numbers[setting]),
    )


def _point(network: Network, value: float) -> TrendPoint:
    found, summary = network.audits.get("gradients"), network.summary
    norms: dict[str, Any] = {}
    if isinstance(found, Gradients):
        if found.of_probability.not_finite == 0:
            norms = {name: _mean(getattr(found.of_probability, name)) for name in ("l0", "l1", "l2")}
        norms["gradients_under"] = found.conditions()
    worst = summary.robust if summary.has_worst_case else None
    return TrendPoint(
        network=network.name, value=value, clean=summary.clean, worst=worst, under=under(summary.header), **norms
    )


def _mean(values: Sequence[float]) -> Mean:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Mean(value=mean)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    half = 1.96 * math.sqrt(variance / len(values))
    return Mean(value=mean, low=max(mean - half, 0.0), high=mean + half)


def _bounds(figures: Sequence[Rate | Mean], unit: float) -> tuple[float, float]:
    """All their intervals together; NaN where one of them has none."""
    lows, highs = [f.low for f in figures], [f.high for f in figures]
    if None in lows:
        return math.nan, math.nan
    return unit * min(low for low in lows if low is not None), unit * max(high for high in highs if high is not None)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by name, nested ones as "attack.steps"; without what is none."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key not in NOT_SETTINGS:
            yield f"{prefix}{key}", value


def _number(value: Any) -> float | None:
    """A value as a finite number, "2/255" too; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if isinstance(value, str) and "/" in value:
            above, below = value.split("/")
            value = float(above) / float(below)
        return x if math.isfinite(x := float(value)) else None
    return None


def _comparable(value: Any) -> float | str:
    """What is equal for equal settings: 1, 1.0 and "1" are."""
    return repr(value) if (number := _number(value)) is None else number
