"""robustspike: train, attack and audit the adversarial robustness of spiking neural networks."""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch then asks Linux for huge pages: fewer page faults

from robustspike import data, defences, models
from robustspike.attacks import (
    APGD,
    ATTACKS,
    PGD,
    SAPGD,
    SUITES,
    GaussianNoise,
    Suite,
    Transfer,
    UniformNoise,
    WorstOf,
    fgsm,
    rfgsm,
    suites,
)
from robustspike.balls import L2, Linf
from robustspike.checkpoints import load_model, save_model
from robustspike.defences import DEFENCES, Objective
from robustspike.draws import Draws
from robustspike.evaluate import evaluate
from robustspike.gradients import ASSG, BPTR, BPTT, CBA, ESTIMATORS, HART, PDSG, RGA, estimating, input_gradient
from robustspike.models import MODELS, SNN
from robustspike.neurons import LIF, OverTime, repeat
from robustspike.results import Outcome, load_outcome
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
    "APGD", "ASSG", "ATTACKS", "BPTR", "BPTT", "CBA", "DEFENCES", "ESTIMATORS", "HART", "L2", "LIF", "MODELS", "PDSG",
    "PGD", "RGA", "SAPGD", "SNN", "SUITES", "SURROGATES", "ArcTan", "Draws", "Exponential", "Gaussian",
    "GaussianNoise", "Linf", "Objective", "Outcome", "OverTime", "Rectangle", "Sigmoid", "StraightThrough", "Suite",
    "Transfer", "Triangle", "UniformNoise", "WorstOf", "data", "defences", "estimating", "evaluate", "fgsm", "fit",
    "input_gradient", "load_model", "load_outcome", "models", "repeat", "rfgsm", "save_model", "suites",
]  # fmt: skip
