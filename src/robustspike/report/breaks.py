"""Which attack broke how many samples first, and the accuracy by attack and estimator, from the figures of a summary."""

from __future__ import annotations

from collections.abc import Sequence

from robustspike.report.words import conditions, differences
from robustspike.results import Bars, Network, Summary, Table, marked

STANDING, MISCLASSIFIED = "still standing", "misclassified without attack"


def first_breaks(summary: Summary) -> list[int]:
    """For each member, how many samples it broke that all earlier ones had left standing; 0 for one with a caveat."""
    standing = round(summary.clean.value * summary.clean.n)
    found = []
    for member in summary.members:
        left = round(member.standing_after.value * member.standing_after.n)
        found.append(standing - left)
        standing = left
    return found


def counts(network: Network) -> dict[str, int]:
    """Samples by what became of them first; the sum is n."""
    summary = network.summary
    found = {STANDING: round(summary.robust.value * summary.robust.n)}
    for member, broke in zip(summary.members, first_breaks(summary), strict=True):
        if not member.caveat:
            found[member.attack] = found.get(member.attack, 0) + broke
    return {**found, MISCLASSIFIED: summary.clean.n - round(summary.clean.value * summary.clean.n)}


def columns_of(found: Sequence[dict[str, int]]) -> list[str]:
    """What became of the samples of any network: standing first, misclassified last, attacks in their order between."""
    names = dict.fromkeys(name for one in found for name in one)
    return [STANDING, *(name for name in names if name not in (STANDING, MISCLASSIFIED)), MISCLASSIFIED]


def breaks_bars(networks: Sequence[Network]) -> Bars | None:
    """A bar for each network that has a worst case, in parts by the attack that broke the samples first."""
    networks = [network for network in networks if network.summary.has_worst_case]
    if not networks:
        return None
    found = [counts(network) for network in networks]
    sizes = [network.summary.clean.n for network in networks]
    headers = [network.summary.header for network in networks]
    under = dict.fromkeys(map(conditions, headers))
    order = "A sample counts for the first attack that broke it, in the order in which they ran; "
    order += "later ones may break it as well."
    note = f"{order} What still stands is an upper bound. Measured under {'; '.join(under)}."
    return Bars(
        title="Samples by the attack that broke them first",
        y="share of samples in %",
        categories=tuple(network.name for network in networks),
        series={
            name: tuple(100 * one.get(name, 0) / n for one, n in zip(found, sizes, strict=True))
            for name in columns_of(found)
        },
        stacked=True,
        percent=True,
        note=note + (" The networks met different attacks or samples." if differences(headers) else ""),
    )


def breaks_table(networks: Sequence[Network]) -> Table:
    """The numbers behind the bars."""
    found = [(network, counts(network)) for network in networks if network.summary.has_worst_case]
    columns = columns_of([one for _, one in found])
    return Table(
        title="The same in numbers of samples",
        columns=("network", "n", *columns),
        rows=tuple((n.name, str(n.summary.clean.n), *(str(one.get(c, "·")) for c in columns)) for n, one in found),
    )


def by_estimator(network: Network) -> Table | None:
    """Accuracy under each attack through each estimator; None with fewer than two, or where no attack met all samples."""
    summary = network.summary
    cells = {(marked(m.attack, m.caveat), m.estimator): m.alone for m in summary.members}
    estimators = list(dict.fromkeys(member.estimator for member in summary.members))
    if len(estimators) < 2 or not any(cells.values()):
        return None
    rows = []
    for attack in dict.fromkeys(attack for attack, _ in cells):
        own = [cells.get((attack, e), "") for e in estimators]
        together = summary.by_attack.get(attack)
        rows.append((attack, *("·" if one is None else str(one) for one in own), str(together) if together else "·"))
    return Table(
        title=f"{network.name}: accuracy in % [95 % interval] by attack and estimator",
        columns=("attack", *estimators, "all of them"),
        rows=tuple(rows),
        note=f"Each figure is an upper bound. {conditions(summary.header)[0].upper()}{conditions(summary.header)[1:]}. · : "
        "run only on samples that earlier attacks left standing.",
    )
