"""Gradient estimators: two neurons by hand, bit-identical logits, nothing left behind, expectations over draws."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustspike.draws import Draws, sampling
from robustspike.gradients import BPTR, BPTT, CBA, ESTIMATORS, RGA, cross_entropy, estimating, frozen, input_gradient
from robustspike.models import SNN, Settings, digits_cnn
from robustspike.models.wideresnet import WideBlock
from robustspike.neurons import LIF, OverTime, repeat, spiking_layers
from robustspike.surrogates import ArcTan, Sigmoid, Triangle

ALL = [BPTT(), BPTT(Sigmoid()), BPTT(ArcTan(2.0)), BPTT(Triangle(0.3)), BPTR(), RGA(), RGA(0.5), CBA()]
EXACT = [estimator for estimator in ALL if estimator.exact]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def digits(**options):
    torch.manual_seed(0)
    return awake(digits_cnn(**{"time_steps": 4, "leak": 0.9, "threshold": 0.3, "mean": [0.5], "std": [0.25]} | options))


def wide(**options):
    """One block with a shortcut and one without, 8 channels: the smallest network like WRN-16."""
    torch.manual_seed(0)
    settings = Settings("wrn-like", 10, 4, in_channels=1, image_size=8, leak=0.5, threshold=0.3, **options)
    blocks = WideBlock(settings, 4, 8, 2), WideBlock(settings, 8, 8, 1)
    tail = nn.BatchNorm2d(8), settings.make_neuron(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return awake(SNN(settings, OverTime(nn.Conv2d(1, 4, 3, padding=1, bias=False), *blocks, *tail), nn.Linear(8, 10)))


def awake(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1), nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0, 0.2)
    return model


MODELS = {"digits": digits, "wide": wide}


def images(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n)


class TwoNeurons(nn.Module):
    """Firing rates [N, 2] over two steps of two neurons driven by the pixels [N, 2] themselves."""

    def __init__(self, **options):
        super().__init__()
        self.neuron = LIF(**options)

    def forward(self, x):
        return self.neuron(repeat(x, 2)).mean(0)


def total(logits, y):
    return logits.sum(1)


# Two steps of the currents 0.75 and 0.25 (λ = 1): u = 0.75, 1.5 fires at the second step; u = 0.25, 0.5 never fires.
# The rate is a mean over the two steps and both see the pixel, so a derivative d at every step gives (d + d) / 2 = d.
HAND = [
    (BPTR(), {}, [1.0, 0.0]),
    (BPTR(), {"leak": 0.0}, [0.0, 0.0]),  # u = 0.75, 0.75
    # RGA, λ = 1: x̄ = 0.75, 0.25, both between 0 and 2: (1 − 0.2 + 0.2) / 2
    (RGA(), {}, [0.5, 0.5]),
    # λ = ½: 0.25 < ½ gives γ; 0.75 > ½ gives (1 − 0.2 + 0.1) / 1.5
    (RGA(), {"leak": 0.5}, [0.6, 0.2]),
    (RGA(0.5), {"leak": 0.5}, [0.5, 0.5]),  # (1 − 0.5 + 0.25) / 1.5
    # θ = 2 halves x̄ to 0.375, 0.125
    (RGA(), {"leak": 0.5, "threshold": 2.0}, [0.2, 0.2]),
    # θ = ⅛: x̄ = 6, 2: beyond the end, and on it
    (RGA(), {"leak": 0.5, "threshold": 0.125}, [0.0, 0.6]),
    # BPTT, triangle(1), hard. 0.75: slopes ¾, ½; ∂v₁/∂u₁ = 1 − ¾·¾ = 7/16; (¾ + ½·7/16 + ½) / 2
    # 0.25: slopes ¼, ½; ∂v₁/∂u₁ = 1 − ¼·¼ = 15/16; (¼ + ½·15/16 + ½) / 2
    (BPTT(), {}, [0.734375, 0.609375]),
    # triangle(½): slopes (½ − ¼)·4 = 1, (½ − ½)·4 = 0 at 1.5; 0.25 is out of reach and 0.5 just so: (1 + 0) / 2, 0
    (BPTT(Triangle(0.5)), {}, [0.5, 0.0]),
    (BPTT(), {"surrogate": Triangle(0.5)}, [0.5, 0.0]),
    (CBA(), {}, [1.0, 1.0]),
]


@pytest.mark.parametrize(("estimator", "options", "gradient"), HAND, ids=lambda p: repr(p) if callable(p) else "")
def test_gradients_of_two_neurons_by_hand(estimator, options, gradient):
    x = torch.tensor([[0.75, 0.25]])
    got = input_gradient(TwoNeurons(**options), x, torch.tensor([0]), estimator, loss=total)
    torch.testing.assert_close(got, torch.tensor([gradient]))


def test_cba_passes_no_gradient_below_zero():
    got = input_gradient(TwoNeurons(), torch.tensor([[0.75, -0.25]]), torch.tensor([0]), CBA(), loss=total)
    assert got.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("leak", "mean_input", "slope"),
    [
        # λ = ½, γ = 0.2: knots at 0, ½ and 2; γ below ½, (1 − 0.2 + 0.1) / 1.5 = 0.6 above, both on ½ itself
        (
            0.5,
            [-1e-6, 0, 1e-6, 0.5 - 1e-6, 0.5, 0.5 + 1e-6, 2 - 1e-6, 2, 2 + 1e-6],
            [0, 0.2, 0.2, 0.2, 0.8, 0.6, 0.6, 0.6, 0],
        ),
        # λ = 1: the lower part is the point 0 alone; (1 − 0.2 + 0.2) / 2 = 0.5 on [0, 2]
        (1.0, [-1e-6, 0, 1e-6, 1, 2 - 1e-6, 2, 2 + 1e-6], [0, 0.7, 0.5, 0.5, 0.5, 0.5, 0]),
        # λ = 0: knots at 0, 1 and 2; 0.2 then 0.8
        (0.0, [-1e-6, 1e-6, 1 - 1e-6, 1, 1 + 1e-6, 2 - 1e-6, 2 + 1e-6], [0, 0.2, 0.2, 1.0, 0.8, 0.8, 0]),
    ],
)
def test_rga_on_both_sides_of_its_knots(leak, mean_input, slope):
    got = RGA().slope(torch.tensor(mean_input, dtype=torch.float64), leak)
    torch.testing.assert_close(got, torch.tensor(slope, dtype=torch.float64))


def test_bptr_and_rga_send_nothing_between_time_steps():
    currents = torch.tensor([[0.5], [0.75], [0.25]], requires_grad=True)  # fires once, at the second step
    for estimator, slope in ((BPTR(), 1.0), (RGA(), 0.5)):
        spikes = estimator(LIF(), currents)
        for t in range(3):
            (gradient,) = torch.autograd.grad(spikes[t].sum(), currents, retain_graph=True)
            assert gradient.flatten().tolist() == [slope * (s == t) for s in range(3)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_exact_estimators_leave_the_logits_bit_identical(model, estimator):
    model, (x, _) = MODELS[model]().eval(), images()
    before = model(x)
    with estimating(model, estimator):
        inside = model(x)
    assert torch.equal(inside, before)
    assert torch.equal(model(x), before)
    assert before.std(0).max() > 0  # the images do not all look alike to it


@pytest.mark.parametrize("model", MODELS)
def test_exact_estimators_have_gradients_of_their_own(model):
    model, (x, y) = MODELS[model](), images()
    gradients = [input_gradient(model, x, y, estimator).flatten() for estimator in (*EXACT, CBA())]
    assert all(g.abs().max() > 0 and g.isfinite().all() for g in gradients)
    for i, g in enumerate(gradients):
        assert not any(torch.allclose(g, h, rtol=1e-3) for h in gradients[:i]), i


def relu_digits(model, x):
    """The ReLU network with the weights of a digits-cnn, layer by layer."""
    layers = model.layers
    x = (x - 0.5) / 0.25
    for i, pool in ((0, False), (3, True), (7, True)):
        x = F.conv2d(x, layers[i].weight, layers[i].bias, padding=1)
        bn = layers[i + 1]
        x = (x - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + 1e-5).sqrt()
        x = (bn.weight[:, None, None] * x + bn.bias[:, None, None]).relu()
        x = F.avg_pool2d(x, 2) if pool else x
    return x.flatten(1) @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("encoder", ["direct", "poisson", "phase"])
def test_cba_is_the_relu_network_with_the_same_weights(encoder):
    model, (x, y) = digits(encoder=encoder).double(), images()
    x, scale = x.double(), {"phase": (1 - 2.0**-4) / 4}.get(encoder, 1.0)  # four phase weights over T = 4
    leaf = x.clone().requires_grad_()
    expected = relu_digits(model.eval(), leaf * scale)
    with estimating(model, CBA()):
        torch.testing.assert_close(model(x), expected)
    (gradient,) = torch.autograd.grad(F.cross_entropy(expected, y, reduction="sum"), leaf)
    torch.testing.assert_close(input_gradient(model, x, y, CBA()), gradient)


def test_cba_sees_the_mean_of_event_frames():
    model = digits(encoder="frames").double().eval()
    x = torch.rand(2, 4, 1, 8, 8, dtype=torch.float64)
    with estimating(model, CBA()):
        torch.testing.assert_close(model(x), relu_digits(model, x.mean(1)))


def rules(model):
    flags = [module.time_collapsed for module in model.modules() if hasattr(module, "time_collapsed")]
    return [layer.gradient_rule for layer in spiking_layers(model).values()], flags


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_everything_is_restored_on_leaving_and_after_an_exception(estimator):
    model = digits()
    before = rules(model)
    with estimating(model, estimator):
        assert (rules(model) == before) == (estimator == BPTT())
    assert rules(model) == before == ([None] * 3, [False])
    with pytest.raises(RuntimeError, match="inside"), estimating(model, estimator):
        raise RuntimeError("inside")
    assert rules(model) == before


def test_nested_contexts_restore_the_outer_one():
    model, (x, y) = digits().eval(), images()

    def gradient():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)[0]

    alone = {estimator: input_gradient(model, x, y, estimator) for estimator in (BPTT(), RGA(), CBA())}
    with estimating(model, RGA()):
        for inner in (CBA(), BPTT()):
            with estimating(model, inner):
                assert torch.equal(gradient(), alone[inner])
            assert torch.equal(gradient(), alone[RGA()])
        with pytest.raises(KeyError), estimating(model, CBA()):
            raise KeyError
        assert torch.equal(gradient(), alone[RGA()])
    assert torch.equal(gradient(), alone[BPTT()])


def test_any_callable_of_layer_and_currents_is_an_estimator():
    class Silent:
        exact, without_time = False, False

        def __call__(self, layer, currents):
            return currents * 0

    model, (x, _) = digits().eval(), images()
    with estimating(model, Silent()):
        assert torch.equal(model(x), model.head.bias.expand(3, 10))


def snapshot(model):
    return (
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        rules(model),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_input_gradient_leaves_the_model_and_x_as_they_were(model, estimator):
    model, (x, y) = MODELS[model](), images()
    model.train()
    model.layers[0].eval()
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 3 != 0)
        p.grad = torch.full_like(p, 0.5) if i % 3 == 1 else None
    before, x_before = copy.deepcopy(snapshot(model)), x.clone()
    gradient = input_gradient(model, x.requires_grad_(), y, estimator)
    assert same(snapshot(model), before)
    assert torch.equal(x, x_before)
    assert x.grad is None
    assert x.requires_grad
    assert gradient.shape == x.shape
    assert not gradient.requires_grad

    def fails(logits, y):
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        input_gradient(model, x, y, estimator, loss=fails)
    assert same(snapshot(model), before)


def test_the_snapshot_notices_a_training_step():
    model, (x, y) = digits().train(), images()
    before = copy.deepcopy(snapshot(model))
    cross_entropy(model(x), y).sum().backward()
    assert not same(snapshot(model), before)


def test_input_gradient_works_where_gradients_are_switched_off():
    model, (x, y) = digits(), images()
    expected = input_gradient(model, x, y, BPTR())
    with torch.no_grad():
        assert torch.equal(input_gradient(model, x, y, BPTR()), expected)


def test_frozen_is_evaluation_without_parameter_gradients():
    model = digits().train()
    with frozen(model):
        assert not any(module.training for module in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_samples_do_not_influence_one_another():
    model, (x, y) = digits().double(), images(4)
    x = x.double()
    together = input_gradient(model, x, y, RGA())
    for i in range(4):
        torch.testing.assert_close(input_gradient(model, x[[i]], y[[i]], RGA()), together[[i]])


@pytest.mark.parametrize("estimator", [BPTT(), BPTR(), RGA()], ids=repr)
def test_averaging_over_draws_equals_a_mean_by_hand(estimator):
    model, (x, y) = digits(encoder="poisson").eval(), images()
    draws, mean = Draws.of(7, torch.arange(3)), torch.zeros_like(x)
    for k in range(5):
        leaf = x.clone().requires_grad_()
        with sampling(draws.fork(k)), estimating(model, estimator):
            loss = F.cross_entropy(model(leaf), y, reduction="sum")
        mean += torch.autograd.grad(loss, leaf)[0] / 5
    got = input_gradient(model, x, y, estimator, samples=5, draws=draws)
    torch.testing.assert_close(got, mean, rtol=1e-4, atol=1e-7)
    assert torch.equal(input_gradient(model, x, y, estimator, samples=5, draws=draws), got)
    assert not torch.allclose(input_gradient(model, x, y, estimator, samples=1, draws=draws), got, rtol=1e-2)


def test_averaging_over_draws_shrinks_the_variance_in_proportion():
    model, (x, y) = digits(encoder="poisson", time_steps=2), images(1)

    def variance(samples):
        draws = [Draws.of(seed, torch.arange(1)) for seed in range(24)]
        gradients = [input_gradient(model, x, y, samples=samples, draws=d) for d in draws]
        return torch.stack(gradients).var(0).mean().item()

    assert variance(8) == pytest.approx(variance(1) / 8, rel=0.4)


def test_without_streams_a_stochastic_model_follows_the_global_generator():
    model, (x, y) = digits(encoder="poisson"), images()
    torch.manual_seed(0)
    first, second = (input_gradient(model, x, y) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(input_gradient(model, x, y), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("samples", [0, -1])
def test_fewer_than_one_sample_is_refused(samples):
    with pytest.raises(ValueError, match=rf"^samples must be ≥ 1, got {samples}"):
        input_gradient(digits(), *images(), samples=samples)


def relu_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.parametrize("estimator", [None, BPTT()])
def test_a_relu_network_of_torch_works_with_its_own_gradient(estimator):
    network, (x, y) = relu_network(), images()
    leaf = x.clone().requires_grad_()
    F.cross_entropy(network(leaf), y, reduction="sum").backward()
    torch.testing.assert_close(input_gradient(network, x, y, estimator), leaf.grad)


@pytest.mark.parametrize("estimator", [e for e in ALL if e != BPTT()], ids=repr)
def test_a_network_without_neurons_refuses_every_other_estimator(estimator):
    with pytest.raises(ValueError, match=r"^found no spiking layer in Sequential that could carry .*; use BPTT\(\)"):
        input_gradient(relu_network(), *images(), estimator)


def test_the_gradient_of_a_linear_model_by_hand():
    # logits (x, −x) at x = 0, label 0: softmax ½, ½; ∂CE/∂logits = (−½, ½); ∂CE/∂x = −½ − ½
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[1.0], [-1.0]])
    assert input_gradient(model, torch.zeros(1, 1), torch.tensor([0])).item() == -1.0


def test_cross_entropy_is_per_sample_and_at_least_float32():
    logits, y = torch.randn(4, 3, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 0])
    expected = -logits.float().log_softmax(1)[torch.arange(4), y]
    torch.testing.assert_close(cross_entropy(logits, y), expected)
    assert cross_entropy(logits.double(), y).dtype == torch.float64


def test_the_dict_lists_the_estimators_of_this_page():
    named = {type(ESTIMATORS[name]()).__name__ for name in ("bptt", "bptr", "rga", "cba")}
    assert named == {"BPTT", "BPTR", "RGA", "CBA"}


@pytest.mark.parametrize("cut", [lambda x: x.detach(), lambda x: x.detach() + 0 * x.detach()])
def test_a_model_that_cuts_the_graph_has_gradient_zero(cut):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(cut(x))

    x, y = torch.rand(2, 4), torch.tensor([0, 1])
    assert torch.equal(input_gradient(Detached(), x, y), torch.zeros(2, 4))
