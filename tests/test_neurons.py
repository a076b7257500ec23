"""The neuron by hand, and layers without time applied over time."""

import pytest
import torch
from torch import nn

from robustspike import kernels
from robustspike.gradients import BPTR, CBA, ESTIMATORS, RGA, estimating
from robustspike.neurons import DLIF, LIF, OverTime, at_every_step, repeat, spiking_layers
from robustspike.surrogates import ArcTan, Sigmoid, Triangle, spike


def column(*values):
    return torch.tensor(values).reshape(-1, 1)


@pytest.mark.parametrize("kernel", ["loop", "eager", None])
@pytest.mark.parametrize(
    ("leak", "reset", "currents", "potentials", "spikes"),
    [
        # IF, hard: 0.75; 0.75 + 0.5 = 1.25 fires, back to 0; 0 + 0.75; 0.75 + 0.25 = 1 fires at θ itself; 0 − 0.5
        (1.0, "hard", [0.75, 0.5, 0.75, 0.25, -0.5], [0.75, 1.25, 0.75, 1.0, -0.5], [0, 1, 0, 1, 0]),
        # IF, soft: 0.75; 1.25 fires, 0.25 stays; 0.25 + 0.75 = 1 fires, 0 stays; 0.25; 0.25 − 0.5 = −0.25
        (1.0, "soft", [0.75, 0.5, 0.75, 0.25, -0.5], [0.75, 1.25, 1.0, 0.25, -0.25], [0, 1, 1, 0, 0]),
        # λ = ½, hard: 0.75; 0.375 + 0.75 = 1.125 fires; ½·0 + 0.5; 0.25 + 0.5 = 0.75; 0.375 + 0.625 = 1 fires
        (0.5, "hard", [0.75, 0.75, 0.5, 0.5, 0.625], [0.75, 1.125, 0.5, 0.75, 1.0], [0, 1, 0, 0, 1]),
        # λ = ½, soft: 0.75; 1.125 fires, 0.125 stays; 0.0625 + 0.5 = 0.5625; 0.28125 + 0.5; 0.390625 + 0.625 fires
        (0.5, "soft", [0.75, 0.75, 0.5, 0.5, 0.625], [0.75, 1.125, 0.5625, 0.78125, 1.015625], [0, 1, 0, 0, 1]),
        # no memory: every step alone
        (0.0, "hard", [0.75, 0.75, 1.0, 2.0, 0.5], [0.75, 0.75, 1.0, 2.0, 0.5], [0, 0, 1, 1, 0]),
    ],
)
def test_membrane_trace_by_hand(kernel, leak, reset, currents, potentials, spikes):
    neuron = LIF(leak, reset=reset)
    with kernels.kernel(kernel or kernels.pick(column(*currents), Triangle())):
        assert neuron.potentials(column(*currents)).flatten().tolist() == potentials
        assert neuron(column(*currents)).flatten().tolist() == spikes


def test_threshold_scales_the_currents():
    currents = torch.rand(6, 50)
    assert torch.equal(LIF(0.5, threshold=2.0)(2 * currents), LIF(0.5)(currents))


@pytest.mark.parametrize(
    ("reset", "detach", "gradient"),
    [
        # currents 0.5, 0.75: u = 0.5, 1.25; triangle(1): slopes ½, ¾; s = 0, 1. Loss s₁ + s₂, so ∂/∂I₂ = ¾.
        # ∂/∂I₁ = ½ + ¾·∂v₁/∂u₁. Hard: ∂v₁/∂u₁ = 1 − s₁ − u₁·½ = ¾;   ½ + 9/16
        ("hard", False, [1.0625, 0.75]),
        ("hard", True, [1.25, 0.75]),  # ∂v₁/∂u₁ = 1 − s₁ = 1
        ("soft", False, [0.875, 0.75]),  # ∂v₁/∂u₁ = 1 − θ·½ = ½
        ("soft", True, [1.25, 0.75]),
    ],
)
def test_gradient_through_time_by_hand(reset, detach, gradient):
    currents = column(0.5, 0.75).requires_grad_()
    LIF(reset=reset, detach_reset=detach)(currents).sum().backward()
    assert currents.grad.flatten().tolist() == gradient


