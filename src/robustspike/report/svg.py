"""From a matplotlib figure to SVG that lives inside a page: its own ids, the page's colours and font, no outside names."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

from robustspike.report.colours import alone, with_variables

DPI = 72  # one unit of the SVG is then one CSS pixel
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT_FAMILY = re.compile(r"font(?:-family)?:\s*(?:([\d.]+px)\s*)?[^;]*;?")


@contextmanager
def plain_style() -> Iterator[None]:
    """Matplotlib's defaults whatever the reader's own settings are, with text as text and repeatable ids.

    A character that the measuring font lacks is no cause for concern: the reader's browser draws the text.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "robustspike", "text.parse_math": False})
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield


def inline(figure: Figure, prefix: str, alt: str) -> str:
    """The figure as one ``<svg>`` element, ``alt`` as its text for readers who do not see it."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    used = set(_references(root))
    for element in root.iter():
        _at_home(element, prefix, used)
    _without_leftovers(root)
    width, height = (round(float(size)) for size in root.attrib["viewBox"].split()[2:])
    root.attrib.update({"role": "img", "aria-label": alt, "width": str(width), "height": str(height)})
    root.attrib.pop("version", None)
    return ElementTree.tostring(root, encoding="unicode")


def standalone(svg: str) -> str:
    """An inline figure as a file of its own."""
    root = ElementTree.fromstring(svg)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    style = ElementTree.Element("style")
    style.text = alone()
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]


def _references(root: ElementTree.Element) -> Iterator[str]:
    """The ids that something in the figure points to."""
    for element in root.iter():
        for name, value in element.attrib.items():
            if _local(name) == "href":
                yield value.removeprefix("#")
            yield from _REFERENCE.findall(value)


def _at_home(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Plain names, ids that no other figure has, colours and font of the page."""
    element.tag = _local(element.tag)
    kept = {}
    for name, value in element.attrib.items():
        if _local(name) == "id":
            if value in used:
                kept["id"] = f"{prefix}-{value}"
        elif _local(name) == "href":
            kept["href"] = f"#{prefix}-{value.removeprefix('#')}"
        else:
            value = _REFERENCE.sub(lambda found: f"url(#{prefix}-{found[1]})", value)
            kept[_local(name)] = with_variables(" ".join(value.split()))
    if "style" in kept:
        kept["style"] = _FONT_FAMILY.sub(lambda f: f"font-size: {f[1]};" if f[1] else "", kept["style"]).strip()
    element.attrib.clear()
    element.attrib.update(kept)
    if element.tag != "text":
        element.text = None
    element.tail = None


def _without_leftovers(root: ElementTree.Element) -> None:
    """Drop metadata, matplotlib's style for the whole page, and the invisible background."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style") or (child.tag == "defs" and not len(child)):
                parent.remove(child)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("g", "defs") and not len(child):
                parent.remove(child)
