"""The colours of the networks and of the page's ink, as CSS variables that follow the reader's light or dark setting.

The eight colours differ in lightness as well as in hue, so that they stay apart for colour-blind readers; each has a
contrast of at least 3:1 on its background. Beyond eight, markers and dashes tell networks apart, and every line is labelled.
"""

LIGHT = ("#0068b5", "#d4700f", "#00573f", "#9a2d6e", "#7a6a00", "#2c2a86", "#2a93cf", "#6b6b6b")
DARK = ("#4a9df0", "#f08a3c", "#9af0c8", "#d25a9c", "#e6d95c", "#9a86ff", "#a8dcff", "#a8a8a8")

# What matplotlib is given in place of a CSS variable; no figure uses these near-blacks for anything else.
_STANDING_FOR = {f"#0a0b{i:02x}": f"var(--c{i})" for i in range(len(LIGHT))}
_STANDING_FOR |= {"#0c0c01": "currentColor", "#0c0c02": "var(--grid)", "#0c0c03": "var(--muted)"}
INK, GRID, MUTED = "#0c0c01", "#0c0c02", "#0c0c03"


def series(index: int) -> str:
    """The stand-in for the colour of a network."""
    return f"#0a0b{index % len(LIGHT):02x}"


def alone() -> str:
    """The style of a figure that stands in no page: light or dark with the reader's setting, on paper of its own."""
    light, dark = (" ".join(f"--c{i}: {c};" for i, c in enumerate(colours)) for colours in (LIGHT, DARK))
    return (
        f"svg {{ {light} --grid: #dfe2e7; --muted: #5b6069; color: #1a1c20; background: #fff; "
        'font-family: system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; } '
        f"@media (prefers-color-scheme: dark) {{ svg {{ {dark} --grid: #353a44; --muted: #a3a9b4; color: #e8eaee; "
        "background: #16181d; } }"
    )


def with_variables(style: str) -> str:
    """A style with the CSS variables in place of their stand-ins."""
    for stand_in, variable in _STANDING_FOR.items():
        style = style.replace(stand_in, variable)
    return style