def test_no_state_between_two_calls():
    neuron, currents = LIF(0.5), torch.rand(4, 100)
    before = dict(vars(neuron))
    first = neuron(currents)
    neuron(torch.rand(7, 3, 5) * 10)
    assert torch.equal(neuron(currents), first)
    assert vars(neuron) == before
    assert not list(neuron.buffers())
    assert not list(neuron.parameters())
    leaf = currents.clone().requires_grad_()
    gradients = [torch.autograd.grad(neuron(leaf).sum(), leaf)[0] for _ in range(2)]
    assert torch.equal(*gradients)


def test_fire_takes_another_surrogate_for_one_call():
    neuron, currents = LIF(surrogate=Triangle()), torch.rand(3, 20, dtype=torch.float64).requires_grad_()
    (with_other,) = torch.autograd.grad(neuron.fire(currents, ArcTan()).sum(), currents)
    (its_own,) = torch.autograd.grad(neuron(currents).sum(), currents)
    (expected,) = torch.autograd.grad(LIF(surrogate=ArcTan())(currents).sum(), currents)
    assert torch.equal(with_other, expected)
    assert not torch.equal(with_other, its_own)


@pytest.mark.parametrize("kernel", ["loop", "eager", None])
@pytest.mark.parametrize(
    ("reset", "detach", "gradient"),
    [
        # currents 0.5, 0.75 as above, slopes 2 and ¼: ∂/∂I₂ = ¼ and ∂/∂I₁ = 2 + ¼·∂v₁/∂u₁. Hard: ∂v₁/∂u₁ = 1 − ½·2 = 0
        ("hard", False, [2.0, 0.25]),
        ("hard", True, [2.25, 0.25]),
        ("soft", False, [1.75, 0.25]),  # ∂v₁/∂u₁ = 1 − θ·2 = −1
        ("soft", True, [2.25, 0.25]),
    ],
)
def test_gradient_with_slopes_by_hand(kernel, reset, detach, gradient):
    currents = column(0.5, 0.75).requires_grad_()
    with kernels.kernel(kernel or kernels.pick(currents, None)):
        spikes = LIF(reset=reset, detach_reset=detach).fire(currents, slopes=column(2.0, 0.25))
        assert spikes.flatten().tolist() == [0, 1]
        spikes.sum().backward()
    assert currents.grad.flatten().tolist() == gradient


def test_fire_takes_a_surrogate_or_slopes_but_not_both():
    with pytest.raises(ValueError, match=r"^fire takes a surrogate or slopes, got both: ArcTan.* slopes \[3, 2\]"):
        LIF().fire(torch.rand(3, 2), ArcTan(), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"^slopes must have the shape of the currents, \[3, 2\], got \[2\]"):
        LIF().fire(torch.rand(3, 2), slopes=torch.ones(2))


def test_a_gradient_rule_replaces_forward_and_receives_the_layer():
    neuron, seen = LIF(), []
    neuron.gradient_rule = lambda layer, currents: seen.append(layer) or currents * 2
    assert torch.equal(neuron(torch.ones(2, 1)), torch.full((2, 1), 2.0))
    assert seen == [neuron]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"leak": -0.1}, r"^leak must lie in \[0, 1\]"),
        ({"leak": 1.1}, r"^leak must lie in \[0, 1\]"),
        ({"leak": float("nan")}, r"^leak must lie in \[0, 1\]"),
        ({"threshold": 0.0}, r"^threshold must be positive and finite, got 0"),
        ({"threshold": float("nan")}, r"^threshold must be positive"),
        ({"reset": "medium"}, r"^reset must be \"hard\" or \"soft\", got 'medium'"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LIF(**options)


def test_spiking_layers_are_found_by_path_and_once():
    shared = LIF()
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(LIF(), shared))
    assert list(spiking_layers(model)) == ["1", "2.0"]
    assert spiking_layers(nn.Linear(2, 2)) == {}


def two_convolutions():
    torch.manual_seed(0)
    chain = OverTime(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), LIF(0.5), nn.Conv2d(8, 4, 3), nn.AvgPool2d(2), LIF(0.5))
    chain[1].running_mean.normal_(), chain[1].running_var.uniform_(0.1, 0.5)
    return chain.eval()


