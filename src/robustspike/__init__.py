"""robustspike: train, attack and audit the adversarial robustness of spiking neural networks."""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch then asks Linux for huge pages: fewer page faults

from robustspike import audits, data, defences, models
from robustspike.adapters import AdaptError, adapt
from robustspike.attacks import (
    APGD,
    ATTACKS,
    FAB,
    PGD,
    SAPGD,
    SUITES,
    EncodedPGD,
    FromClean,
    GaussianNoise,
    Square,
    Suite,
    Transfer,
    UniformNoise,
    WorstOf,
    encoded_fgsm,
    fgsm,
    rfgsm,
    suites,
)
from robustspike.audits import AUDITS, audit
from robustspike.balls import L2, Linf
from robustspike.checkpoints import load_model, save_model
from robustspike.defences import DEFENCES, Objective
from robustspike.draws import Draws
from robustspike.evaluate import evaluate
from robustspike.gradients import ASSG, BPTR, BPTT, CBA, ESTIMATORS, HART, PDSG, RGA, estimating, input_gradient
from robustspike.models import MODELS, SNN
from robustspike.neurons import DLIF, LIF, OverTime, repeat
from robustspike.results import Budget, Doubts, Finding, Outcome, load_outcome, mcnemar, parse_budget
from robustspike.stand_ins import relu_network, relu_twin, undefended_twin
from robustspike.surrogates import (
    SURROGATES,
    ArcTan,
    Exponential,
    Gaussian,
    Rectangle,
    Sigmoid,
    StraightThrough,
    Triangle,
)
from robustspike.train import fit

__version__ = "0.1.0"

__all__ = [
    "APGD", "ASSG", "ATTACKS", "AUDITS", "BPTR", "BPTT", "CBA", "DEFENCES", "DLIF", "ESTIMATORS", "FAB", "HART",
    "L2", "LIF", "MODELS", "PDSG", "PGD", "RGA", "SAPGD", "SNN", "SUITES", "SURROGATES", "AdaptError", "ArcTan", "Budget",
    "Doubts", "Draws", "EncodedPGD", "Exponential", "Finding", "FromClean", "Gaussian", "GaussianNoise", "Linf",
    "Objective", "Outcome", "OverTime", "Rectangle", "Sigmoid", "Square", "StraightThrough", "Suite", "Transfer",
    "Triangle", "UniformNoise", "WorstOf", "adapt", "audit", "audits", "data", "defences", "encoded_fgsm", "estimating",
    "evaluate", "fgsm", "fit", "input_gradient", "load_model", "load_outcome", "mcnemar", "models", "parse_budget",
    "relu_network", "relu_twin", "repeat", "rfgsm", "save_model", "suites", "undefended_twin",
]  # fmt: skip
