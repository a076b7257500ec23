"""What an audit gives back: one network's figures and records, and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustspike.results import Audited, Comparison, Network, Outcome, comparison_table
from robustspike.writing import write_text


@dataclass(frozen=True)
class AuditReport:
    """An audited network.

    Attributes:
        network: its figures and the records of its audits, by their names.
        outcome: its evaluation, sample by sample.
        notes: which audits are missing, and why.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(8)
        >>> report = rs.audit(model, images, attacks=fgsm(Linf(0.1)), audits=["gradients"], doubts=0, progress=False)
        >>> report.to_html(tmp_path / "report.html")
    """

    network: Network
    outcome: Outcome
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> dict[str, Audited]:
        """The audits' records by their names."""
        return self.network.audits

    def comparison(self, title: str | None = None) -> Comparison:
        """The same as what a report of several networks is made of."""
        header = self.outcome.header
        return Comparison(
            title=title or f"{self.network.name} on {header.data}", networks=(self.network,), notes=self.notes
        )

    def __str__(self) -> str:
        answers = [f"{one.title} {one.answer()} ({one.conditions()})" for one in self.records.values()]
        return "\n\n".join([str(self.outcome.table()), *answers, *self.notes])

    def to_html(self, path: str | Path, title: str | None = None) -> None:
        """Write one self-contained page."""
        from robustspike.report import write_html  # draws with matplotlib: loaded when needed

        write_html(self.comparison(title), path)

    def to_json(self, path: str | Path) -> None:
        """Write everything that the page shows, as JSON."""
        write_text(Path(path), self.comparison().model_dump_json(indent=1) + "\n")

    def to_markdown(self) -> str:
        """The table of the figures under attack, for a page."""
        return comparison_table(self.comparison()).markdown()


def side_by_side(reports: Sequence[AuditReport], title: str | None = None) -> Comparison:
    """Several audited networks as one comparison, for one page.

    Raises:
        ValueError: for no report, or two networks of the same name.

    Example:
        >>> model, images = digits_cnn(time_steps=2), load("digits").test.subset(8)
        >>> options = dict(attacks=fgsm(Linf(0.1)), audits=["gradients"], doubts=0, progress=False)
        >>> reports = [rs.audit(model, images, model_name=name, **options) for name in ("one", "other")]
        >>> [network.name for network in rs.audits.side_by_side(reports).networks]
        ['one', 'other']
    """
    if not reports:
        raise ValueError("expected at least one audited network, got none")
    names = [report.network.name for report in reports]
    if len(set(names)) < len(names):
        raise ValueError(f"networks need different names to stand side by side, got {names}; give each a model_name")
    data = ", ".join(dict.fromkeys(report.outcome.header.data for report in reports))
    return Comparison(
        title=title or f"{', '.join(names)} on {data}",
        networks=tuple(report.network for report in reports),
        notes=tuple(f"{r.network.name}: {note}" for r in reports for note in r.notes),
    )