def test_layers_before_the_first_neuron_run_once_on_a_repeated_image():
    chain, batches = two_convolutions(), []
    for i in (0, 1, 3):
        chain[i].register_forward_hook(lambda module, args, out: batches.append((type(module).__name__, len(args[0]))))
    chain(repeat(torch.rand(2, 3, 8, 8), 5))
    assert batches == [("Conv2d", 2), ("BatchNorm2d", 2), ("Conv2d", 10)]
    batches.clear()
    chain(repeat(torch.rand(2, 3, 8, 8), 5).contiguous())
    assert batches == [("Conv2d", 10), ("BatchNorm2d", 10), ("Conv2d", 10)]


def test_computing_a_repeated_image_once_changes_nothing():
    chain, x = two_convolutions().double(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    results = []
    for sequence in (lambda leaf: repeat(leaf, 5), lambda leaf: torch.stack([leaf] * 5)):
        leaf = x.clone().requires_grad_()
        out = chain(sequence(leaf))
        (gradient,) = torch.autograd.grad(out.sum(), leaf)
        results.append((out.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert 0 < results[0][0].mean() < 1
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][1].abs().sum() > 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_repeat_sums_its_gradient_over_time_and_is_twice_differentiable(memory_format):
    x = torch.rand(2, 3, 2, 2, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.rand(4, 2, 3, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(repeat(x, 4), x, weight)[0], weight.sum(0))
    assert torch.equal(torch.autograd.grad(repeat(x, 4).sum(), x)[0], torch.full_like(x, 4))
    assert torch.autograd.gradgradcheck(lambda v: repeat(v, 4).square() * weight, x)


@pytest.mark.parametrize("shape", [(1, 2, 3), (4, 1, 3), (4, 5, 3), (3, 0, 3)])
def test_at_every_step_equals_a_loop_over_the_steps(shape):
    layer, x_seq = nn.Linear(3, 2), torch.rand(shape)
    for sequence in (x_seq, x_seq.transpose(0, 1).contiguous().transpose(0, 1), x_seq[:1].expand_as(x_seq)):
        torch.testing.assert_close(at_every_step(layer, sequence), torch.stack([layer(x) for x in sequence]))


def test_over_time_gives_layers_that_know_time_the_whole_sequence():
    class Last(nn.Module):
        over_time = True

        def forward(self, x_seq):
            return x_seq[-1:]

    x_seq = torch.rand(3, 2, 4, 4)
    assert torch.equal(OverTime(Last(), nn.Flatten())(x_seq), x_seq[-1:].flatten(2))
    assert torch.equal(OverTime(OverTime(Last()))(x_seq), x_seq[-1:])


def weighted(p, **options):
    layer = DLIF(len(p), LIF(**options))
    layer.p.data = torch.tensor(p)
    return layer


def test_weighted_currents_by_hand():
    # λ = ½, hard: 2·0.25 = 0.5; 0.25 + 0.5·1.5 = 1 fires; ½·0 + 1·0.75; 0.375 − 1·1 = −0.625; ½·(−0.625) + 4·0.5 fires
    layer, currents = weighted([2.0, 0.5, 1.0, -1.0, 4.0], leak=0.5), column(0.25, 1.5, 0.75, 1.0, 0.5)
    assert layer(currents).flatten().tolist() == [0, 1, 0, 0, 1]
    seen = []
    layer.neuron.gradient_rule = lambda neuron, i: seen.append(neuron.potentials(i)) or neuron.fire(i)
    assert layer(currents).flatten().tolist() == [0, 1, 0, 0, 1]
    assert seen[0].flatten().tolist() == [0.5, 1.0, 0.75, -0.625, 1.6875]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{"leak": 0.9}, {"reset": "soft", "surrogate": ArcTan()}], ids=str)
def test_weights_of_one_are_no_weights(options, dtype):
    currents = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    results = []
    for layer in (LIF(**options), DLIF(6, LIF(**options))):
        leaf = currents.clone().requires_grad_()
        spikes = layer(leaf)
        (spikes * currents).sum().backward()
        results.append((spikes.detach(), leaf.grad))
    for plain, with_weights in zip(*results, strict=True):
        assert with_weights.dtype == plain.dtype
        assert torch.equal(with_weights, plain)
    assert 0 < results[0][0].float().mean() < 1


@pytest.mark.parametrize("kernel", ["loop", "eager", None])
@pytest.mark.parametrize("surrogate", [Triangle(), Sigmoid(4.0)], ids=str)
def test_the_gradient_of_the_weights_is_that_of_a_plain_loop(kernel, surrogate):
    generator = torch.Generator().manual_seed(0)
    currents, towards = (torch.randn(5, 40, dtype=torch.float64, generator=generator) for _ in range(2))
    p = torch.rand(5, dtype=torch.float64, generator=generator) + 0.5
    mine, plain = p.clone().requires_grad_(), p.clone().requires_grad_()
    leaf, v, loss = currents.clone().requires_grad_(), torch.zeros(40, dtype=torch.float64), 0.0
    for t in range(5):
        u = 0.9 * v + plain[t] * leaf[t]
        s = spike(u - 1.0, surrogate)
        v = u * (1 - s)
        loss = loss + (s * towards[t]).sum()
    expected = torch.autograd.grad(loss, (plain, leaf))
    layer = DLIF(5, LIF(0.9, surrogate=surrogate)).double()
    layer.p = nn.Parameter(mine)
    again = currents.clone().requires_grad_()
    with kernels.kernel(kernel or kernels.pick(currents, surrogate)):
        (layer(again) * towards).sum().backward()
    torch.testing.assert_close((layer.p.grad, again.grad), expected)
    assert (layer.p.grad != 0).all()


@pytest.mark.parametrize("estimator", [make() for make in ESTIMATORS.values()], ids=ESTIMATORS)
def test_every_estimator_sees_the_weighted_currents(estimator):
    p = torch.tensor([0.5, 1.5, 2.0])
    layer, currents = (
        weighted(p.tolist(), leak=0.5),
        torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)),
    )
    leaf, inner = currents.clone().requires_grad_(), (p.reshape(-1, 1, 1, 1) * currents).requires_grad_()
    with estimating(layer, estimator):
        spikes = layer(leaf)
    bare = LIF(0.5)
    with estimating(bare, estimator):
        expected = bare(inner)
    assert torch.equal(spikes, expected)
    (gradient,) = torch.autograd.grad(spikes.sum(), leaf)
    (of_inner,) = torch.autograd.grad(expected.sum(), inner)
    torch.testing.assert_close(gradient, p.reshape(-1, 1, 1, 1) * of_inner)
    assert gradient.any()


