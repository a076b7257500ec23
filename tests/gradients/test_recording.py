"""Recording: what every spiking layer gets, in order, without any trace in logits, gradients or the model."""

import pytest
import torch
from tests.conftest import record_of, small_snn
from tests.defences.plain import forward, images, seen, two_layers
from torch import nn

from robustspike.gradients import BPTT, CBA, ESTIMATORS, RGA, estimating, input_gradient, recording
from robustspike.models.wideresnet import wrn16
from robustspike.neurons import DLIF, LIF, spiking_layers

pytestmark = pytest.mark.usefixtures("one_thread")


def test_currents_are_those_of_plain_loops():
    model, (x, _) = two_layers().eval(), images()
    with recording(model) as layers:
        model(x)
    assert [layer for layer, _ in layers] == [model.layers[2], model.layers[6]]
    for (_, currents), expected in zip(layers, seen(model, x).currents, strict=True):
        torch.testing.assert_close(currents, torch.stack(expected), rtol=0, atol=1e-12)


def test_layers_come_in_the_order_in_which_they_are_passed():
    torch.manual_seed(0)
    model = wrn16(time_steps=1, image_size=8).eval()
    order = []
    for name, layer in spiking_layers(model).items():
        layer.register_forward_hook(lambda *_, name=name: order.append(name))
    with recording(model) as layers:
        model(torch.rand(1, 3, 8, 8))
    names = {layer: name for name, layer in spiking_layers(model).items()}
    assert [names[layer] for layer, _ in layers] == order
    assert len(order) == 6 * 2 + 1


@pytest.mark.parametrize("name", ESTIMATORS)
def test_logits_and_gradients_are_those_without_recording(name):
    model, (x, y) = two_layers().eval(), images()
    estimator = ESTIMATORS[name]()

    def run():
        leaf = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(leaf), y)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]

    with estimating(model, estimator):
        plain = run()
    with estimating(model, estimator), recording(model) as layers:
        recorded = run()
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))
    assert len(layers) == 2
    assert layers[0][1].shape[0] == (1 if getattr(estimator, "without_time", False) else 4)


def test_gradient_flows_through_what_is_recorded():
    model, (x, _) = two_layers().eval(), images()
    with recording(model) as layers:
        model(x)
    got = torch.autograd.grad(layers[1][1].square().sum(), model.layers[0].weight)[0]
    expected = torch.stack(seen(model, x).currents[1]).square().sum()
    torch.testing.assert_close(got, torch.autograd.grad(expected, model.layers[0].weight)[0])
    assert got.abs().max() > 0


def test_every_forward_pass_is_noted_one_after_the_other():
    model, (x, _) = two_layers().eval(), images()
    with recording(model) as layers:
        model(x)
        model(1 - x)
    assert [layer for layer, _ in layers] == [model.layers[2], model.layers[6]] * 2
    expected = forward(model, [1 - x] * 4).currents[0]
    torch.testing.assert_close(layers[2][1], torch.stack(expected))


@pytest.mark.parametrize("rule", [None, BPTT(), RGA(), CBA()], ids=repr)
def test_all_is_as_before_afterwards_and_after_an_exception(rule):
    model, x = small_snn(), torch.rand(2, 1, 8, 8)
    for layer in spiking_layers(model).values():
        layer.gradient_rule = rule
    model.eval()
    before = record_of(model)
    with recording(model) as layers:
        model(x)
    assert record_of(model) == before
    assert len(layers) == 1
    with pytest.raises(RuntimeError, match="on purpose"), recording(model):
        raise RuntimeError("on purpose")
    assert record_of(model) == before
    model(x)
    assert len(layers) == 1


def test_a_recording_within_a_recording_is_heard_by_both():
    model, (x, _) = two_layers().eval(), images()
    with recording(model) as outer:
        with recording(model) as inner:
            model(x)
        model(x)
    assert (len(inner), len(outer)) == (2, 4)


def test_an_attack_within_the_block_has_its_own_gradient_and_is_not_heard():
    model, (x, y) = two_layers().eval(), images()
    expected = input_gradient(model, x, y, RGA())
    with recording(model) as layers:
        assert torch.equal(input_gradient(model, x, y, RGA()), expected)
    assert layers == []


def test_weighted_currents_are_what_is_noted_of_a_neuron_with_learned_weights():
    neuron = DLIF(2, LIF())
    neuron.p.data = torch.tensor([2.0, 0.5])
    with recording(neuron) as layers:
        neuron(torch.ones(2, 3))
    assert [(layer, currents.tolist()) for layer, currents in layers] == [(neuron.neuron, [[2.0] * 3, [0.5] * 3])]


def test_a_network_without_neurons_has_nothing_to_note():
    model = nn.Linear(2, 2)
    with recording(model) as layers:
        model(torch.rand(1, 2))
    assert layers == []
