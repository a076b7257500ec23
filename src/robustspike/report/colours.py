"""The colours of the networks and of the page's ink, as CSS variables that follow the reader's light or dark setting.

The eight colours differ in lightness as well as in hue, so that they stay apart for colour-blind readers; each has a
contrast of at least 3:1 on its background. Beyond eight, markers and dashes tell networks apart, and every line is labelled.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

LIGHT = ("#0068b5", "#d4700f", "#00573f", "#9a2d6e", "#7a6a00", "#2c2a86", "#2a93cf", "#6b6b6b")
DARK = ("#4a9df0", "#f08a3c", "#9af0c8", "#d25a9c", "#e6d95c", "#9a86ff", "#a8dcff", "#a8a8a8")

# What matplotlib is given in place of a CSS variable; no figure uses these near-blacks for anything else.
_STANDING_FOR = {f"#0a0b{i:02x}": f"var(--c{i})" for i in range(len(LIGHT))}
_STANDING_FOR |= {
    "#0c0c01": "currentColor", "#0c0c02": "var(--grid)", "#0c0c03": "var(--muted)", "#0c0c04": "var(--paper)",
}  # fmt: skip
INK, GRID, MUTED, PAPER = "#0c0c01", "#0c0c02", "#0c0c03", "#0c0c04"

# Shades of matrices and heatmaps are the same in light and dark; numbers on them are black or white, whichever is clearer.
SEQUENTIAL = colormaps["cividis"]
DIVERGING = LinearSegmentedColormap.from_list(
    "blue-neutral-orange", ["#0a2f66", "#1f66b0", "#7fb0e0", "#f2f2f0", "#f0ab6c", "#c2560a", "#6b2500"]
)
ON_DARK, ON_LIGHT = "#ffffff", "#000000"


def shades(share: NDArray[np.float64], signed: bool) -> NDArray[np.uint8]:
    """Red, green, blue and opacity [..., 4] of shares in [0, 1], or in [−1, 1] where ``signed``; NaN is transparent."""
    scaled = (share + 1) / 2 if signed else share
    found: NDArray[np.uint8] = (DIVERGING if signed else SEQUENTIAL)(np.nan_to_num(scaled), bytes=True)
    found[np.isnan(share)] = 0
    return found


def ink_on(shade: NDArray[np.uint8]) -> str:
    """The ink that is clearer on one shade: black or white, by relative luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade[:3] / 255]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return ON_LIGHT if luminance > 0.179 else ON_DARK


def series(index: int) -> str:
    """The stand-in for the colour of a network."""
    return f"#0a0b{index % len(LIGHT):02x}"


def alone() -> str:
    """The style of a figure that stands in no page: light or dark with the reader's setting, on paper of its own."""
    light, dark = (" ".join(f"--c{i}: {c};" for i, c in enumerate(colours)) for colours in (LIGHT, DARK))
    return (
        f"svg {{ {light} --grid: #dfe2e7; --muted: #5b6069; --paper: #fff; color: #1a1c20; background: #fff; "
        'font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; } '
        f"@media (prefers-color-scheme: dark) {{ svg {{ {dark} --grid: #353a44; --muted: #a3a9b4; --paper: #16181d; "
        "color: #e8eaee; background: #16181d; } }"
    )


def with_variables(style: str) -> str:
    """A style with the CSS variables in place of their stand-ins."""
    for stand_in, variable in _STANDING_FOR.items():
        style = style.replace(stand_in, variable)
    return style
