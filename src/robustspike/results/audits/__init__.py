"""What audits return: one record for each audit, which says in words, tables and charts what was measured."""

from robustspike.results.audits.audited import Audited, headlines
from robustspike.results.audits.bounds import Bounds, Operator, SpikingLayerBound
from robustspike.results.audits.confusion import Confusion
from robustspike.results.audits.energy import Energy, LayerCost, LayerRate
from robustspike.results.audits.examples import Example, Examples
from robustspike.results.audits.gradients import Gradients, Norms, Spread
from robustspike.results.audits.heatmaps import Heatmap, Heatmaps
from robustspike.results.audits.noise import AtNoise, Noise
from robustspike.results.audits.operations import Operation, Operations
from robustspike.results.audits.signal import Steadiness, WeightSignal
from robustspike.results.audits.steps import Steps
from robustspike.results.audits.surface import Plane, Surface
from robustspike.results.audits.theorems import Theorems
from robustspike.results.audits.tried import Tried
from robustspike.results.audits.two_layers import EntryBound, Trail
from robustspike.results.audits.vulnerability import AtRadius, Vulnerability
from robustspike.results.audits.widths import Widths

__all__ = [
    "AUDIT_RECORDS", "AtNoise", "AtRadius", "Audited", "Bounds", "Confusion", "Energy", "EntryBound", "Example",
    "Examples", "Gradients", "Heatmap", "Heatmaps", "LayerCost", "LayerRate", "Noise", "Norms", "Operation",
    "Operations", "Operator", "Plane", "SpikingLayerBound", "Spread", "Steadiness", "Steps", "Surface", "Theorems",
    "Trail", "Tried", "Vulnerability", "WeightSignal", "Widths", "headlines",
]  # fmt: skip

AUDIT_RECORDS: dict[str, type[Audited]] = {
    "gradients": Gradients,
    "heatmaps": Heatmaps,
    "operations": Operations,
    "examples": Examples,
    "confusion": Confusion,
    "noise": Noise,
    "vulnerability": Vulnerability,
    "surface": Surface,
    "steps": Steps,
    "widths": Widths,
    "bounds": Bounds,
    "theorems": Theorems,
    "energy": Energy,
}
