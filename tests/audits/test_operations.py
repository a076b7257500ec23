"""Zeros and norm of the gradient at every operation, and what makes the zeros."""

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.audits import operations
from robustspike.audits.operations import spreading
from robustspike.audits.trail import Layout, kind_of, zeros
from robustspike.audits.windows import Windows
from robustspike.data import Split
from robustspike.gradients import RGA, cross_entropy
from robustspike.models import SNN, Settings, sew_resnet18
from robustspike.neurons import LIF, OverTime
from robustspike.results import Bars, Chart, Table
from robustspike.results.audits import Operations
from robustspike.surrogates import ArcTan, Triangle

pytestmark = pytest.mark.usefixtures("one_thread")


def images(n=4, shape=(1, 8, 8), seed=0):
    return Split(torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 4)


def by_path(found):
    return {one.path: one for one in found.operations}


def plain(*layers, weight=((1.0,), (-1.0,))):
    """A network without neurons that ends in a linear layer of these weights."""
    head = nn.Linear(len(weight[0]), len(weight), bias=False)
    head.weight.data = torch.tensor(weight)
    return nn.Sequential(*layers, nn.Flatten(), head)


def test_of_a_tie_the_first_gets_all_the_gradient():
    """Four equal pixels, one window: three zeros, all of them because max pooling chooses."""
    found = by_path(operations(plain(nn.MaxPool2d(2)), Split(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]))))
    pool, pixels = found["0"], found["pixels"]
    assert (pool.kind, pool.entries) == ("max pooling", 4)
    assert (pool.zero, pool.made, pool.unread, pool.passed) == (0.75, 0.75, 0.0, 0.0)
    assert (pool.architectural, pool.natural, pool.zero_open) == (0.75, 0.0, 0.0)
    assert (pixels.zero, pixels.architectural) == (0.75, 0.75)
    assert found["2"].zero == 0.0
    # z = (0.5, −0.5): ∂CE/∂x = −2(1 − σ(1)) at the first pixel
    assert pool.norm == pixels.norm == pytest.approx(2 * (1 - 1 / (1 + torch.tensor(-1.0).exp())).item())


def test_average_pooling_makes_no_zero():
    found = by_path(operations(plain(nn.AvgPool2d(2)), Split(torch.full((1, 1, 2, 2), 0.5), torch.tensor([0]))))
    assert found["0"].kind == "average pooling"
    assert found["0"].zero == found["pixels"].zero == 0.0


def test_a_stride_passes_over_entries():
    """Of 4 × 4 pixels a 1 × 1 convolution of stride 2 reads 4: not pooling's doing, nor the spikes'."""
    convolution = nn.Conv2d(1, 1, 1, stride=2, bias=False)
    model = plain(convolution, weight=((1.0, 2.0, 3.0, 4.0), (0.0, 0.0, 0.0, 0.0)))
    found = by_path(operations(model, images(2, (1, 4, 4))))["0"]
    assert (found.zero, found.unread, found.made) == (0.75, 0.75, 0.0)
    assert (found.architectural, found.natural, found.zero_open) == (0.0, 0.0, 0.75)


def test_weights_of_zero_are_no_architecture():
    model = plain(nn.Linear(3, 2), weight=((1.0, 2.0), (0.0, 0.0)))
    model[0].weight.data[:, 1] = 0
    data = Split(torch.rand(2, 3), torch.tensor([0, 1]))
    found = by_path(operations(nn.Sequential(model[0], model[2]), data))["0"]
    assert found.zero == found.made == found.zero_open == pytest.approx(1 / 3)


def two_neurons(surrogate, currents):
    """Two neurons fed with their pixels themselves, one step."""
    layers = OverTime(nn.Flatten(), LIF(surrogate=surrogate))
    settings = Settings("two", 2, 1, in_channels=1, image_size=2, surrogate=surrogate)
    head = nn.Linear(4, 2, bias=False)
    head.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0] * 4])
    return SNN(settings, layers, head), Split(torch.tensor(currents).reshape(1, 1, 2, 2), torch.tensor([1]))


