"""SpikingJelly's VGG with a small classifier, its neurons awake, beside ours; and how a network of each is compared."""

import itertools

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_vgg
from torch import nn

import robustspike as rs
from robustspike.neurons import spiking_layers

WIDTH, POOLED, CLASSES, STEPS = 24, 2, 5, 2
NEURONS = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(alpha=2.0), "detach_reset": True}


def theirs(depth, batch_norm, **told):
    """SpikingJelly's network in float64 and multi-step mode, without memory for the linear layers that it would have."""
    builder = getattr(spiking_vgg, f"spiking_vgg{depth}{'_bn' if batch_norm else ''}")
    with torch.device("meta"):
        network = builder(num_classes=CLASSES, **NEURONS | told)
    network.avgpool = layer.AdaptiveAvgPool2d((POOLED, POOLED))
    for i, (fan_in, fan_out) in {
        0: (512 * POOLED**2, WIDTH), 3: (WIDTH, WIDTH), 6: (WIDTH, CLASSES)
    }.items():  # fmt: skip
        network.classifier[i] = layer.Linear(fan_in, fan_out)
    functional.set_step_mode(network, "m")
    return network.to_empty(device="cpu").double()


def _normalise(module, args, out):
    """The currents of a layer without BatchNorm get mean 0.3 and deviation 1."""
    std, mean = torch.std_mean(out)
    module.weight /= std
    module.bias.copy_((module.bias - mean) / std + 0.3)
    return (out - mean) / std + 0.3


@torch.no_grad()
def awaken(network, x_seq):
    """Random weights and BatchNorm statistics with which neurons of every layer fire."""
    network.train()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            module.bias.normal_(0, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.weight.uniform_(0.8, 1.6), module.bias.uniform_(0, 0.6)
            module.momentum = 1.0
        elif isinstance(module, layer.Dropout):
            module.eval()
    chain = list(network.features)
    before_norm = [m for m, after in itertools.pairwise(chain) if isinstance(after, nn.BatchNorm2d)]
    hooks = [
        module.register_forward_hook(_normalise)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in before_norm
    ]
    network(x_seq)
    for hook in hooks:
        hook.remove()
    functional.reset_net(network)
    return network.eval()


def pair(depth, batch_norm, settings=None, **told):
    """(our untrained network, theirs, images [N, T, 3, 32, 32] as both take them) in float64."""
    torch.manual_seed(0)
    x = torch.rand(2, STEPS, 3, 32, 32, dtype=torch.float64)
    network = awaken(theirs(depth, batch_norm, **told), x.transpose(0, 1))
    options = {"surrogate": rs.surrogates.ArcTan(2.0), "detach_reset": True} if settings is None else settings
    model = getattr(rs.models, f"spiking_vgg{depth}")(
        CLASSES, STEPS, encoder="frames", batch_norm=batch_norm, width=WIDTH, pooled_size=POOLED, **options
    )
    return model.double().eval(), network, x


def run(network, x, layers):
    """Spikes of every layer, logits and input gradient."""
    spikes, leaf = {}, x.clone().requires_grad_()
    hooks = [
        module.register_forward_hook(lambda m, args, out, name=name: spikes.update({name: out.detach()}))
        for name, module in layers.items()
    ]
    logits = network(leaf)
    (gradient,) = torch.autograd.grad((logits * torch.arange(1.0, 1 + logits.shape[1])).sum(), leaf)
    for hook in hooks:
        hook.remove()
    return spikes, logits.detach(), gradient


def by_them(network, x):
    nodes = {name: module for name, module in network.named_modules() if isinstance(module, neuron.BaseNode)}
    found = run(lambda leaf: network(leaf.transpose(0, 1)).mean(0), x, nodes)
    functional.reset_net(network)
    return found


def assert_equal(model, network, x):
    """Equal spikes of every layer, logits and input gradients in float64, of two networks that are awake."""
    spikes, logits, gradient = run(model, x, spiking_layers(model))
    their_spikes, their_logits, their_gradient = by_them(network, x)
    assert set(spikes) == {f"layers.{name}" for name in their_spikes}
    for name, value in their_spikes.items():
        assert torch.equal(spikes[f"layers.{name}"], value), name
        assert 0.02 < value.mean() < 0.98, (name, value.mean())
        assert (value[:, 0] != value[:, 1]).any(), name
    torch.testing.assert_close(logits, their_logits, rtol=1e-10, atol=1e-10)
    assert logits.std(0).min() > 1e-3
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-9, atol=1e-10 * their_gradient.abs().max().item())
    assert their_gradient.abs().amax((2, 3, 4)).min() > 0
