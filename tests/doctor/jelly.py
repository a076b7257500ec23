"""Networks of SpikingJelly as its tutorials write them; the loop over time, or the sequence, is the owner's."""

from spikingjelly.activation_based import functional, layer, neuron
from torch import nn


def jelly(step_mode="s", encoder=None):
    """Two fully connected layers: [N, 1, 8, 8] or [T, N, 1, 8, 8] to ten classes."""
    parts = [layer.Flatten(), layer.Linear(64, 32), neuron.LIFNode(v_threshold=0.2), layer.Linear(32, 10)]
    net = nn.Sequential(*([encoder] if encoder else []), *parts, neuron.IFNode(v_threshold=0.1))
    functional.set_step_mode(net, step_mode)
    return net


def convolutional(step_mode="m"):
    """Convolution, BatchNorm, two layers of neurons."""
    parts = [layer.Conv2d(1, 6, 3, padding=1), layer.BatchNorm2d(6), neuron.LIFNode(v_threshold=0.1), layer.Flatten()]
    net = nn.Sequential(*parts, layer.Linear(384, 10), neuron.IFNode(v_threshold=0.2))
    functional.set_step_mode(net, step_mode)
    return net
