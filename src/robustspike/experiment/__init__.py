"""Experiments as folders: one record per training run, its evaluations inside it, and several side by side."""

from robustspike.experiment.compare import comparison
from robustspike.experiment.names import make_suite, near, parse_estimator, parse_surrogate
from robustspike.experiment.record import GROUPS, Experiment, default_eps, read_experiment, read_yaml
from robustspike.experiment.runs import attack, evaluation_name, train
from robustspike.experiment.show import show

__all__ = [
    "GROUPS", "Experiment", "attack", "comparison", "default_eps", "evaluation_name", "make_suite", "near",
    "parse_estimator", "parse_surrogate", "read_experiment", "read_yaml", "show", "train",
]  # fmt: skip
