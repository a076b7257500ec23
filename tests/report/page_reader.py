"""A strict reader of the page: it refuses what is not well formed, and returns tables, headings and elements."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "link", "input"}


@dataclass
class Element:
    """One element with its text, the text of its descendants included."""

    tag: str
    attributes: dict
    parents: tuple = field(repr=False)
    parts: list = field(default_factory=list, repr=False)
    inside: list = field(default_factory=list, repr=False)

    @property
    def text(self):
        return "".join(self.parts)


class Page(HTMLParser):
    """All elements of a page in order; ``open`` is the path to the current one."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {[e.tag for e in self.open]}"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, dict(attributes), tuple(self.open))
        for elements in (self.elements, *(outer.inside for outer in self.open)):
            elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element.parts.append(data)

    def all(self, *tags):
        """Elements of these kinds in the order of the page."""
        return [element for element in self.elements if element.tag in tags]

    def within(self, outer, *tags):
        """Elements of these kinds inside another element."""
        return [element for element in outer.inside if element.tag in tags]

    def tables(self):
        """(caption, rows of cell texts with one space between words) for every table."""
        result = []
        for table in self.all("table"):
            [caption] = self.within(table, "caption")
            rows = [[squeezed(c.text) for c in self.within(row, "th", "td")] for row in self.within(table, "tr")]
            result.append((squeezed(caption.text), rows))
        return result

    def with_id(self, name):
        """The one element with this id."""
        [found] = [element for element in self.elements if element.attributes.get("id") == name]
        return found


def squeezed(text):
    """Text with one space between words."""
    return " ".join(text.split())