def test_a_surrogate_of_bounded_support_makes_zeros_by_hand():
    """u − θ = −0.3, −1, −0.5 and 0: triangle(½) is 0.8, 0, 0 and 2 there."""
    found = by_path(operations(*two_neurons(Triangle(0.5), [0.7, 0.0, 0.5, 1.0])))
    neurons = found["layers.1"]
    assert (neurons.zero, neurons.made, neurons.natural, neurons.architectural) == (0.5, 0.5, 0.5, 0.0)
    # only the last fires: z = (4, 0), ∂CE/∂z₀ = σ(4)
    p = torch.sigmoid(torch.tensor(4.0)).item()
    assert neurons.norm == pytest.approx(p * ((0.8 * 1) ** 2 + (2 * 4) ** 2) ** 0.5, rel=1e-5)


def test_arctan_makes_no_zero():
    found = operations(*two_neurons(ArcTan(), [0.7, 0.0, 0.5, 1.0]))
    assert by_path(found)["layers.1"].zero == 0.0
    assert "No spiking layer makes a zero of its own" in found.answer()


def test_a_later_step_leads_back_through_time_unless_all_leaks():
    """The gradient arrives at the second step only; where it does not reach the first one, the spike made that zero."""
    g, g_out = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    assert zeros(LIF(), g, g_out).made.flatten().tolist() == [True, False]
    assert zeros(LIF(leak=0.0), g, g_out).made.flatten().tolist() == [False, False]
    assert not zeros(LIF(), g.flip(0), g_out.flip(0)).made.any()


class LastStep(nn.Module):
    """Pixels are currents; the spikes of the last of two steps are the logits: the first has only the way through time."""

    def __init__(self):
        super().__init__()
        self.neurons = LIF(surrogate=Triangle(0.5))

    def forward(self, x):
        return self.neurons(torch.stack([x, x]))[-1]


def test_zeros_that_only_a_way_through_time_would_fill_are_natural():
    """At 0.8 the second step has u = 1.6 and a slope of 0, at 0.55 it has u = 1.1 and a slope of 1.6; so has the first."""
    found = by_path(operations(LastStep(), Split(torch.tensor([[0.8, 0.55]]), torch.tensor([0]))))["neurons"]
    # of two steps of two neurons those of the first neuron are 0
    assert (found.zero, found.made, found.natural, found.zero_open) == (0.5, 0.5, 0.5, 0.0)


