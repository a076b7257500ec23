"""From a matplotlib figure to SVG that lives inside a page: its own ids, the page's colours and font, no outside names."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

from robustspike.report.colours import alone, with_variables

DPI = 72  # one unit of the SVG is then one CSS pixel
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d+")
_POINT = re.compile(r"M [^A-Z]*")
_NO_TURN = re.compile(r"rotate\(-?0(\.0+)?( [^)]*)?\)")
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


@dataclass(frozen=True)
class Text:
    """Words in a figure: where their line stands, in pixels, and how they look, in CSS; ``turned`` by degrees."""

    x: float
    y: float
    words: str
    style: str
    turned: float = 0.0

    def element(self) -> ElementTree.Element:
        """As SVG."""
        found = ElementTree.Element("text", {"x": _short(f"{self.x:.6f}"), "y": _short(f"{self.y:.6f}")})
        if self.turned:
            found.set("transform", f"rotate({-self.turned:g} {found.get('x')} {found.get('y')})")
        found.set("style", with_variables(self.style))
        found.text = plain(self.words)
        return found


def inline(figure: Figure, prefix: str, alt: str, texts: Sequence[Text] = ()) -> str:
    """The figure as one ``<svg>`` element with the texts upon it, ``alt`` as its text for readers who do not see it."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    ids = {name: f"{prefix}-{k}" for k, name in enumerate(dict.fromkeys(_references(root)))}
    for element in root.iter():
        _at_home(element, ids)
    _without_leftovers(root)
    root.extend(text.element() for text in texts)
    _with_common_style(root)
    width, height = (round(float(size)) for size in root.attrib["viewBox"].split()[2:])
    root.attrib.update({"role": "img", "aria-label": plain(alt), "width": str(width), "height": str(height)})
    root.attrib.pop("version", None)
    return ElementTree.tostring(root, encoding="unicode")


def plain(text: str) -> str:
    """Text with one space between words and nothing that an SVG file cannot hold."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def standalone(svg: str, margin: int = 0) -> str:
    """An inline figure as a file of its own, with so many pixels of paper around it."""
    root = ElementTree.fromstring(svg)
    width, height = (int(root.attrib[name]) + 2 * margin for name in ("width", "height"))
    root.attrib.update({"width": str(width), "height": str(height), "viewBox": f"{-margin} {-margin} {width} {height}"})
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
            if _local(name) == "href" and value.startswith("#"):
                yield value.removeprefix("#")
            yield from _REFERENCE.findall(value)


def _at_home(element: ElementTree.Element, ids: dict[str, str]) -> None:
    """Plain names, ids that no other figure has, colours and font of the page, numbers to a hundredth of a pixel."""
    element.tag = _local(element.tag)
    kept = {}
    for name, value in element.attrib.items():
        if _local(name) == "id":
            if value in ids:
                kept["id"] = ids[value]
        elif _local(name) == "href":
            kept["href"] = f"#{ids[value[1:]]}" if value.startswith("#") else "".join(value.split())
        else:
            value = _REFERENCE.sub(lambda found: f"url(#{ids[found[1]]})", value)
            if element.tag != "image":
                value = _NUMBER.sub(lambda found: _short(found[0]), value)
            kept[_local(name)] = with_variables(" ".join(value.split()))
    if "style" in kept:
        style = _FONT_FAMILY.sub(lambda f: f"font-size: {f[1]};" if f[1] else "", kept["style"])
        kept["style"] = ";".join(part.replace(": ", ":").strip() for part in style.split(";") if part.strip())
    if "transform" in kept and not (turned := _NO_TURN.sub("", kept["transform"]).strip()):
        del kept["transform"]
    elif "transform" in kept:
        kept["transform"] = turned
    element.attrib.clear()
    element.attrib.update(kept)
    if element.tag != "text":
        element.text = None
    element.tail = None


def _short(number: str) -> str:
    """A number to a tenth of a pixel, small ones to a hundredth."""
    value = float(number)
    text = f"{value:.{1 if abs(value) >= 20 else 2}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _without_leftovers(root: ElementTree.Element) -> None:
    """Drop metadata, matplotlib's style for the whole page, lines of a single point, and groups that group nothing."""
    for parent in list(root.iter()):
        kept: list[ElementTree.Element] = []
        for child in parent:
            point = child.tag == "path" and "id" not in child.attrib and _POINT.fullmatch(child.get("d", ""))
            if not point and child.tag not in ("metadata", "style"):
                kept.append(child)
        parent[:] = kept
    _dissolved(root)


def _dissolved(parent: ElementTree.Element) -> None:
    """Groups without attributes give way to what they hold."""
    kept: list[ElementTree.Element] = []
    for child in parent:
        _dissolved(child)
        kept += list(child) if child.tag == "g" and not child.attrib else [child]
    parent[:] = [child for child in kept if child.tag != "defs" or len(child)]


def _with_common_style(parent: ElementTree.Element) -> None:
    """Neighbours of one style say so once."""
    kept: list[ElementTree.Element] = []
    for style, run in groupby(list(parent), key=lambda child: child.get("style", "") if not len(child) else ""):
        members = list(run)
        if style and len(members) > 2:
            group = ElementTree.Element("g", {"style": style})
            for member in members:
                del member.attrib["style"]
            group.extend(members)
            members = [group]
        kept += members
    parent[:] = kept
