"""Reads a drawing back: where its numbers are written, where its lines and bars lie, and what its image holds."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from robustspike.report.legends import Palette
from robustspike.report.svg import plain_style
from robustspike.report.views import Drawer


class Drawing:
    """One ``<svg>``: ``marks`` are (element, style with those of its groups)."""

    def __init__(self, svg):
        self.root = ElementTree.fromstring(svg)
        self.alt = self.root.get("aria-label")
        self.marks = list(self._walk(self.root, ""))

    def _walk(self, parent, style):
        for child in parent:
            own = ";".join(filter(None, [style, child.get("style", "")]))
            if child.tag == "g":
                yield from self._walk(child, own)
            else:
                if child.tag == "defs":
                    yield from self._walk(child, own)
                yield child, own

    def texts(self):
        """(words, x, y) of every text."""
        return [(e.text, float(e.get("x")), float(e.get("y"))) for e, _ in self.marks if e.tag == "text"]

    def at(self, words, axis):
        """Where a number stands below the data (axis 0: its x) or to their left (axis 1: its y)."""
        anchor = "text-anchor:end" if axis else "text-anchor:middle"
        found = [
            (float(e.get("x")), float(e.get("y")))
            for e, style in self.marks
            if e.tag == "text" and e.text == words and anchor in style
        ]
        return min(found)[1] if axis else max(found, key=lambda place: place[1])[0]

    def paths(self, *wanted):
        """The corners of every path whose style has all of these parts, in pieces: [[(x, y), ...], ...]."""
        found = []
        for element, style in self.marks:
            if element.tag == "path" and "id" not in element.attrib and all(part in style for part in wanted):
                pieces = []
                for letter, numbers in re.findall(r"([MLz])([^MLz]*)", element.get("d")):
                    if letter == "M":
                        pieces.append([])
                    if letter != "z":
                        pieces[-1].append(tuple(map(float, numbers.split())))
                found.append(pieces)
        return found

    def spots(self, colour):
        """Where the markers of this colour lie."""
        return [
            (float(e.get("x")), float(e.get("y")))
            for e, style in self.marks
            if e.tag == "use" and (f"stroke:{colour}" in style or f"fill:{colour}" in style)
        ]

    def images(self):
        """(pixels [rows, columns, 4], (a, d, e, f) of its place: x = a·column + e, y = d·row + f)."""
        found = []
        for element, _ in self.marks:
            if element.tag == "image":
                data = base64.b64decode(element.get("href").removeprefix("data:image/png;base64,"))
                pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
                a, b, c, d, e, f = map(float, re.findall(r"-?[\d.]+(?:e-?\d+)?", element.get("transform")))
                assert b == c == 0
                x, y = float(element.get("x", 0)), float(element.get("y", 0))
                found.append((pixels, (a, d, e + a * x, f + d * y)))
        return found


def drawn(view, palette=None, drawer=None):
    """A view as it was drawn."""
    with plain_style():
        svg, _ = (drawer or Drawer()).svg(view, palette or Palette(), "x")
    return Drawing(svg)