MODULES = {
    "convolution": (nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 6, 7)),
    "dilated": (nn.Conv2d(1, 1, 3, dilation=2, padding=(2, 0)), (1, 6, 7)),
    "grouped": (nn.Conv2d(4, 2, 3, groups=2), (4, 5, 5)),
    "same": (nn.Conv2d(1, 1, 4, padding="same"), (1, 5, 5)),
    "valid": (nn.Conv1d(1, 1, 3, padding="valid", stride=3), (1, 11)),
    "circular": (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), (1, 4, 5)),
    "reflect": (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect", stride=2), (1, 5, 5)),
    "replicate": (nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate", stride=3), (1, 5, 5)),
    "maximum": (nn.MaxPool2d(3, 2, padding=1), (2, 7, 6)),
    "maximum to the end": (nn.MaxPool2d(2, 3, ceil_mode=True), (1, 7, 8)),
    "dilated maximum": (nn.MaxPool2d(2, 2, dilation=2), (1, 7, 7)),
    "maximum in one dimension": (nn.MaxPool1d(2), (1, 5)),
    "maximum in three": (nn.MaxPool3d((1, 2, 2)), (1, 2, 4, 5)),
    "average": (nn.AvgPool2d(3, 2, padding=1), (1, 6, 7)),
    "average to the end": (nn.AvgPool2d((2, 3), (3, 2), ceil_mode=True), (1, 7, 7)),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), (1, 5, 7)),
    "adaptive maximum": (nn.AdaptiveMaxPool2d((3, 2)), (1, 5, 7)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", MODULES)
def test_windows_are_what_a_single_bright_pixel_reaches(name):
    """One position after the other is lit: the outputs that change are those that lead from it."""
    module, shape = MODULES[name]
    if hasattr(module, "weight"):
        module.weight.data.fill_(1.0)
        module.bias = None
    size = shape[1:]
    out = module(torch.zeros(1, *shape)).shape[2:]
    windows = Windows.of(module, size, tuple(out))
    for place in range(torch.Size(size).numel()):
        lit = torch.zeros(1, *shape)
        lit[0, 0].view(-1)[place] = 1
        reached = module(lit)[0, 0] > 0
        for o in range(out.numel()):
            single = torch.zeros(out)
            single.view(-1)[o] = 1
            assert bool(windows.over(single).flatten()[place] > 0) == bool(reached.flatten()[o])


def test_groups_lead_to_their_own_channels():
    module = nn.Conv2d(4, 2, 1, groups=2)
    g_out = torch.zeros(1, 2, 1, 1)
    g_out[0, 1] = 1.0
    assert zeros(module, torch.zeros(1, 4, 1, 1), g_out).made.flatten().tolist() == [False, False, True, True]


@pytest.mark.parametrize("overlapping", [False, True])
def test_spread_pooling_keeps_its_value_and_has_the_gradient_of_the_average(overlapping):
    options = (3, 1) if overlapping else (2, 2)
    pool = nn.MaxPool2d(*options)
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    u = torch.rand_like(pool(x))
    with spreading(pool):
        out = pool(x)
    assert torch.equal(out, pool(x))
    (got,) = torch.autograd.grad((out * u).sum(), x)
    (expected,) = torch.autograd.grad((nn.AvgPool2d(*options)(x) * u).sum(), x)
    torch.testing.assert_close(got, expected)
    assert not pool._forward_hooks


def pooled_snn(pool, **options):
    options = {"threshold": 0.3, "in_channels": 1, "image_size": 8, "encoder": "phase"} | options
    settings = Settings("pooled", 4, 3, **options)
    torch.manual_seed(1)
    layers = OverTime(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), settings.make_neuron(), pool,
        nn.Conv2d(4, 4, 3, padding=1), settings.make_neuron(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    model = SNN(settings, layers, nn.Linear(4, 4))
    nn.init.normal_(model.head.weight)
    return model.double().eval()


def keep(outputs, path):
    return lambda module, args, out: outputs.__setitem__(path, out)


@pytest.mark.parametrize("estimator", [None, RGA()], ids=str)
def test_figures_are_those_of_gradients_kept_sample_by_sample(estimator):
    """Each gradient kept by autograd at the output of the module before, one sample at a time."""
    model, data = pooled_snn(nn.MaxPool2d(2)), images()
    found = by_path(operations(model, data, estimator=estimator, batch_size=3))
    before = {"layers.1": "layers.0", "layers.2": "layers.1", "layers.3": "layers.2", "layers.5": "layers.4"}
    shares, norms = {path: [] for path in before}, {path: [] for path in before}
    for x, y in zip(data.images.double(), data.labels, strict=True):
        outputs = {}
        handles = [model.get_submodule(path).register_forward_hook(keep(outputs, path)) for path in before.values()]
        model.layers[2].gradient_rule = model.layers[5].gradient_rule = estimator
        logits = model(x[None].requires_grad_())
        for handle in handles:
            handle.remove()
        loss = cross_entropy(logits, y[None]).sum()
        for path, source in before.items():
            (g,) = torch.autograd.grad(loss, outputs[source], retain_graph=True)
            shares[path].append((g == 0).double().mean().item())
            norms[path].append(g.norm().item())
    for path in before:
        assert found[path].zero == pytest.approx(sum(shares[path]) / len(data), abs=1e-12)
        assert found[path].norm == pytest.approx(sum(norms[path]) / len(data), rel=1e-9)
        assert found[path].low <= found[path].norm <= max(norms[path]) * (1 + 1e-9)
    assert found["layers.3"].zero >= 0.75


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=["max", "avg"])
def test_the_parts_of_the_zeros_add_up(pool):
    found = operations(pooled_snn(pool), images())
    for one in found.operations:
        assert one.architectural + one.natural + one.zero_open == pytest.approx(one.zero)
        assert one.made + one.unread + one.passed == pytest.approx(one.zero)
        assert min(one.architectural, one.natural, one.zero_open, one.made, one.unread) >= 0
        assert one.passed >= -1e-12
    inside = by_path(found)
    assert inside["layers.2"].made > 0  # a triangle
    assert (inside["layers.3"].architectural > 0.5) == isinstance(pool, nn.MaxPool2d)
    # zeros behind the pooling are what spreading it takes away, as far as no surrogate is 0 as well
    assert inside["layers.2"].zero >= inside["layers.3"].zero_spread
    assert found.gradients == (3 if isinstance(pool, nn.MaxPool2d) else 2) * 4


def test_without_max_pooling_there_is_no_architectural_zero_and_without_spikes_no_natural_one():
    assert all(one.architectural == 0 for one in operations(small_snn().eval(), images()).operations)
    assert all(
        one.natural == 0 for one in operations(plain(nn.MaxPool2d(8), weight=((1.0,),) * 4), images()).operations
    )


def test_the_gradient_through_one_operation_alone_counts():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2, bias=False)
            self.inner.weight.data.zero_()

        def forward(self, x):
            return x + self.inner(x)

    found = by_path(operations(Residual(), Split(torch.rand(3, 2), torch.tensor([0, 1, 0]))))
    assert found["inner"].zero == 1.0
    assert found["inner"].norm == 0.0
    assert found["pixels"].zero == 0.0


