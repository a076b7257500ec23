"""Networks written as users of snnTorch write them, how their owners run them, and the same neurons in plain PyTorch."""

import copy
import warnings

import torch
from torch import nn
from torch.nn.functional import max_pool2d

import robustspike as rs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snntorch as snn
    from snntorch import spikegen, surrogate, utils  # noqa: F401

STEPS = 5


def awake(net, factor=2.0, seed=0):
    """The network with weights that make its neurons fire."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, 0.02, factor / module.weight[0].numel() ** 0.5)
                nn.init.uniform_(module.bias, -0.1, 0.1)
    return net.eval()


def seeded(make, seed=0):
    """What ``make`` returns, its weights drawn from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


class FullyConnected(nn.Module):
    """Explicit potentials, a loop over time within, spikes and potentials of all steps out."""

    def __init__(self, neuron=snn.Leaky, steps=STEPS, **constants):
        super().__init__()
        constants = {"beta": 0.5, "reset_mechanism": "zero"} | constants
        self.steps = steps
        self.fc1, self.lif1 = nn.Linear(64, 20), neuron(**constants)
        self.fc2, self.lif2 = nn.Linear(20, 10), neuron(**constants)

    def forward(self, x):
        state1, state2 = _listed(self.lif1.reset_mem()), _listed(self.lif2.reset_mem())
        spk_rec, mem_rec = [], []
        for _ in range(self.steps):
            out1 = self.lif1(self.fc1(x.flatten(1)), *state1)
            out2 = self.lif2(self.fc2(out1[0]), *state2)
            state1, state2 = out1[-len(state1) :], out2[-len(state2) :]
            spk_rec.append(out2[0])
            mem_rec.append(out2[-1])
        return torch.stack(spk_rec), torch.stack(mem_rec)


def _listed(state):
    return (state,) if isinstance(state, torch.Tensor) else state


def convolutional(neuron=snn.Leaky, **constants):
    """A Sequential whose neurons hide their state; the loop over time is outside."""
    constants = {"beta": 0.5, "reset_mechanism": "zero", "init_hidden": True} | constants
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), neuron(**constants), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.MaxPool2d(2), neuron(**constants),
        nn.Flatten(), nn.Linear(32, 10), neuron(output=True, **constants),
    )  # fmt: skip


def hidden(first=None, second=None, **constants):
    """Two layers of neurons that hide their state."""
    constants = {"beta": 0.5, "reset_mechanism": "zero"} | constants
    first = first or snn.Leaky(init_hidden=True, **constants)
    second = second or snn.Leaky(init_hidden=True, output=True, **constants)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), first, nn.Linear(20, 10), second)


class OverSequence(nn.Module):
    """A loop over the steps of [T, N, ...], as spikegen makes it."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(64, 20), snn.Leaky(beta=0.5, reset_mechanism="zero")
        self.fc2, self.lif2 = nn.Linear(20, 10), snn.Leaky(beta=0.5, reset_mechanism="zero")

    def forward(self, x):
        mem1, mem2, spk_rec = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(x.size(0)):
            spk1, mem1 = self.lif1(self.fc1(x[step].flatten(1)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spk_rec.append(spk2)
        return torch.stack(spk_rec)


class Block(nn.Module):
    """Convolution and neuron with a shortcut around both."""

    def __init__(self, make):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), make())

    def forward(self, x):
        return x + self.layers(x)


class Residual(nn.Module):
    """Neurons in containers in containers, shortcuts, one surrogate for all."""

    def __init__(self):
        super().__init__()
        spike_grad = surrogate.fast_sigmoid(slope=5)

        def make(**more):
            return snn.Leaky(beta=0.5, reset_mechanism="zero", init_hidden=True, spike_grad=spike_grad, **more)

        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), make())
        self.stages = nn.ModuleList([nn.Sequential(Block(make), Block(make)), nn.Sequential(Block(make))])
        self.head = nn.ModuleDict({"fc": nn.Linear(64, 10), "lif": make(output=True)})

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head["lif"](self.head["fc"](max_pool2d(x, 2).flatten(1)))


class OneNeuronTwice(nn.Module):
    """One instance for two layers, each with a potential of its own."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 10)
        self.lif = snn.Leaky(beta=0.5, reset_mechanism="zero")

    def forward(self, x):
        mem1, mem2, rec = self.lif.init_leaky(), self.lif.init_leaky(), []
        for _ in range(STEPS):
            spk, mem1 = self.lif(self.fc1(x.flatten(1)), mem1)
            spk, mem2 = self.lif(self.fc2(spk), mem=mem2)
            rec.append(self.fc3(spk))
        return torch.stack(rec)


class Recurrent(nn.Module):
    """Spikes fed back through a layer of the user's."""

    def __init__(self):
        super().__init__()
        self.into, self.back, self.out = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 10)
        self.lif1 = snn.Leaky(beta=0.5, reset_mechanism="zero")
        self.lif2 = snn.Leaky(beta=0.5, reset_mechanism="zero")

    def forward(self, x):
        mem1, mem2, spk_rec = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        spk1 = torch.zeros(len(x), 20, device=x.device)
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.into(x.flatten(1)) + self.back(spk1), mem1)
            spk2, mem2 = self.lif2(self.out(spk1), mem2)
            spk_rec.append(spk2)
        return torch.stack(spk_rec)


class Parallel(nn.Module):
    """LeakyParallel takes all steps at once and brings its own weights."""

    def __init__(self, **constants):
        super().__init__()
        self.lif1 = snn.LeakyParallel(64, 20, **({"beta": 0.5} | constants))
        self.lif2 = snn.LeakyParallel(20, 10, **({"beta": 0.5} | constants))

    def forward(self, x):
        return self.lif2(self.lif1(x.flatten(2)))


