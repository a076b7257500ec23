"""Everything about a network that an examination must leave alone."""

import random

import numpy as np
import torch
from torch import nn


def everything_of(model):
    """Tensors, attributes, state and modes of all modules by value and identity, and the generators' states."""
    modules = {path: (type(module), _told(vars(module), set())) for path, module in model.named_modules()}
    gradients = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    return modules, gradients, torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def _told(value, seen):
    if isinstance(value, torch.Tensor):
        return id(value), value.requires_grad, value.dtype, _bits(value)
    if isinstance(value, nn.Module) or id(value) in seen:
        return id(value)
    if isinstance(value, dict):
        return id(value), [(str(key), _told(each, seen | {id(value)})) for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return id(value), [_told(each, seen | {id(value)}) for each in value]
    return type(value), repr(value) if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def _bits(tensor):
    return repr(tensor.detach().tolist())
