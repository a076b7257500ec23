"""Every attack on every sample: per-sample outcomes on disk, survivors only, resumable, in one process or several."""

from robustspike.evaluate.evaluation import evaluate

__all__ = ["evaluate"]
