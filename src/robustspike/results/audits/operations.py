"""Where on its way to the pixels the gradient becomes zero, and through what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.rates import Record
from robustspike.results.tables import Table
from robustspike.results.views import Bars, Chart, Line, View

KINDS = ("pixels", "convolution", "linear", "BatchNorm", "max pooling", "average pooling", "spiking")


class Operation(Record):
    """The gradient with respect to the input of one operation; shares are of entries, in [0, 1], means over samples.

    Attributes:
        path: of the module in the network; "pixels": the network's input.
        kind: one of :data:`KINDS`.
        entries: of one sample, over all time steps that the operation is computed for.
        zero: exactly 0.
        made: of these, made here: the gradient is not 0 at some output of the operation that the entry leads to.
        unread: of these, entries that lead to no output of the operation (a stride passes over them).
        zero_spread: exactly 0 still if every max pooling gave its gradient to the whole window.
        zero_open: exactly 0 still if, besides, spikes had a derivative of 1 with respect to all currents up to them.
        norm: ‖·‖₂ of a sample's gradient, mean over the samples.
        low, high: its 10 % and 90 % quantiles over the samples.
        not_finite: samples with entries that are not finite; these count as not 0, and as 0 in the norm.
    """

    path: str
    kind: str
    entries: int
    zero: float
    made: float
    unread: float
    zero_spread: float
    zero_open: float
    norm: float
    low: float
    high: float
    not_finite: int = 0

    @property
    def passed(self) -> float:
        """Zeros handed on: everything that the entry leads to has gradient 0."""
        return self.zero - self.made - self.unread

    @property
    def architectural(self) -> float:
        """Zeros, made anywhere on the trail so far, that go away when max pooling gives to the whole window."""
        return self.zero - self.zero_spread

    @property
    def natural(self) -> float:
        """Zeros that go away only when, besides, the spikes pass every gradient on."""
        return self.zero_spread - self.zero_open


class Operations(Audited):
    """Share of exact zeros and norm of the loss's gradient along the network (Luu 2025, section 4.3.1, Figs. 3 and 5).

    Attributes:
        operations: the pixels first, then in the order of the forward pass.
    """

    title: ClassVar[str] = "Where does the gradient become zero?"
    about: ClassVar[str] = (
        "The gradient of the cross-entropy with respect to the input of every operation: share of entries that are exactly "
        "zero, norm, and which zeros are made by max pooling (architectural) and which by the spikes (natural)."
    )
    page: ClassVar[str] = "docs/audits/operations.md"

    operations: tuple[Operation, ...]

    @property
    def pixels(self) -> Operation:
        """The gradient that an attack sees."""
        return self.operations[0]

    def of_kind(self, kind: str) -> tuple[Operation, ...]:
        """The operations of one kind."""
        return tuple(one for one in self.operations if one.kind == kind)

    def kinds(self) -> tuple[str, ...]:
        """The kinds that the network has, in the order of :data:`KINDS`."""
        return tuple(kind for kind in KINDS if self.of_kind(kind))

    def answer(self) -> str:
        pixels, inside = self.pixels, self.operations[1:]
        if pixels.not_finite == self.n:
            return (
                f"Not finite: the gradient at the pixels, for all {self.n} samples; nothing can be said of its zeros."
            )
        text = ""
        if broken := max(one.not_finite for one in self.operations):
            text = f"Not finite: gradients of {broken} of {self.n} samples; the figures do not hold for them. "
        if pixels.norm == 0:
            which = f"all {self.n - pixels.not_finite} others" if pixels.not_finite else "every sample"
            return f"{text}The gradient at the pixels is exactly zero for {which}: an attack through it sees nothing."
        zero = _percent(pixels.zero)
        text += f"At the pixels {zero} of the gradient's entries are exactly zero (norm {pixels.norm:.3g}). "
        if not inside:
            return text + "The network has no operation that could be followed."
        most = max(inside, key=lambda one: one.zero)
        text += (
            f"Inside the network {_percent(mean(inside, 'zero'))} are, on average over {len(inside)} operations: "
            f"{_percent(mean(inside, 'architectural'))} through max pooling, "
            f"{_percent(mean(inside, 'natural'))} through the spikes, {_percent(mean(inside, 'zero_open'))} otherwise, "
            f"such as strides; most at {most.path}, {_percent(most.zero)} ({most.kind})."
        )
        spiking = self.of_kind("spiking")
        if spiking and not broken and not any(one.made for one in spiking):
            text += " No spiking layer makes a zero of its own: where a gradient arrives, the surrogate derivative is not 0."
        return text

    def headline(self) -> dict[str, str]:
        inside = self.operations[1:]
        figures = {
            "zero at the pixels, %": _percent(self.pixels.zero, ""),
            "zero in the network, %": _percent(mean(inside, "zero"), ""),
            "architectural, %": _percent(mean(inside, "architectural"), ""),
            "natural, %": _percent(mean(inside, "natural"), ""),
            "norm at the pixels": f"{self.pixels.norm:.3g}",
        }
        if self.pixels.not_finite == self.n:
            figures = dict.fromkeys(figures, "–")
        broken = max(one.not_finite for one in self.operations)
        return figures | ({"not finite": str(broken)} if broken else {})

    def views(self) -> tuple[View, ...]:
        return self._by_kind(), self._bars(), zeros_chart({"zero": self}), norms_chart({"norm": self}), self._all()

    def _by_kind(self) -> Table:
        rows = []
        for kind in self.kinds():
            of = self.of_kind(kind)
            shares = (_percent(mean(of, name), "") for name in ("zero", "made", "unread", "architectural", "natural"))
            rows.append((kind, str(len(of)), *shares, f"{mean(of, 'norm'):.3g}"))
        return Table(
            title=f"Gradients by kind of operation, means: {self.conditions()}",
            columns=("operation", "number", "zero, %", "made here", "not read", "architectural", "natural", "norm"),
            rows=tuple(rows),
            note=_NOTE,
        )

    def _bars(self) -> Bars:
        of = {kind: self.of_kind(kind) for kind in self.kinds()}
        parts = {"max pooling (architectural)": "architectural", "spikes (natural)": "natural", "other": "zero_open"}
        return Bars(
            title="Exact zeros in the gradient at each kind of operation, and what makes them",
            y="share of entries in %",
            categories=tuple(of),
            series={label: tuple(100 * mean(each, name) for each in of.values()) for label, name in parts.items()},
            stacked=True,
            percent=True,
            note=_NOTE,
        )

    def _all(self) -> Table:
        rows = tuple(
            (
                one.path, one.kind, str(one.entries), _percent(one.zero, ""), _percent(one.made, ""),
                _percent(one.unread, ""), _percent(one.passed, ""), _percent(one.architectural, ""),
                _percent(one.natural, ""), f"{one.norm:.3g}", str(one.not_finite),
            )
            for one in self.operations
        )  # fmt: skip
        return Table(
            title=f"Gradients at the input of every operation, in the order of the forward pass: {self.conditions()}",
            columns=(
                "path", "operation", "entries", "zero, %", "made here", "not read", "handed on", "architectural", "natural",
                "norm", "not finite",
            ),
            rows=rows,
            note=_NOTE,
        )  # fmt: skip

    @classmethod
    def compared(cls, found: Mapping[str, Operations]) -> tuple[View, ...]:
        kinds = tuple(kind for kind in KINDS if any(one.of_kind(kind) for one in found.values()))
        bars = Bars(
            title="Exact zeros in the gradient at each kind of operation",
            y="share of entries in %",
            categories=kinds,
            series={name: tuple(100 * mean(one.of_kind(k), "zero") for k in kinds) for name, one in found.items()},
            percent=True,
            note="Means over the operations of a kind; 0 also where a network has none of the kind.",
        )
        return headlines(cls.title, found), bars, zeros_chart(found), norms_chart(found)


_NOTE = (
    "Architectural: zeros that go away if max pooling gives its gradient to the whole window. Natural: those that go away "
    "only if spikes pass every gradient on as well. Made here: zero, but an output that the entry leads to has a gradient."
)


def mean(of: Iterable[Operation], name: str) -> float:
    """The mean over operations, each counting the same; 0 for none."""
    values = [float(getattr(one, name)) for one in of]
    return sum(values) / len(values) if values else 0.0


def _percent(share: float, unit: str = " %") -> str:
    return f"{100 * share:.1f}{unit}".replace("-0.0", "0.0")


def _depths(of: Sequence[Operation]) -> tuple[float, ...]:
    return tuple(100 * k / max(len(of) - 1, 1) for k in range(len(of)))


def zeros_chart(found: Mapping[str, Operations]) -> Chart:
    """The share of zeros along the network."""
    lines = tuple(
        Line(label=name, x=_depths(one.operations), y=tuple(100 * each.zero for each in one.operations))
        for name, one in found.items()
    )
    return Chart(
        title="Exact zeros in the gradient along the network",
        x="depth: place among the operations in %, 0 the pixels",
        y="share of entries in %",
        lines=lines,
        percent=True,
        note="The gradient goes from right to left.",
    )


def norms_chart(found: Mapping[str, Operations]) -> Chart:
    """The norm along the network, with the range of four fifths of the samples."""
    lines = []
    for name, one in found.items():
        columns = ([getattr(each, which) for each in one.operations] for which in ("norm", "low", "high"))
        y, low, high = (tuple(column) for column in columns)
        lines.append(Line(label=name, x=_depths(one.operations), y=y, low=low, high=high))
    return Chart(
        title="Norm of the gradient along the network",
        x="depth: place among the operations in %, 0 the pixels",
        y="‖gradient‖₂ of a sample (logarithmic)",
        lines=tuple(lines),
        y_log=True,
        note="Mean over the samples; the band holds the middle four fifths of them.",
    )
