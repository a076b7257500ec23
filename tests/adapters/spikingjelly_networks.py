"""Networks as users of SpikingJelly write them, what their owners do with them, and the same with our own neurons."""

import contextlib
import copy
import importlib.metadata
import warnings

import torch
import torch.nn.functional as F
from torch import nn

import robustspike as rs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the older release meets newer releases of what it needs
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

OLDER = importlib.metadata.version("spikingjelly").startswith("0.")


T, CLASSES = 4, 5


def spiking(kind=neuron.LIFNode, **told):
    return kind(**{"surrogate_function": surrogate.ATan()} | told)


class ConvNet(nn.Module):
    """Makes the steps and averages them itself."""

    def __init__(self, **told):
        super().__init__()
        self.body = nn.Sequential(
            layer.Conv2d(1, 4, 3, padding=1, bias=False), layer.BatchNorm2d(4), spiking(neuron.IFNode, **told),
            layer.MaxPool2d(2), layer.Flatten(),
            layer.Linear(36, 12, bias=False), spiking(neuron.IFNode, **told),
            layer.Linear(12, CLASSES, bias=False), spiking(neuron.IFNode, **told),
        )  # fmt: skip
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.body(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)


def classifier(mode="s", **told):
    """One layer; its user loops over time."""
    net = nn.Sequential(layer.Flatten(), layer.Linear(36, CLASSES, bias=False), spiking(**told))
    functional.set_step_mode(net, mode)
    return net


def chain(mode="m", kind=neuron.LIFNode, **told):
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1), layer.BatchNorm2d(4), spiking(kind, **told),
        layer.AvgPool2d(2), layer.Flatten(), layer.Linear(36, CLASSES), spiking(kind, **told),
    )  # fmt: skip
    functional.set_step_mode(net, mode)
    return net


class Looping(nn.Module):
    """Loops over time itself, one step per call of its neurons, and resets them first."""

    def __init__(self):
        super().__init__()
        self.net = chain("s")

    def forward(self, x):
        functional.reset_net(self.net)
        out = 0.0
        for _ in range(T):
            out = out + self.net(x)
        return out / T


