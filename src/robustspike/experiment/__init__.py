"""Experiments as folders: one record per training run, its evaluations inside it, several side by side,
sweeps over settings, and published tables run again; networks of a user's own file, attacked the same way.
"""

from robustspike.experiment.attackable import Attackable, attackable
from robustspike.experiment.auditing import audit, audit_folder, usual_suite
from robustspike.experiment.compare import comparison, curve_of, evaluation_folders
from robustspike.experiment.evaluations import attack, evaluation_name
from robustspike.experiment.jobs import Job, Plan, run_jobs
from robustspike.experiment.making import make_suite
from robustspike.experiment.names import near, parse_estimator, parse_surrogate
from robustspike.experiment.networks import own_network
from robustspike.experiment.objectives import make_objective
from robustspike.experiment.points import Point, Sweep
from robustspike.experiment.recipes import default_eps, published, read_yaml, scales, tables
from robustspike.experiment.record import GROUPS, Experiment, read_experiment
from robustspike.experiment.reproduce import reproduce
from robustspike.experiment.rows import Figure, Reproduction, Row
from robustspike.experiment.runs import held_out, train
from robustspike.experiment.show import show
from robustspike.experiment.sources import SOURCES, sources
from robustspike.experiment.sweep import parse_over, sweep
from robustspike.experiment.user_code import is_target

__all__ = [
    "GROUPS",
    "SOURCES",
    "Attackable",
    "Experiment",
    "Figure",
    "Job",
    "Plan",
    "Point",
    "Reproduction",
    "Row",
    "Sweep",
    "attack",
    "attackable",
    "audit",
    "audit_folder",
    "comparison",
    "curve_of",
    "default_eps",
    "evaluation_folders",
    "evaluation_name",
    "held_out",
    "is_target",
    "make_objective",
    "make_suite",
    "near",
    "own_network",
    "parse_estimator",
    "parse_over",
    "parse_surrogate",
    "published",
    "read_experiment",
    "read_yaml",
    "reproduce",
    "run_jobs",
    "scales",
    "show",
    "sources",
    "sweep",
    "tables",
    "train",
    "usual_suite",
]  # fmt: skip
