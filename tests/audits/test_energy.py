"""Firing rates, synaptic operations and energy."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from tests.audits.test_bounds import Moving, images, linear, network
from tests.conftest import InDouble, small_snn
from torch import nn

from robustspike.attacks import EncodedPGD
from robustspike.audits import energy
from robustspike.audits.synapses import fan_out, synapses
from robustspike.balls import Linf
from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.models import digits_cnn, sew_resnet18, wrn16
from robustspike.neurons import LIF, at_every_step
from robustspike.results import Bars, Chart, Table
from robustspike.results.audits import Energy

pytestmark = pytest.mark.usefixtures("one_thread")


def by_path(found):
    return {cost.path: cost for cost in found.costs}


def ones(n, *shape):
    """Images of ones that a Poisson code turns into a spike at every step."""
    return Split(torch.ones(n, *shape), torch.zeros(n, dtype=torch.int64))


def certain(*layers, **options):
    """A network that answers 0 whatever it sees."""
    model = network(*layers, **options)
    model.head.weight.data.fill_(0.1)
    model.head.bias.data = torch.tensor([1.0, 0.0])
    return model


def test_operations_by_hand():
    """Four pixels always on, T = 2: neuron 1 gets 2 and fires twice, neuron 2 gets ½ and fires once."""
    first = linear([[0.5, 0.5, 0.5, 0.5], [0.5, 0.0, 0.0, 0.0]], [0.0, 0.0])
    second = linear([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]], [0.0] * 3)
    layers = (nn.Flatten(), first, LIF(), second, LIF())
    model = certain(*layers, size=2, features=3, encoder="poisson")
    found = energy(model, ones(2, 1, 2, 2), attack=Moving(0.0))
    costs = by_path(found)
    assert [(one.clean, one.neurons) for one in found.rates] == [(0.75, 2), (1.0, 3)]
    # pixel 1 reaches two outputs, the others one, as a weight of 0 is none: 2·(2 + 1 + 1 + 1)
    assert (costs["layers.1"].driven, costs["layers.1"].clean) == ("code", 10.0)
    # neuron 1 reaches three and fires twice, neuron 2 reaches one and fires once
    assert (costs["layers.3"].driven, costs["layers.3"].clean) == ("spikes", 7.0)
    # three neurons fire twice and reach two classes
    assert (costs["head"].driven, costs["head"].clean) == ("spikes", 12.0)
    assert found.clean_operations == (29.0, 29.0)
    assert found.products == 0
    assert found.twin_products == 5 + 4 + 6
    assert found.picojoules(10) == 9.0


def brute_force(spikes, weight, stride, padding):
    """Every spike [C, H, W] walked to every output that a weight other than 0 leads it to."""
    out_channels, _, kh, kw = weight.shape
    height, width = spikes.shape[1:]
    outs = [(size + 2 * padding - k) // stride + 1 for size, k in ((height, kh), (width, kw))]
    count = 0
    for c, i, j in zip(*np.nonzero(spikes), strict=True):
        for o, a, b in itertools.product(range(out_channels), range(outs[0]), range(outs[1])):
            m, n = i + padding - a * stride, j + padding - b * stride
            count += bool(0 <= m < kh and 0 <= n < kw and weight[o, c, m, n] != 0)
    return count


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (2, 1)])
def test_operations_are_counted_spike_by_spike(stride, padding):
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 3, stride=stride, padding=padding)
    convolution.weight.data[torch.rand_like(convolution.weight) < 0.3] = 0
    layers = (
        nn.Conv2d(1, 2, 3),
        LIF(threshold=0.2),
        convolution,
        LIF(threshold=0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    model, data = network(*layers, features=3, time_steps=3), images(2)
    caught = []
    handle = model.layers[1].register_forward_hook(lambda m, a, out: caught.append(out.detach().numpy()))
    model(data.images)
    handle.remove()
    weight = convolution.weight.detach().numpy()
    found = energy(model, data, attack=Moving(0.0))
    known = synapses(model, data.images, Draws.of(0, data.ids))
    expected = [sum(brute_force(step[k], weight, stride, padding) for step in caught[0]) for k in range(2)]
    got = known["layers.2", 0].accumulates(torch.tensor(caught[0]).flatten(0, 1), 2)
    assert got.tolist() == expected
    assert sum(expected) > 0
    assert by_path(found)["layers.2"].driven == "spikes"


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(1, 2, 3, padding=1),
        nn.Conv2d(4, 2, 3, stride=2, groups=2),
        nn.Conv2d(1, 1, 2, dilation=2, padding=1),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"),
        nn.Conv1d(2, 3, 2),
    ],
    ids=str,
)
def test_fan_out_counts_the_outputs_that_one_entry_reaches(module):
    module.weight.data.fill_(1.0)
    module.bias = None
    size = (module.in_channels, *(5, 4)[: module.weight.dim() - 2])
    reach = fan_out(module, size)
    for place in range(reach.numel()):
        lit = torch.zeros(1, *size)
        lit.view(-1)[place] = 1
        assert int(reach.flatten()[place]) == int((module(lit) != 0).sum())


def test_pooling_and_averages_pass_single_spikes_on():
    """Behind 4 × 4 pooling and the mean over time every spike of the layer still reaches the 4 classes."""
    found = energy(small_snn(time_steps=3).eval(), images(4), attack=Moving(0.0))
    head, rate = by_path(found)["head"], found.rates[0]
    assert (head.driven, head.repeats) == ("spikes", 1)
    assert head.clean == pytest.approx(4 * rate.clean * rate.neurons * 3)
    assert by_path(found)["layers.0"].driven == "analog"


def test_overlapping_windows_count_a_spike_once_for_each():
    layers = (nn.Conv2d(1, 1, 3), LIF(threshold=0.1), nn.AvgPool2d(3, 1), nn.Conv2d(1, 2, 1), LIF(), nn.Flatten())
    model, data = network(*layers, features=32), images(1)
    spikes = []
    model.layers[1].register_forward_hook(lambda m, a, out: spikes.append(out.detach()))
    found = energy(model, data, attack=Moving(0.0))
    windows = nn.functional.conv_transpose2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3))
    assert by_path(found)["layers.3"].clean == pytest.approx(float((spikes[0] * windows).sum()) * 2)


def test_maximum_pooling_sends_one_spike_of_a_window_and_branches_send_their_sum():
    model = sew_resnet18(time_steps=2, image_size=8, in_channels=1, threshold=0.1).eval()
    inputs = {}
    for path in ("layers.layer1.0.conv1", "layers.layer1.1.conv1"):
        module = model.get_submodule(path)
        module.register_forward_hook(lambda m, a, out, path=path: inputs.setdefault(path, a[0].detach()))
    found = energy(model, images(1), attack=Moving(0.0))
    for path, z in inputs.items():
        reach = fan_out(model.get_submodule(path), tuple(z.shape[1:]))
        assert by_path(found)[path].driven == "spikes"
        assert by_path(found)[path].clean == pytest.approx(float((z * reach).sum()))
    assert inputs["layers.layer1.1.conv1"].max() == 2  # two spikes at once


def test_the_twin_of_the_digits_network_by_arithmetic():
    """A 3 × 3 convolution on n × n reads (3n − 2)² pixels inside the border."""
    found = energy(digits_cnn(time_steps=4).eval(), images(1), attack=Moving(0.0))
    expected = {"layers.0": 32 * 22**2, "layers.3": 32 * 64 * 22**2, "layers.7": 64 * 64 * 10**2, "head": 2560}
    assert found.twin_products == sum(expected.values())
    costs = by_path(found)
    assert {path: costs[path].products // costs[path].repeats for path in expected} == expected
    assert [costs[path].repeats for path in expected] == [1, 4, 4, 1]
    assert found.products == expected["layers.0"]  # the image is the same at every step: once


def test_what_no_spikes_drive_costs_products():
    layers = (nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), LIF(threshold=0.2), nn.Flatten())
    costs = by_path(energy(network(*layers, features=32), images(1), attack=Moving(0.0)))
    assert [costs[path].driven for path in ("layers.0", "layers.1", "head")] == ["analog", "analog", "spikes"]
    batch_norm = nn.BatchNorm2d(2)
    nn.init.uniform_(batch_norm.running_mean, 0.2, 0.7)
    layers = (nn.Conv2d(1, 2, 3), LIF(threshold=0.2), batch_norm, nn.Conv2d(2, 2, 3), LIF(), nn.Flatten())
    assert by_path(energy(network(*layers, features=32), images(1), attack=Moving(0.0)))["layers.3"].driven == "analog"


class TwoTrains(nn.Module):
    """Spikes, and a share of those of neurons with another threshold, or what a convolution makes of them."""

    over_time = True

    def __init__(self, share, convolved=False):
        super().__init__()
        self.share, self.one, self.other = share, LIF(threshold=0.1), LIF(threshold=0.3)
        self.inner = nn.Conv2d(2, 2, 1, bias=False) if convolved else nn.Identity()
        nn.init.ones_(self.inner.weight) if convolved else None

    def forward(self, currents):
        return self.one(currents) + self.share * at_every_step(self.inner, self.other(currents))


@pytest.mark.parametrize(
    ("share", "convolved", "driven"), [(1.0, False, "spikes"), (0.5, False, "analog"), (1.0, True, "analog")]
)
def test_trains_count_together_only_where_their_spikes_are_equal(share, convolved, driven):
    layers = (nn.Conv2d(1, 2, 3), TwoTrains(share, convolved), nn.Conv2d(2, 1, 1), LIF(), nn.Flatten())
    cost = by_path(energy(network(*layers, features=36), images(1), attack=Moving(0.0)))["layers.2"]
    assert cost.driven == driven
    assert (cost.clean > 0) == (driven == "spikes")


@pytest.mark.parametrize("code", ["direct", "phase", "poisson"])
def test_an_image_costs_what_its_code_makes_of_it(code):
    model = small_snn(encoder=code, time_steps=3, mean=(0.4,), std=(0.3,)).eval()
    encoded = []
    model.encoder.register_forward_hook(lambda m, a, out: encoded.append(out.detach()))
    data = images(2)
    cost = by_path(energy(model, data, attack=Moving(0.0)))["layers.0"]
    assert cost.products == 4 * 22**2 * (1 if code == "direct" else 3)
    assert cost.repeats == (1 if code == "direct" else 3)
    if code == "direct":
        assert cost.driven == "analog"
        return
    assert cost.driven == "code"
    reach = fan_out(model.layers[0], (1, 8, 8))
    passes = [each for each in encoded if each.shape[1] == 2 and each.any()]
    assert any(cost.clean == pytest.approx(float(((each != 0) * reach).sum()) / 2) for each in passes)


def test_frames_are_numbers():
    data = Split(torch.rand(2, 2, 1, 8, 8), torch.tensor([0, 1]))
    cost = by_path(energy(small_snn(encoder="frames").eval(), data, attack=Moving(0.0)))["layers.0"]
    assert (cost.driven, cost.repeats, cost.products) == ("analog", 2, 2 * 4 * 22**2)


@pytest.mark.parametrize(("by", "verdict"), [(0.4, "cost more"), (-0.4, "cost less"), (0.0, "no difference")])
def test_brighter_images_cost_more_and_darker_ones_less(by, verdict):
    """Weights of 1: more light, more spikes."""
    first = nn.Conv2d(1, 2, 3)
    nn.init.constant_(first.weight, 0.1)
    model = certain(first, LIF(), nn.Conv2d(2, 2, 3), LIF(), nn.Flatten(), features=32, time_steps=4)
    data = Split(0.3 + 0.4 * torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64))
    found = energy(model, data, attack=Moving(by))
    assert all(found.correct)
    assert not any(found.broken)
    assert verdict in found.answer()
    middle, low, high = found.change()
    assert low <= middle <= high
    before, after = np.array(found.clean_operations), np.array(found.operations)
    if by:
        interval = stats.ttest_rel(after, before).confidence_interval(0.95)
        assert low == pytest.approx(interval.low / before.mean())
        assert high == pytest.approx(interval.high / before.mean())
        assert np.sign(found.rates[0].attacked - found.rates[0].clean) == np.sign(by)
    assert middle == pytest.approx((after - before).mean() / before.mean())


def test_only_what_is_classified_correctly_is_attacked():
    model = certain(nn.Conv2d(1, 2, 3), LIF(threshold=0.2), nn.Flatten(), features=72)
    data = Split(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    found = energy(model, data, attack=Moving(0.3))
    assert found.correct == (True, False, True, False)
    assert found.operations[1] == found.clean_operations[1]
    assert found.operations[0] != found.clean_operations[0]
    assert (found.clean.value, found.robust.value, found.robust.n) == (0.5, 0.5, 4)
    # per-layer means are over the attacked ones
    head = by_path(found)["head"]
    assert head.clean == pytest.approx((found.clean_operations[0] + found.clean_operations[2]) / 2)
    none = energy(model, Split(torch.rand(2, 1, 8, 8), torch.tensor([1, 1])), attack=Moving(0.3))
    assert none.change() is None
    assert "0 of 2 samples could be attacked" in none.answer()


def test_a_code_draws_the_same_with_and_without_attack():
    layers = (nn.Conv2d(1, 2, 3), LIF(threshold=0.2), nn.Flatten())
    model = certain(*layers, features=72, encoder="poisson")
    found = energy(model, Split(torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64)), attack=Moving(0.0))
    assert all(found.correct)
    assert found.operations == found.clean_operations


def test_a_silent_network_is_called_one():
    found = energy(small_snn(threshold=50.0).eval(), images(3), attack=Moving(0.0))
    assert found.mean_operations == 0
    assert "silent" in found.answer()


def test_the_usual_attack_on_a_trained_network(trained, digits):
    found = energy(trained.model, digits.test.subset(12), eps=0.2)
    assert found.robust.value <= found.clean.value
    assert sum(found.broken) == round(12 * (found.clean.value - found.robust.value))
    assert all(0 < one.clean < 1 for one in found.rates)
    for k, cost in enumerate(found.costs[1:]):
        rate = found.rates[k]
        assert cost.clean <= rate.clean * rate.neurons * 2 * 9 * 64 + 1e-6  # spikes × the largest fan-out
    assert "upper bound" in found.answer()
    assert "n = 12" in found.conditions()
    assert found.gradients > 0


def test_energies_can_be_chosen():
    data = images(1)
    found = energy(small_snn().eval(), data, attack=Moving(0.0), accumulate=0.1, multiply=3.2)
    assert found.picojoules(1000) == pytest.approx(100 + 3.2 * found.products)


@pytest.mark.parametrize("build", [wrn16])
def test_residual_networks_are_counted(build):
    found = energy(
        build(time_steps=2, image_size=8, in_channels=1, threshold=0.2).eval(), images(1), attack=Moving(0.1)
    )
    assert [cost.driven for cost in found.costs] == ["analog"] + ["spikes"] * (len(found.costs) - 1)
    assert Energy.model_validate_json(found.model_dump_json()) == found


def test_figures_do_not_depend_on_the_batches():
    model, data = InDouble(small_snn(encoder="poisson")).eval(), images(5)
    whole, parts = (energy(model, data, eps=0.2, batch_size=size) for size in (5, 1))
    assert whole.clean_operations == pytest.approx(parts.clean_operations)
    assert whole.operations == pytest.approx(parts.operations)
    assert [one.clean for one in whole.rates] == pytest.approx([one.clean for one in parts.rates])


def test_views_show_the_records_figures(trained, digits):
    found = energy(trained.model, digits.test.subset(8), attack=Moving(0.1))
    summary, bars, rates, costs = found.views()
    assert isinstance(summary, Table)
    assert summary.rows[0][1] == str(found.clean)
    assert summary.rows[1][1] == str(found.robust)
    assert isinstance(bars, Bars)
    assert bars.series["under attack"] == tuple(one.attacked for one in found.rates)
    assert rates.rows[0][2] == f"{found.rates[0].clean:.4f}"
    assert [row[0] for row in costs.rows] == [cost.path for cost in found.costs]
    table, chart, both = Energy.compared({"a": found, "b": found})
    assert isinstance(chart, Chart)
    assert chart.lines[0].x == (found.mean_operations,)
    assert chart.lines[0].y == (100 * found.robust.value,)
    assert chart.lines[0].points
    assert "upper" in chart.note.lower()
    assert len(both.series["under attack"]) == len(table.rows) == 2
    assert Energy.model_validate_json(found.model_dump_json()) == found


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="expected a network with spiking layers"):
        energy(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), images(1))
    with pytest.raises(ValueError, match="energies ≥ 0 in pJ"):
        energy(small_snn(), images(1), accumulate=-1.0)
    with pytest.raises(ValueError, match="takes attacks on pixels"):
        energy(small_snn(), images(1), attack=EncodedPGD(Linf(0.1), 1))
    with pytest.raises(ValueError, match="at least one sample"):
        energy(small_snn(), images(0), attack=Moving(0.0))
