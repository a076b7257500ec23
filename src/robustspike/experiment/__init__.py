"""Experiments as folders: one record per training run, its evaluations inside it, and several side by side."""

from robustspike.experiment.compare import comparison, curve_of, evaluation_folders
from robustspike.experiment.making import make_suite
from robustspike.experiment.names import near, parse_estimator, parse_surrogate
from robustspike.experiment.record import GROUPS, Experiment, default_eps, read_experiment, read_yaml
from robustspike.experiment.runs import attack, evaluation_name, train
from robustspike.experiment.show import show
from robustspike.experiment.sources import SOURCES, sources

__all__ = [
    "GROUPS",
    "SOURCES",
    "Experiment",
    "attack",
    "comparison",
    "curve_of",
    "default_eps",
    "evaluation_folders",
    "evaluation_name",
    "make_suite",
    "near",
    "parse_estimator",
    "parse_surrogate",
    "read_experiment",
    "read_yaml",
    "show",
    "sources",
    "train",
]  # fmt: skip