class OverFrames(nn.Module):
    """The same layers at every frame of [N, T, ...]: samples first, steps first, or call after call."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.how, self.first, self.head = how, nn.Linear(6, 5).double(), nn.Linear(5, 4).double()

    def forward(self, x):
        x = x.double()
        if self.how == "samples first":
            h = self.first(x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(0, 1)
        elif self.how == "steps first":
            h = self.first(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (x.shape[1], -1))
        elif self.how == "axis of its own":
            h = self.first(x.transpose(0, 1))
        else:
            h = torch.stack([self.first(x[:, t]) for t in range(x.shape[1])])
        return self.head(torch.relu(h).sum(0))


@pytest.mark.parametrize("how", ["samples first", "steps first", "axis of its own", "call after call"])
def test_samples_are_found_wherever_they_are(how):
    data = images(3, (3, 6))  # as many steps as samples
    whole = operations(OverFrames(how), data)
    alone = operations(OverFrames("call after call"), data, batch_size=1)
    for one, other in zip(whole.operations, alone.operations, strict=True):
        assert one.entries == other.entries
        for name in ("zero", "norm", "low", "high"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)
    assert by_path(whole)["first"].entries == 18


def test_a_layout_is_read_off_one_and_two_samples():
    two = torch.arange(12.0).reshape(6, 2)
    assert Layout.between(two[:3], two) == Layout(0, 3, time_first=False)
    assert Layout.between(two[::2], two) == Layout(0, 3, time_first=True)
    assert Layout.between(two, two) is None
    assert Layout(0, 3, True).rows(two, 2).tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    assert Layout(0, 3, False).rows(two, 2).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_a_cut_graph_leaves_the_pixels_without_gradient_and_the_answer_says_so():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(x.detach().round())

    found = operations(Cut(), Split(torch.rand(2, 3), torch.tensor([0, 1])))
    assert found.pixels.zero == 1.0
    assert by_path(found)["head"].norm > 0
    assert "exactly zero for every sample" in found.answer()


def test_what_is_not_finite_is_counted_and_not_averaged():
    model = plain(nn.Linear(2, 1), weight=((1.0,), (-1.0,)))
    model[0].weight.data[0, 0] = float("nan")
    found = operations(nn.Sequential(model[0], model[2]), Split(torch.rand(2, 2), torch.tensor([0, 1])))
    assert found.pixels.not_finite == 2
    assert found.pixels.norm == found.pixels.norm  # no NaN
    assert found.answer().startswith("Not finite: ")
    assert Operations.model_validate_json(found.model_dump_json()) == found


def test_nan_gradients_are_not_called_zero():
    model = small_snn()
    model.head.bias.data.fill_(float("nan"))
    found = operations(model, images())
    assert found.answer().startswith("Not finite: the gradient at the pixels, for all 4 samples")
    assert "exactly zero" not in found.answer()
    assert found.headline() == dict.fromkeys(found.headline(), "–") | {"not finite": "4"}
    pixels = found.pixels.model_copy(update={"not_finite": 1, "zero": 0.75})
    some = found.model_copy(update={"operations": (pixels,)})
    assert some.answer().startswith("Not finite: gradients of 1 of 4 samples")
    assert "exactly zero for all 3 others" in some.answer()
    rest = found.model_copy(update={"operations": (pixels.model_copy(update={"norm": 1.0}), *found.operations[1:])})
    assert "No spiking layer" not in rest.answer()
    assert rest.headline()["zero at the pixels, %"] == "75.0"


def test_a_sew_resnet_contradicts_the_figures_of_its_paper():
    """Luu 2025 prints 37.88 % zeros at max pooling; its windows cannot choose more than every fourth position."""
    model = sew_resnet18(time_steps=2, image_size=8, threshold=0.2).eval()
    found = operations(model, images(2, (3, 8, 8)))
    pool = by_path(found)["layers.pool"]
    assert pool.zero >= 0.75
    assert all(one.made == 0 for one in found.of_kind("spiking"))  # arctan
    assert by_path(found)["layers.layer2.0.downsample.0"].unread == 0.75


def test_views_show_the_records_figures():
    found = operations(pooled_snn(nn.MaxPool2d(2)), images())
    kinds, bars, shares, norms, every = found.views()
    assert isinstance(kinds, Table)
    assert [row[0] for row in kinds.rows] == list(found.kinds())
    row = next(row for row in kinds.rows if row[0] == "spiking")
    spiking = found.of_kind("spiking")
    assert row[2] == f"{100 * sum(one.zero for one in spiking) / len(spiking):.1f}"
    assert isinstance(bars, Bars)
    for k, kind in enumerate(bars.categories):
        total = sum(values[k] for values in bars.series.values())
        of = found.of_kind(kind)
        assert total == pytest.approx(100 * sum(one.zero for one in of) / len(of))
    assert isinstance(shares, Chart)
    assert shares.lines[0].y == pytest.approx([100 * one.zero for one in found.operations])
    assert norms.lines[0].y == tuple(one.norm for one in found.operations)
    assert norms.y_log
    assert len(every.rows) == len(found.operations)
    both = Operations.compared({"max": found, "avg": operations(pooled_snn(nn.AvgPool2d(2)), images())})
    assert [line.label for line in both[2].lines] == ["max", "avg"]
    assert both[1].series["max"][both[1].categories.index("max pooling")] == pytest.approx(
        100 * found.of_kind("max pooling")[0].zero
    )
    assert Operations.model_validate_json(found.model_dump_json()) == found


def test_other_modules_are_not_followed():
    assert kind_of(nn.ReLU()) is None
    assert kind_of(nn.Sequential()) is None
    assert kind_of(nn.AdaptiveMaxPool2d(1)) == "max pooling"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        operations(small_snn(), Split(torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match="found no spiking layer"):
        operations(plain(weight=((1.0,),) * 4), Split(torch.rand(1, 1), torch.tensor([0])), estimator=RGA())


def test_samples_are_told_apart_where_the_first_two_are_alike():
    """A network that keeps sample after sample: two blank samples in front must not mix up the others."""

    class SampleMajor(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.neuron, self.head = nn.Linear(6, 5), LIF(threshold=0.2), nn.Linear(5, 3)

        def forward(self, x):  # [N, T, 6]
            currents = self.linear(x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(0, 1)
            return self.head(self.neuron(currents).mean(0))

    torch.manual_seed(0)
    model = SampleMajor().double().eval()
    x = torch.rand(4, 3, 6)
    x[:2] = 0
    y = torch.tensor([0, 1, 2, 0])
    whole = operations(model, Split(x, y))
    alone = [operations(model, Split(x[k : k + 1], y[k : k + 1])) for k in range(4)]
    for k, one in enumerate(whole.operations):
        assert one.norm == pytest.approx(sum(each.operations[k].norm for each in alone) / 4)