class Block(nn.Module):
    """Spike-element-wise: spikes are added to spikes. Or with the shortcut between potentials, before the neurons."""

    def __init__(self, analog):
        super().__init__()
        self.analog = analog
        self.convs = nn.ModuleList(layer.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(layer.BatchNorm2d(4) for _ in range(2))
        self.neurons = nn.ModuleList(spiking() for _ in range(2))

    def forward(self, x):
        out = x
        for conv, norm, fire in zip(self.convs, self.norms, self.neurons, strict=True):
            out = norm(conv(fire(out))) if self.analog else fire(norm(conv(out)))
        return out + x


class Residual(nn.Module):
    def __init__(self, analog, mode="m"):
        super().__init__()
        stem = [layer.Conv2d(1, 4, 3, padding=1), layer.BatchNorm2d(4), *([] if analog else [spiking()])]
        self.features = nn.Sequential(*stem, Block(analog))
        self.head = nn.Sequential(layer.AvgPool2d(2), layer.Flatten(), layer.Linear(36, CLASSES))
        functional.set_step_mode(self, mode)

    def forward(self, x):
        return self.head(self.features(x))


class Nested(nn.Module):
    """Networks in networks, one of them a deep copy of another."""

    def __init__(self, mode="m"):
        super().__init__()
        inner = nn.Sequential(layer.Linear(36, 36), spiking())
        self.parts = nn.ModuleDict(
            {"first": nn.Sequential(layer.Flatten(), nn.Sequential(inner, copy.deepcopy(inner)))}
        )
        self.last = nn.ModuleList([layer.Linear(36, CLASSES), spiking()])
        functional.set_step_mode(self, mode)

    def forward(self, x):
        x = self.parts["first"](x)
        for module in self.last:
            x = module(x)
        return x


def one_surrogate(mode="m"):
    """All neurons have the same surrogate object."""
    shared = surrogate.ATan(2.0)
    return chain(mode, surrogate_function=shared)


def stored(mode="m"):
    return chain(mode, store_v_seq=True)


NETWORKS = {
    "images": (ConvNet, "images"),
    "images, soft": (lambda: ConvNet(v_reset=None, detach_reset=True), "images"),
    "loop": (Looping, "images"),
    "step": (classifier, "step"),
    "step, detached": (lambda: classifier(tau=4.0, decay_input=False, detach_reset=True), "step"),
    "sequence": (chain, "sequence"),
    "sequence in steps": (lambda: chain("s"), "step"),
    "soft": (lambda: chain(v_reset=None), "sequence"),
    "soft in steps": (lambda: chain("s", v_reset=None, decay_input=False, tau=3.0), "step"),
    "other rest": (lambda: chain(v_reset=-0.5, v_threshold=0.7, surrogate_function=surrogate.Sigmoid()), "sequence"),
    "parametric": (lambda: chain(kind=neuron.ParametricLIFNode, init_tau=3.0), "sequence"),
    "parametric in steps": (lambda: chain("s", neuron.ParametricLIFNode, init_tau=3.0, decay_input=False), "step"),
    "klif": (lambda: chain(kind=neuron.KLIFNode), "sequence"),
    "sew": (lambda: Residual(analog=False), "sequence"),
    "sew in steps": (lambda: Residual(analog=False, mode="s"), "step"),
    "ms": (lambda: Residual(analog=True), "sequence"),
    "ms in steps": (lambda: Residual(analog=True, mode="s"), "step"),
    "nested": (Nested, "sequence"),
    "nested in steps": (lambda: Nested("s"), "step"),
    "one surrogate": (one_surrogate, "sequence"),
    "stored": (stored, "sequence"),
    "stored in steps": (lambda: stored("s"), "step"),
}  # fmt: skip


def made(make):
    """In float64 and evaluation mode, with weights and statistics with which neurons of every layer fire."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make().double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.02, 0.1)
                nn.init.uniform_(module.bias, 0.2, 0.6)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                with torch.no_grad():
                    module.weight.mul_(5).add_(0.1)
    return net.eval()


def network(name):
    return made(NETWORKS[name][0])


def as_owned(net, takes, x):
    """Logits as the network's owner computes them."""
    functional.reset_net(net)
    if takes == "images":
        return net(x)
    if takes == "sequence":
        return net(x.unsqueeze(0).repeat(T, *[1] * x.dim())).mean(0)
    steps = []
    for _ in range(T):
        steps.append(net(x))
    return torch.stack(steps).mean(0)


def adapted(net, takes, x):
    return rs.adapt(net, None if takes == "images" else T, images=x)


@contextlib.contextmanager
def neurons_in_training(net):
    """The workaround for the older release: only neurons in training mode."""
    nodes = [m for m in net.modules() if hasattr(m, "surrogate_function")]
    before = [m.training for m in nodes]
    for m in nodes:
        m.training = True
    yield
    for m, training in zip(nodes, before, strict=True):
        m.training = training


def own_gradient(net, takes, x, y):
    """Plain autograd of the owner's code."""
    leaf = x.clone().requires_grad_()
    with neurons_in_training(net):
        loss = F.cross_entropy(as_owned(net, takes, leaf), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    functional.reset_net(net)
    return gradient


def assert_near(found, expected, rtol=1e-12):
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= rtol * expected.abs().max()


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def of_ours(node):
    """Our LIF for a node of SpikingJelly's, with what its input is multiplied by."""
    told = {"surrogate": rs.ArcTan(2.0) if isinstance(node.surrogate_function, surrogate.ATan) else rs.Sigmoid(4.0)}
    told |= {"threshold": node.v_threshold - (node.v_reset or 0.0), "detach_reset": node.detach_reset}
    told["reset"] = "soft" if node.v_reset is None else "hard"
    if isinstance(node, neuron.IFNode):
        return rs.LIF(**told)
    rate = node.w.sigmoid().item() if isinstance(node, neuron.ParametricLIFNode) else 1 / node.tau
    return nn.Sequential(Times(rate if node.decay_input else 1.0), rs.LIF(leak=1 - rate, **told))


class Twin(nn.Module):
    """The same network with our own neurons in the place of SpikingJelly's, all steps at once."""

    def __init__(self, net, takes):
        super().__init__()
        self.net, self.time_collapsed, self.takes = copy.deepcopy(net), False, takes
        functional.set_step_mode(self.net, "m")
        for path, module in list(self.net.named_modules()):
            if hasattr(module, "surrogate_function"):
                parent, _, name = path.rpartition(".")
                setattr(self.net.get_submodule(parent), name, of_ours(module))

    def forward(self, x):
        if self.takes == "images":
            return self.net(x)
        return self.net(rs.repeat(x, 1 if self.time_collapsed else T).contiguous()).mean(0)


class Gated(torch.autograd.Function):
    """Spikes; backwards, what arrives at them times a gate that is worked out then, when every step is known."""

    @staticmethod
    def forward(ctx, x, spikes, gate):
        ctx.gate = gate
        return spikes.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.gate(), None, None


def bptr_gate(currents, spikes, leak):
    return (spikes.sum(0) > 0).double()


def rga_gate(currents, spikes, leak, gamma=0.2):
    mean = currents.mean(0)
    knee = 1 - leak
    below = ((mean >= 0) & (mean <= knee)).double()
    above = ((mean >= knee) & (mean <= 2)).double()
    return gamma * below + (1 - gamma + gamma * leak) / (1 + leak) * above


def gate_neurons(nodes, gate_of):
    """Put a rate-based backward pass into nodes of threshold 1 by replacing ``forward`` on each of them."""
    for node in nodes:
        rate = 0.0 if isinstance(node, neuron.IFNode) else 1 / node.tau
        gain, record, original = rate if getattr(node, "decay_input", False) else 1.0, [], node.forward

        def forward(x, node=node, rate=rate, gain=gain, record=record, original=original):
            with torch.no_grad():
                spikes = original(x)
            if node.step_mode == "m":
                return Gated.apply(x, spikes, lambda: gain * gate_of(gain * x.detach(), spikes, 1 - rate))
            record.append((x.detach(), spikes))
            return Gated.apply(x, spikes, lambda: gain * gate_of(*_stacked(record, gain), 1 - rate))

        node.forward = forward


def _stacked(record, gain):
    currents, spikes = zip(*record, strict=True)
    return gain * torch.stack(currents), torch.stack(spikes)


class Twice(nn.Module):
    """One neuron in two places."""

    def __init__(self, mode="m"):
        super().__init__()
        self.flat, self.fire = layer.Flatten(), spiking()
        self.first, self.second, self.third = layer.Linear(36, 36), layer.Linear(36, 36), layer.Linear(36, CLASSES)
        functional.set_step_mode(self, mode)

    def forward(self, x):
        return self.third(self.fire(self.second(self.fire(self.first(self.flat(x))))))


class OwnNode(nn.Module):
    """A user's node: state in a plain attribute, a reset() that functional.reset_net calls, one step per call."""

    step_mode = "s"

    def __init__(self, surrogate_function, step_mode=None):
        super().__init__()
        self.surrogate_function, self.v = surrogate_function, 0.0

    def reset(self):
        self.v = 0.0

    def forward(self, x):
        self.v = 0.6 * self.v + x
        spikes = self.surrogate_function(self.v - 1.0)
        self.v = self.v - spikes
        return spikes


def node_of(name, surrogate_function, mode):
    """A node of this release, or the next of them that there is; None if it has no such node or mode."""
    told = {"surrogate_function": surrogate_function, "step_mode": mode}
    special = {"PSN": {"T": T}, "MaskedPSN": {"k": 2, "T": T, "lambda_init": 1.0}, "SlidingPSN": {"k": 2}}
    if name == "OwnNode":
        return OwnNode(surrogate_function) if mode == "s" else None
    if not hasattr(neuron, name) or (name, mode) in {("PSN", "s"), ("SLTTLIFNode", "m")}:
        return None
    for without in ((), ("step_mode",)):
        given = {key: value for key, value in (told | special.get(name, {})).items() if key not in without}
        with contextlib.suppress(TypeError):
            node = getattr(neuron, name)(**given)
            if "step_mode" in without and name != "PSN":
                node.step_mode = mode
            if name == "KLIFNode":
                node.k.data.fill_(1.5)
            elif "PSN" in name:
                node.bias.data.fill_(-0.2)
            return node
    return None


NODES = {
    "IFNode", "LIFNode", "ParametricLIFNode", "QIFNode", "EIFNode", "IzhikevichNode", "KLIFNode", "PSN", "MaskedPSN",
    "SlidingPSN", "ComplementaryLIFNode", "CUBALIFNode", "HalfThresholdIFNode", "SLTTLIFNode", "SimpleIFNode", "OwnNode",
}  # fmt: skip


EXISTING = [
    (name, mode) for name in sorted(NODES) for mode in "ms" if node_of(name, surrogate.ATan(), mode) is not None
]


def with_nodes(name, mode, surrogate_function):
    def make():
        flat, first, last = layer.Flatten(), layer.Linear(36, 12), layer.Linear(12, CLASSES)
        for module in (flat, first, last):
            module.step_mode = mode
        nodes = [node_of(name, surrogate_function, mode) for _ in range(2)]
        return nn.Sequential(flat, first, nodes[0], last, nodes[1])

    return made(make)


class Digits(nn.Module):
    """Loops over two time steps itself and leaves the reset to its user."""

    def __init__(self):
        super().__init__()
        nodes = [spiking(neuron.IFNode, v_reset=None) for _ in range(2)]
        self.net = nn.Sequential(layer.Flatten(), layer.Linear(64, 48), nodes[0], layer.Linear(48, 10), nodes[1])

    def forward(self, x):
        out = 0.0
        for _ in range(2):
            out = out + self.net(x)
        return out / 2


def train_as_owned(net, x, y, batches, rate=1e-2):
    """A loop as in the tutorials: mean squared error of firing rates, a reset after every step."""
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    for batch in batches:
        loss = F.mse_loss(net(x[batch]), F.one_hot(y[batch], 10).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        functional.reset_net(net)
    return loss.item()
