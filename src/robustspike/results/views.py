"""What a record shows: charts, matrices and pictures as plain values, which a report knows how to draw."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from robustspike.results.rates import Rate, Record
from robustspike.results.tables import Table


class Line(Record):
    """One line of a chart; ``low`` and ``high`` bound its band, empty where it has none; NaN leaves a gap.

    ``dashed`` marks a bound or a prediction, as against what was measured; ``points`` draws markers without a line.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    dashed: bool = False
    points: bool = False

    @model_validator(mode="after")
    def _lengths(self) -> Line:
        if len(self.y) != len(self.x) or not {len(self.low), len(self.high)} <= {0, len(self.x)}:
            raise ValueError(f"line {self.label!r}: x, y, low and high must have equal lengths")
        return self

    @classmethod
    def of_rates(cls, label: str, x: Sequence[float], rates: Sequence[Rate], **options: Any) -> Line:
        """Shares in % with their 95 % intervals.

        Example:
            >>> Line.of_rates("clean", [0.1], [rate(5, 10)]).y
            (50.0,)
        """
        y, low, high = (tuple(100 * getattr(r, name) for r in rates) for name in ("value", "low", "high"))
        return cls(label=label, x=tuple(x), y=y, low=low, high=high, **options)


class Chart(Record):
    """Lines over one axis.

    Attributes:
        title: what it shows, without a full stop.
        x, y: the axes' names with units.
        x_log, y_log: logarithmic axes; values that are not positive are then left out.
        percent: y is a share in %, from 0 to 100.
        note: what has to be said below it.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    x_log: bool = False
    y_log: bool = False
    percent: bool = False
    note: str = ""


class Bars(Record):
    """Values by category: one bar for each series in each category; ``stacked``: upon each other."""

    title: str
    y: str
    categories: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    stacked: bool = False
    y_log: bool = False
    percent: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _lengths(self) -> Bars:
        if any(len(values) != len(self.categories) for values in self.series.values()):
            raise ValueError(f"{self.title!r}: every series needs {len(self.categories)} values, one for each category")
        return self


class Matrix(Record):
    """Numbers in rows and columns, drawn as shades; ``signed``: from one colour over neutral 0 to another.

    Attributes:
        rows, columns: their labels, the first row at the top.
        x, y: what columns and rows are.
        values: [rows][columns].
        written: whether the numbers are written into the cells.
    """

    title: str
    x: str
    y: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    signed: bool = False
    written: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _lengths(self) -> Matrix:
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(f"{self.title!r}: values must be {len(self.rows)} rows of {len(self.columns)} numbers")
        return self


class Picture(Record):
    """A small picture in 8 bits.

    Attributes:
        kind: "image" (pixels in [0, 1]), "signed" (128 is 0) or "magnitude" (0 is 0).
        height, width, channels: of ``data``; 1 channel (grey or a heatmap) or 3 (red, green, blue).
        data: the bytes [height, width, channels] in base64.
        scale: what the largest byte stands for, in the units of what was drawn.
        alt: what it shows, for readers who do not see it.
        caption: shown below it.
    """

    kind: Literal["image", "signed", "magnitude"]
    height: int
    width: int
    channels: Literal[1, 3]
    data: str
    scale: float
    alt: str
    caption: str = ""

    @classmethod
    def of(
        cls,
        values: NDArray[Any],
        kind: Literal["image", "signed", "magnitude"],
        alt: str,
        *,
        scale: float | None = None,
        caption: str = "",
    ) -> Picture:
        """From [C, H, W] numbers; a heatmap's channels are summed (of absolute values for "magnitude").

        Args:
            scale: the number that is drawn strongest, larger ones are cut; None: the largest absolute value there is.

        Raises:
            ValueError: for another shape.

        Example:
            >>> picture = Picture.of(np.array([[[0.0, -2.0, 2.0]]]), "signed", "a row")
            >>> picture.values().tolist(), picture.scale
            ([[[0.0], [-2.0], [2.0]]], 2.0)
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 3:
            raise ValueError(f"a picture is made of [C, H, W], got {list(values.shape)}")
        if kind != "image":
            values = (np.abs(values) if kind == "magnitude" else values).sum(0, keepdims=True)
        elif len(values) not in (1, 3):
            values = values.mean(0, keepdims=True)
        largest = 1.0 if kind == "image" else float(np.abs(values).max()) if scale is None else scale
        share = values / largest if largest > 0 else np.zeros_like(values)
        share = np.clip(np.nan_to_num(share), -1 if kind == "signed" else 0, 1)
        levels = np.round(128 + 127 * share if kind == "signed" else 255 * share).astype(np.uint8).transpose(1, 2, 0)
        return cls(
            kind=kind, height=levels.shape[0], width=levels.shape[1], channels=levels.shape[2],  # type: ignore[arg-type]
            data=base64.b64encode(np.ascontiguousarray(levels).tobytes()).decode(), scale=largest, alt=alt, caption=caption,
        )  # fmt: skip

    def levels(self) -> NDArray[np.uint8]:
        """The bytes, [height, width, channels].

        Raises:
            ValueError: if they are not as many as the size says.
        """
        found = np.frombuffer(base64.b64decode(self.data), dtype=np.uint8)
        return found.reshape(self.height, self.width, self.channels)

    def values(self) -> NDArray[np.float64]:
        """The numbers up to 8 bits of rounding, [height, width, channels]."""
        levels = self.levels().astype(np.float64)
        share = (levels - 128) / 127 if self.kind == "signed" else levels / 255
        return share * self.scale


class PictureRow(Record):
    """Pictures in a row, one for each column of its :class:`Pictures`; None leaves a place empty."""

    label: str
    pictures: tuple[Picture | None, ...]


class Pictures(Record):
    """Rows of small pictures under common headings."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[PictureRow, ...]
    note: str = ""

    @model_validator(mode="after")
    def _lengths(self) -> Pictures:
        if any(len(row.pictures) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title!r}: every row needs {len(self.columns)} pictures")
        return self


View = Table | Chart | Bars | Matrix | Pictures
