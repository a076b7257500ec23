"""What an adapted network is: one thread at a time, a fingerprint of its own, neurons that stay."""

import copy
import functools
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch import nn

import robustspike as rs
from robustspike.adapters import AdaptError
from robustspike.checkpoints import fingerprint
from robustspike.neurons import spiking_layers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import snntorch
    from spikingjelly.activation_based import functional, layer, neuron


def theirs(mode="s"):
    torch.manual_seed(0)
    network = nn.Sequential(layer.Flatten(), layer.Linear(16, 8), neuron.IFNode(), layer.Linear(8, 3), neuron.IFNode())
    functional.set_step_mode(network, mode)
    return network


class Loop(nn.Module):
    """snnTorch with a loop of its own; in later steps the layers run in another order where ``shuffled``."""

    def __init__(self, shuffled=False, **options):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.ModuleList([nn.Linear(16, 6), nn.Linear(6, 6), nn.Linear(6, 6)])
        self.out, self.shuffled = nn.Linear(6, 3), shuffled
        self.lif = nn.ModuleList([snntorch.Leaky(beta=0.5, init_hidden=True, **options) for _ in range(3)])

    def forward(self, x):
        last, found = [torch.zeros(len(x), 6)] * 3, []
        for t in range(4):
            for k in (2, 1, 0) if self.shuffled and t else (0, 1, 2):
                current = self.fc[k](x.flatten(1) if k == 0 else last[k - 1])
                last[k] = self.lif[k](2 * current + (last[2] if k == 0 and self.shuffled else 0))
            found.append(self.out(last[2]))
        return torch.stack(found)


@pytest.fixture
def images():
    return torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))


def readout(k):
    return lambda out: out[k]


def test_readouts_and_neurons_settings_tell_networks_apart(images):
    made = {
        "first": rs.adapt(Loop(), readout=readout(0)),
        "last": rs.adapt(Loop(), readout=readout(-1)),
        "partial": rs.adapt(Loop(), readout=functools.partial(lambda out, t: out[t], t=1)),
        "another partial": rs.adapt(Loop(), readout=functools.partial(lambda out, t: out[t], t=2)),
        "mean": rs.adapt(Loop()),
        "other reset": rs.adapt(Loop(reset_delay=False)),
        "other surrogate": rs.adapt(Loop(spike_grad=snntorch.surrogate.fast_sigmoid(7))),
        "steeper": rs.adapt(Loop(spike_grad=snntorch.surrogate.fast_sigmoid(9))),
    }
    found = {name: fingerprint(net) for name, net in made.items()}
    assert len(set(found.values())) == len(found), found
    for name, net in made.items():
        net(images)
        assert fingerprint(net) == found[name], f"{name}: another once it has been used"


def test_the_fingerprint_is_the_same_in_every_process():
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import torch, snntorch, robustspike as rs\n"
        "from robustspike.checkpoints import fingerprint\n"
        "torch.manual_seed(0)\n"
        "net = torch.nn.Sequential(torch.nn.Linear(2, 2), snntorch.Leaky(beta=0.5, init_hidden=True))\n"
        "print(fingerprint(rs.adapt(net, 2, readout=lambda out: out if 'q' in {'alpha', 'beta', 'gamma'} else out.mean(0))))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": str(seed)}
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1


def test_threads_take_turns(images):
    network = theirs()
    nets = [rs.adapt(network, 3), rs.adapt(network, 3)]
    right, y, wrong = rs.adapt(theirs(), 3)(images), torch.tensor([0, 1, 2, 0]), []
    gradient = rs.input_gradient(rs.adapt(theirs(), 3), images, y, rs.BPTT())

    def work(net):
        try:
            for _ in range(5):
                with torch.no_grad():
                    assert torch.equal(net(images), right)
                x = images.clone().requires_grad_()
                found = torch.autograd.grad(nn.functional.cross_entropy(net(x), y, reduction="sum"), x)[0]
                assert torch.allclose(found, gradient, atol=1e-6)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(net,)) for net in nets * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not [m for m in network.modules() if "forward" in vars(m)]


def test_a_neuron_put_in_afterwards_is_noticed(images):
    network = theirs()
    net = rs.adapt(network, 3, images=images)
    network[2] = neuron.LIFNode()
    with pytest.raises(AdaptError, match="another neuron at 2 .* adapt it again"):
        net(images)


def test_a_copy_made_while_an_estimator_is_in_force_is_not_seen_through(images):
    net = rs.adapt(theirs(), 3, images=images)
    with rs.estimating(net, rs.CBA()):
        copied = copy.deepcopy(net)
    assert all(one.gradient_rule is None for one in spiking_layers(copied).values())
    assert torch.equal(copied(images), net(images))


@pytest.mark.parametrize("estimator", [rs.BPTR(), rs.RGA(), rs.PDSG(), rs.ASSG()])
def test_layers_may_run_in_another_order_in_later_steps(estimator, images):
    """There are rounds enough for any order, and the gradient of a sample is its own."""
    net, y = rs.adapt(Loop(shuffled=True), images=images), torch.tensor([0, 1, 2, 0])
    found = rs.input_gradient(net, images, y, estimator)
    assert found.any()
    alone = torch.cat([rs.input_gradient(net, images[k : k + 1], y[k : k + 1], estimator) for k in range(len(images))])
    assert torch.allclose(found, alone, atol=1e-6)


def test_hart_is_refused_on_recurrent_networks_whatever_the_batch(images):
    net, y = rs.adapt(Loop(shuffled=True), images=images), torch.tensor([0, 1, 2, 0])
    for some in (images, images[:1], torch.zeros_like(images)):
        with pytest.raises(AdaptError, match="HART"):
            rs.input_gradient(net, some, y[: len(some)], rs.HART())


def test_neurons_that_were_not_adapted_are_refused_by_evaluation_and_training(images):
    data = rs.data.Split(images, torch.tensor([0, 1, 2, 0]))
    attack, sentence = rs.fgsm(rs.Linf(0.1)), r"neurons of spikingjelly \(at 2\).* give rs.adapt"
    for use in (
        lambda: rs.evaluate(theirs(), data, attack, doubts=0, progress=False),
        lambda: rs.audit(theirs(), data, eps=0.1, doubts=0, progress=False),
        lambda: rs.fit(theirs(), data, rs.defences.vanilla(), epochs=1, progress=False),
    ):
        with pytest.raises(AdaptError, match=sentence):
            use()
    net = nn.Sequential(nn.Identity(), rs.adapt(theirs(), 3))
    assert rs.evaluate(net, data, attack, doubts=0, progress=False).header.n == 4


def test_data_that_is_no_split_is_refused_with_what_to_give(images):
    with pytest.raises(ValueError, match="must be a Split, got a tuple; give rs.data.Split"):
        rs.evaluate(rs.adapt(theirs(), 3), (images, torch.zeros(4)), rs.fgsm(rs.Linf(0.1)))


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda x: rs.adapt(nn.Sequential, 3), "got the class Sequential"),
        (lambda x: rs.adapt(theirs().state_dict(), 3), "got a OrderedDict"),
        (lambda x: rs.adapt(theirs(), "4"), "time_steps must be a whole number ≥ 1, got '4'"),
        (lambda x: rs.adapt(theirs(), 3, images=x.numpy()), "images must be a tensor"),
        (lambda x: rs.adapt(theirs(), 3, mean=[0.5], std=[0.0]), "std must be positive"),
        (lambda x: rs.adapt(torch.compile(theirs()), 3), "adapt the network that it was made of, before compiling"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_a_sentence(made, sentence, images):
    with pytest.raises(AdaptError, match=sentence):
        made(images)