def by_hand(net, x, steps=STEPS):
    """What the owner of a network gets of it [T, N, ...]: fresh state, then one call, or one for each step."""
    for module in net.modules():
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    with torch.no_grad():
        if isinstance(net, OverSequence | Parallel):
            return net(torch.stack([x] * steps))
        if isinstance(net, nn.Sequential | Residual):
            outs = [net(x) for _ in range(steps)]
            return tuple(map(torch.stack, zip(*outs, strict=True))) if isinstance(outs[0], tuple) else torch.stack(outs)
        return net(x)


class _Heaviside(torch.autograd.Function):
    """A step whose derivative is what a function of u − θ says; snnTorch fires above the threshold, not at it."""

    @staticmethod
    def forward(ctx, d, slope):
        ctx.save_for_backward(slope(d))
        return (d > 0).to(d.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


# One step of a neuron, as snnTorch's documentation has it: (x, state, s of the step before, constants) to (u, state).
def leaky_zero(x, state, s, c):
    return (u := c["beta"] * state[0] * (1 - s.detach()) + x), (u,)


def leaky_subtract(x, state, s, c):
    return (u := c["beta"] * state[0] + x - s.detach() * c["threshold"]), (u,)


def leaky_subtract_at_once(x, state, s, c):
    """The reset is part of the step that fires; where the potential is still above the threshold, it goes on in the next."""
    s = s.detach() if c["detached"] else s
    before, again = state if len(state) == 2 else (state[0], torch.zeros_like(x))
    mem = before - (s - again) * c["threshold"]
    again = (mem > c["threshold"]).to(x.dtype)
    return (u := c["beta"] * mem + x - again * c["threshold"]), (u, again)


def leaky_none(x, state, s, c):
    return (u := c["beta"] * state[0] + x), (u,)


def synaptic_subtract(x, state, s, c):
    mem, syn = state[:2]
    syn = c["alpha"] * syn + x
    return (u := c["beta"] * mem + syn - s.detach() * c["threshold"]), (u, syn)


def alpha_zero(x, state, s, c):
    _, exc, inh = state
    exc, inh = c["alpha"] * exc + x, c["beta"] * inh - x
    ratio = c["alpha"].log() / (c["beta"].log() - c["alpha"].log()) + 1
    u = ratio * (exc + inh)
    stays = 1 - s.detach()
    return u * stays, (u * stays, exc * stays, inh * stays)


def rleaky_subtract(x, state, s, c):
    fed_back = s @ c["weight"].T + c["bias"] if "weight" in c else s * c["V"]
    return (u := c["beta"] * state[0] + x + fed_back - s.detach() * c["threshold"]), (u,)


def rectified(x, state, s, c):
    return (u := (c["beta"] * state[0] + x).relu()), (u,)


def lapicque_subtract(x, state, s, c):
    share = c["time_step"] / (c["R"] * c["C"])
    return (u := (1 - share) * state[0] + x * c["time_step"] / c["C"] - s.detach() * c["threshold"]), (u,)


class Plain(nn.Module):
    """Fulfils the contract of spiking layers by a loop in plain PyTorch."""

    over_time = True

    def __init__(self, step, own, leak=None, drive=None, factor=1.0, **constants):
        super().__init__()
        self.step, self.own, self.leak, self.factor = step, own, leak, factor
        self.into = drive or (lambda x: x)
        self.constants = {
            name: torch.as_tensor(value).detach().double() for name, value in ({"threshold": 1.0} | constants).items()
        }
        self.threshold = self.constants["threshold"]
        self.gradient_rule = None

    def forward(self, currents):
        rule = self.gradient_rule
        return (self.fire(currents) if rule is None else rule(self, currents)) * self.factor

    def drive(self, currents):
        return self.into(currents)

    def fire(self, currents, surrogate=None, slopes=None, detach_reset=None):
        slope = (lambda d, t: slopes[t]) if slopes is not None else lambda d, t: (surrogate or self.own).slope(d)
        return self.run(currents, slope, bool(detach_reset))[0]

    def potentials(self, currents):
        return self.run(currents, lambda d, t: self.own.slope(d))[1]

    def run(self, currents, slope, detached=False):
        s = torch.zeros_like(currents[0])
        state, spikes, potentials = (s,) * 3, [], []
        for t, x in enumerate(currents):
            u, state = self.step(x, state, s, self.constants | {"detached": detached})
            s = _Heaviside.apply(u - self.threshold, lambda d, t=t: slope(d, t))
            spikes.append(s)
            potentials.append(u)
        return torch.stack(spikes), torch.stack(potentials)


class Shortcut(nn.Module):
    """x plus what layers over time make of it."""

    over_time = True

    def __init__(self, *layers):
        super().__init__()
        self.layers = rs.OverTime(*layers)

    def forward(self, x):
        return x + self.layers(x)


class Membrane(nn.Module):
    """The potentials of a neuron that is read out, which no estimator changes; for a single step, its current."""

    over_time = True

    def __init__(self, neuron):
        super().__init__()
        self.neuron = [neuron]  # no layer of the network

    def forward(self, currents):
        return currents if len(currents) == 1 else self.neuron[0].potentials(currents)


class Ours(nn.Module):
    """The same layers around neurons that take all steps at once; in float64."""

    def __init__(self, steps, *layers, readout=lambda out: out.mean(0)):
        super().__init__()
        self.steps, self.time_collapsed, self.readout = steps, False, readout
        self.layers = rs.OverTime(*copy.deepcopy(layers)).double()

    def forward(self, x):
        return self.readout(self.layers(rs.repeat(x.double(), 1 if self.time_collapsed else self.steps)))