def test_estimators_with_weights_by_hand():
    layer, currents = weighted([2.0, 8.0], leak=0.0), torch.tensor([[0.25], [0.25]], requires_grad=True)
    for estimator, gradient in (
        (BPTR(), [2.0, 8.0]),  # weighted currents 0.5 and 2: it fires, so the slope is 1, times p
        (RGA(0.25), [1.5, 6.0]),  # mean input 1.25, so the slope is 1 − γ = ¾; of the unweighted 0.25 it would be γ
    ):
        with estimating(layer, estimator):
            found = torch.autograd.grad(layer(currents).sum(), currents)[0]
        assert found.flatten().tolist() == gradient


def test_a_single_step_is_weighted_by_the_mean():
    layer = weighted([0.5, 1.0, 3.0])
    with estimating(layer, CBA()):
        assert layer(torch.tensor([[-1.0, 2.0]])).tolist() == [[0.0, 3.0]]
    assert layer(torch.tensor([[0.625, 0.75]])).tolist() == [[0.0, 1.0]]


def test_weights_are_refused_for_other_steps():
    with pytest.raises(ValueError, match=r"^DLIF has weights for 3 time steps, got currents \[2, 5\] of 2"):
        DLIF(3)(torch.rand(2, 5))
    with pytest.raises(ValueError, match=r"^time_steps must be ≥ 1, got 0"):
        DLIF(0)


def test_the_neuron_behind_the_weights_is_the_spiking_layer():
    model = nn.Sequential(nn.Linear(2, 2), DLIF(3), LIF())
    assert list(spiking_layers(model)) == ["1.neuron", "2"]
    assert OverTime(nn.Linear(2, 2), DLIF(3))(torch.rand(3, 4, 2)).shape == (3, 4, 2)
