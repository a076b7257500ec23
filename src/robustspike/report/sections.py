"""The page's sections: one for each audit that some network has, and the list of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustspike.report.legends import Palette
from robustspike.report.views import Drawer, Drawn
from robustspike.results import AUDIT_RECORDS, Audited, Network, Table, View

SIDE_BY_SIDE = "The networks side by side"


@dataclass(frozen=True)
class Part:
    """What an audit found of one network, number ``number`` of the page.

    Attributes:
        conditions: under what, of how many samples, with which seed.
        cost: what it took.
    """

    number: int
    name: str
    answer: str
    conditions: str
    cost: str
    views: tuple[Drawn, ...]


@dataclass(frozen=True)
class Section:
    """One audit; ``conditions``: those of all networks, "" where they differ; ``compared``: the networks side by side."""

    id: str
    title: str
    about: str
    page: str
    conditions: str
    compared: tuple[Drawn, ...]
    parts: tuple[Part, ...]


def audit_names(networks: Sequence[Network]) -> list[str]:
    """The audits that some network has: known ones in their order, then others."""
    found = list(dict.fromkeys(name for network in networks for name in network.audits))
    return [name for name in AUDIT_RECORDS if name in found] + [name for name in found if name not in AUDIT_RECORDS]


def audit_sections(networks: Sequence[Network], drawer: Drawer) -> list[Section]:
    """One for each audit that some network has."""
    return [
        section(name if name in AUDIT_RECORDS else str(k), name, networks, drawer)
        for k, name in enumerate(audit_names(networks), 1)
    ]


def section(short: str, name: str, networks: Sequence[Network], drawer: Drawer) -> Section:
    """One audit of the networks that have it; they are compared where there are several."""
    palette = Palette({network.name: i for i, network in enumerate(networks)})
    found = {network.name: network.audits[name] for network in networks if name in network.audits}
    kind = type(next(iter(found.values())))
    conditions = {one.conditions() for one in found.values()}
    compared = [lean(view, kind.title, conditions) for view in kind.compared(found)] if len(found) > 1 else []
    return Section(
        id=f"audit-{short}",
        title=kind.title,
        about=kind.about,
        page=kind.page,
        conditions=conditions.pop() if len(conditions) == 1 else "",
        compared=drawer.all(compared, palette),
        parts=tuple(part(i, n.name, n.audits[name], drawer) for i, n in enumerate(networks) if name in n.audits),
    )


def lean(view: View, title: str, conditions: set[str]) -> View:
    """A view without what its section says anyway: the question, and the conditions in a title or as a table's note."""
    shorter = view.title
    for one in conditions:
        shorter = shorter.replace(f": {one}", "")
    if not isinstance(view, Table):
        return view.model_copy(update={"title": shorter})
    note = "" if view.note in {f"{one}." for one in conditions} else view.note
    return replace(view, title=SIDE_BY_SIDE if view.title == title else shorter, note=note)


def part(number: int, name: str, found: Audited, drawer: Drawer) -> Part:
    """What an audit found of one network; its first line has the network's colour."""
    spent = [f"{found.gradients} gradient evaluations"] if found.gradients else []
    spent += [f"{found.seconds:.1f} s"] if found.seconds else []
    palette = Palette({name: number}, first=number)
    views = [lean(view, "", {found.conditions()}) for view in found.views()]
    return Part(number, name, found.answer(), found.conditions(), ", ".join(spent), drawer.all(views, palette))
