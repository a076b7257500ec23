"""Every kernel against the plain loop, the loop against a recursion in numpy."""

import ctypes
import itertools
import math

import numpy as np
import pytest
import torch

from robustspike import kernels
from robustspike.kernels import native
from robustspike.neurons import LIF
from robustspike.surrogates import (
    SURROGATES,
    ArcTan,
    Exponential,
    Gaussian,
    Rectangle,
    Sigmoid,
    StraightThrough,
    Triangle,
    spike,
)

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler, or no place to keep the kernel")
FUSED = ["eager", pytest.param("native", marks=needs_compiler)]
SETTINGS = list(itertools.product((1.0, 0.5), (True, False), (True, False)))  # leak, hard reset, detach reset
THETA = 0.7


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny arrays: more threads would only wait for each other where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Quartic:
    """A surrogate that no compiled kernel knows."""

    def slope(self, d):
        return 1 / (1 + d**4)


def neuron(surrogate, leak=1.0, hard=True, detach=False, threshold=THETA):
    return kernels.Neuron(surrogate, leak, threshold, hard, detach)


def run(kernel, currents, constants, weight, slopes=None):
    with kernels.kernel(kernel):
        leaf = currents.detach().requires_grad_()  # keeps the strides
        spikes = kernels.fire(leaf, constants, slopes)
        return spikes.detach(), torch.autograd.grad(spikes, leaf, weight)[0]


def random(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).mul(0.8).add(0.3).to(dtype)


def layouts(dtype):
    image = random(3, 5, 4, 3, dtype=dtype)
    return {
        "257 neurons": random(5, 257, dtype=dtype),
        "1 element": random(1, 1, dtype=dtype),
        "1 neuron": random(6, 1, dtype=dtype),
        "1 step": random(1, 2, 3, dtype=dtype),
        "channels-last": random(12, 5, 4, 3, dtype=dtype)
        .contiguous(memory_format=torch.channels_last)
        .unflatten(0, (4, 3)),
        "repeated in time": image.unsqueeze(0).expand(4, *image.shape),
        "repeated, channels-last": image.contiguous(memory_format=torch.channels_last)
        .unsqueeze(0)
        .expand(4, *image.shape),
        "time second": random(7, 4, 6, dtype=dtype).transpose(0, 1),
        "every other neuron": random(4, 30, dtype=dtype)[:, ::2],
        "every other step": random(8, 9, dtype=dtype)[::2],
        "repeated, every other neuron": random(30, dtype=dtype)[::2].expand(4, 15),
    }


DTYPES = [torch.float32, torch.float64, torch.bfloat16]
TOLERANCES = {torch.float32: (1e-4, 1e-5), torch.float64: (1e-11, 1e-12), torch.bfloat16: (1e-2, 1e-4)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("kernel", FUSED)
def test_fused_kernels_equal_the_loop(kernel, name, dtype):
    """Spikes to the bit, gradients to rounding, for every reset, leak and layout."""
    tolerance = TOLERANCES[dtype]
    for leak, hard, detach in SETTINGS:
        constants = neuron(SURROGATES[name](), leak, hard, detach)
        for layout, currents in layouts(dtype).items():
            weight = random(*currents.shape, dtype=dtype, seed=1)
            spikes, gradient = run(kernel, currents, constants, weight)
            expected, expected_gradient = run("loop", currents, constants, weight)
            case = f"{layout}, {constants}"
            assert (spikes.dtype, gradient.dtype, gradient.shape) == (dtype, dtype, currents.shape), case
            assert expected.dtype == dtype, case
            assert torch.equal(spikes, expected), case
            torch.testing.assert_close(
                gradient, expected_gradient, rtol=tolerance[0], atol=tolerance[1],
                msg=lambda text, case=case: f"{case}: {text}",
            )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("kernel", ["loop", *FUSED])
def test_the_slopes_of_a_surrogate_given_as_a_tensor_change_nothing(kernel, name, dtype):
    surrogate = SURROGATES[name]()
    for leak, hard, detach in SETTINGS:
        constants = neuron(surrogate, leak, hard, detach)
        for layout, currents in layouts(dtype).items():
            weight = random(*currents.shape, dtype=dtype, seed=1)
            u = kernels.potentials(currents, constants)
            slopes = torch.stack([surrogate.slope(step - THETA) for step in u])  # by steps: rounded as in the kernels
            given = neuron(Quartic(), leak, hard, detach)  # its surrogate must not matter
            spikes, gradient = run(kernel, currents, given, weight, slopes)
            expected, expected_gradient = run(kernel, currents, constants, weight)
            case = f"{layout}, {constants}"
            assert torch.equal(spikes, expected), case
            rtol, atol = TOLERANCES[dtype] if kernel == "native" else (0, 0)  # C computes the surrogate its own way
            torch.testing.assert_close(
                gradient, expected_gradient, rtol=rtol, atol=atol, msg=lambda text, case=case: f"{case}: {text}"
            )


@pytest.mark.parametrize("kernel", FUSED)
@pytest.mark.parametrize("name", layouts(torch.float64))
def test_slopes_in_any_layout_equal_the_loop(kernel, name):
    currents = layouts(torch.float64)[name]
    weight = random(*currents.shape, dtype=torch.float64, seed=1)
    slopes = random(*currents.shape, dtype=torch.float64, seed=2).abs()
    time_last = slopes.movedim(0, -1).contiguous().movedim(-1, 0)
    turned = slopes.movedim(1, -1).contiguous().movedim(-1, 1)
    with_gaps, every_other_step = torch.stack([slopes, -slopes], -1)[..., 0], torch.stack([slopes, -slopes], 1)[:, 0]
    shared_in_time, one = slopes[:1].expand_as(slopes), slopes[:1, :1].expand_as(slopes)
    for leak, hard, detach in SETTINGS:
        for each in (slopes, time_last, turned, with_gaps, every_other_step, shared_in_time, one):
            arguments = currents, neuron(Quartic(), leak, hard, detach), weight
            spikes, gradient = run(kernel, *arguments, each)
            expected, expected_gradient = run("loop", *arguments, each.contiguous())
            assert torch.equal(spikes, expected)
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["loop", *FUSED])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slopes_are_constants_of_any_floating_type(kernel, dtype):
    currents, weight = random(3, 20, dtype=dtype), random(3, 20, dtype=dtype, seed=1)
    slopes = torch.rand(3, 20).bfloat16().requires_grad_()  # its values are exact in every type
    gradient = run(kernel, currents, neuron(Triangle()), weight, slopes)[1]
    exact = run(kernel, currents, neuron(Triangle()), weight, slopes.detach().double())[1]
    assert torch.equal(gradient, exact)
    assert not kernels.fire(currents, neuron(Triangle()), slopes).requires_grad


@pytest.mark.parametrize("shape", [(20,), (1, 20), (3, 1), (3, 20, 1), (4, 20), (20, 3)])
def test_slopes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"^slopes must have the shape of the currents, \[3, 20\], got "):
        kernels.fire(random(3, 20), neuron(Triangle()), torch.ones(shape))


def test_slopes_on_another_device_are_refused():
    with pytest.raises(ValueError, match=r"^slopes must be on the currents' device, cpu, got meta"):
        kernels.fire(random(3, 20), neuron(Triangle()), torch.ones(3, 20, device="meta"))


def bits(x):
    return x.view({torch.float32: torch.int32, torch.float64: torch.int64}[x.dtype])


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_potentials_equal_those_of_the_loop_bit_for_bit(dtype):
    for leak, hard, _ in SETTINGS:
        constants = neuron(Quartic(), leak, hard)  # needs no surrogate that the kernel knows
        for layout, currents in (layouts(dtype) | {"zeros": torch.tensor([[-0.0, 0.0]] * 3, dtype=dtype)}).items():
            with kernels.kernel("native"):
                got = kernels.potentials(currents.requires_grad_(), constants)
            with kernels.kernel("loop"):
                expected = kernels.potentials(currents, constants)
            assert got.dtype == expected.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert got.stride() == expected.stride(), layout
            assert torch.equal(bits(got), bits(expected)), (layout, constants)
            with torch.no_grad():
                assert not kernels.potentials(currents, constants).requires_grad
            assert torch.equal((got >= THETA).to(dtype), kernels.fire(currents, constants)), layout


@pytest.mark.parametrize("kernel", ["loop", *FUSED])
def test_potentials_are_differentiable_as_the_recursion_under_autograd(kernel):
    for leak, hard, detach in SETTINGS:
        constants = neuron(Triangle(), leak, hard, detach)
        currents = random(6, 20).double().requires_grad_()
        v, potentials = torch.zeros(20, dtype=torch.float64), []
        for current in currents:
            u = leak * v + current
            s = spike(u - THETA, Triangle())
            s = s.detach() if detach else s
            v = u * (1 - s) if hard else u - THETA * s
            potentials.append(u)
        upstream = random(6, 20).double()
        (expected,) = torch.autograd.grad(torch.stack(potentials), currents, upstream)
        with kernels.kernel(kernel):
            got = kernels.potentials(currents, constants)
            torch.testing.assert_close(torch.autograd.grad(got, currents, upstream)[0], expected)
        torch.testing.assert_close(got, torch.stack(potentials))


@pytest.mark.parametrize("kernel", ["loop", *FUSED])
def test_potentials_keep_the_order_of_dimensions_and_repeat_no_step(kernel):
    with kernels.kernel(kernel):
        strides = {
            name: kernels.potentials(x, neuron(Triangle())).stride() for name, x in layouts(torch.float32).items()
        }
    assert strides["channels-last"] == strides["repeated, channels-last"] == (180, 60, 1, 15, 5)
    assert strides["repeated in time"] == (180, 60, 12, 3, 1)
    assert strides["every other neuron"] == (15, 1)


def test_the_kernel_for_potentials_is_picked_and_forced_as_that_for_firing(monkeypatch):
    used = []
    monkeypatch.setattr(native, "potentials", lambda currents, neuron: used.append("native"))
    monkeypatch.setattr(kernels.loop, "potentials", lambda currents, neuron: used.append("loop"))
    kernels.potentials(random(2, 3), neuron(Quartic()))
    for name in ("loop", "eager"):
        with kernels.kernel(name):
            kernels.potentials(random(2, 3), neuron(Quartic()))
    assert used == ["loop" if native.library() is None else "native", "loop", "loop"]
    with kernels.kernel("native"), pytest.raises(ValueError, match=r"^the compiled kernel does not take torch.float16"):
        kernels.potentials(random(2, 3, dtype=torch.float16), neuron(Triangle()))


@pytest.mark.parametrize("kernel", FUSED)
def test_bfloat16_gradients_are_rounded_once_and_ties_to_even(kernel):
    """One step and a triangle: weight · slope has 16 significant bits, half of which bfloat16 drops."""
    currents = torch.arange(-96, 224, dtype=torch.bfloat16)[None] / 128 + THETA
    weight = (1 + torch.arange(320) % 128 / 128).bfloat16()[None]
    exact = run(kernel, currents.float(), neuron(Triangle(), threshold=0.75), weight.float())[1]
    assert (exact.view(torch.int32) & 0xFFFF == 0x8000).sum() > 10  # ties
    assert torch.equal(run(kernel, currents, neuron(Triangle(), threshold=0.75), weight)[1], exact.bfloat16())


def test_the_layouts_exercise_both_sides_of_the_threshold():
    for layout, currents in layouts(torch.float32).items():
        if currents.numel() > 10:
            assert 0.05 < run("loop", currents, neuron(Triangle()), currents)[0].mean() < 0.95, layout


@pytest.mark.parametrize("kernel", FUSED)
@pytest.mark.parametrize("weight", ["sum", "channels-last", "every other step", "last step only"])
def test_gradients_arrive_in_any_layout(kernel, weight):
    currents = layouts(torch.float64)["repeated in time"]
    g = random(*currents.shape, dtype=torch.float64, seed=1)
    g = {
        "sum": torch.ones((), dtype=torch.float64).expand(currents.shape),
        "channels-last": g.flatten(0, 1).contiguous(memory_format=torch.channels_last).view_as(g),
        "every other step": torch.stack([g, -g], 1)[:, 0],
        "last step only": torch.cat([torch.zeros_like(g[1:]), g[:1]]),
    }[weight]
    constants = neuron(Sigmoid(), 0.5)
    torch.testing.assert_close(
        run(kernel, currents, constants, g)[1], run("loop", currents, constants, g.contiguous())[1]
    )


@pytest.mark.parametrize("kernel", ["loop", *FUSED])
def test_currents_are_left_as_they_were(kernel):
    currents, weight = random(5, 33), random(5, 33, seed=1)
    copies = currents.clone(), weight.clone()
    run(kernel, currents, neuron(StraightThrough()), weight)
    assert torch.equal(currents, copies[0])
    assert torch.equal(weight, copies[1])


SLOPES = [  # surrogate, its slope written again in numpy
    (Triangle(0.8), lambda d: np.maximum(0, 0.8 - np.abs(d)) / 0.64),
    (Sigmoid(3.0), lambda d: 3 / (2 + np.exp(3 * d) + np.exp(-3 * d))),
    (ArcTan(2.0), lambda d: 1 / (1 + (np.pi * d) ** 2)),
    (Rectangle(0.9), lambda d: np.where(np.abs(d) < 0.45, 1 / 0.9, 0)),
    (Exponential(0.3, 2.0), lambda d: 0.3 * np.exp(-2 * np.abs(d))),
    (Gaussian(0.5), lambda d: np.exp(-2 * d**2) / (0.5 * math.sqrt(2 * math.pi))),
    (StraightThrough(), np.ones_like),
]


def recursion(currents, weight, slope, leak, hard, detach):
    """Potentials, spikes and the gradient of Σ weight · spikes in numpy; slope of (u − θ)."""
    u, v = np.zeros_like(currents), np.zeros_like(currents[0])
    for t in range(len(u)):
        u[t] = leak * v + currents[t]
        v = np.where(u[t] >= THETA, 0, u[t]) if hard else np.where(u[t] >= THETA, u[t] - THETA, u[t])
    h, s = slope(u - THETA), (u >= THETA) * 1.0
    gradient, from_later = np.zeros_like(u), np.zeros_like(v)  # from_later: ∂L/∂v[t]
    for t in reversed(range(len(u))):
        through_reset = 0 if detach else h[t] * (u[t] if hard else THETA)
        gradient[t] = weight[t] * h[t] + from_later * ((1 - s[t] if hard else 1) - through_reset)
        from_later = leak * gradient[t]
    return u, s, gradient


@pytest.mark.parametrize(("surrogate", "slope"), [*SLOPES, (None, None)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kernel", ["loop", *FUSED])
def test_back_propagation_through_time_equals_a_recursion_in_numpy(kernel, surrogate, slope):
    currents, weight = random(6, 40, dtype=torch.float64), random(6, 40, dtype=torch.float64, seed=1)
    slopes = random(6, 40, dtype=torch.float64, seed=2).abs() if surrogate is None else None
    for leak, hard, detach in SETTINGS:
        u, s, expected = recursion(
            currents.numpy(), weight.numpy(), slope or (lambda d: slopes.numpy()), leak, hard, detach
        )
        constants = neuron(surrogate or Quartic(), leak, hard, detach)
        spikes, gradient = run(kernel, currents, constants, weight, slopes)
        np.testing.assert_array_equal(spikes.numpy(), s)
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-9, atol=1e-12)
        with kernels.kernel(kernel):
            np.testing.assert_allclose(kernels.potentials(currents, constants).numpy(), u, rtol=1e-12)


def second_derivatives(kernel, currents, constants, weight, probe, slopes=None):
    with kernels.kernel(kernel):
        leaf, upstream = currents.detach().requires_grad_(), weight.clone().requires_grad_()
        # a smooth function before the neuron, so that the second derivative has to travel on
        spikes = kernels.fire(leaf * leaf + leaf, constants, slopes)
        (first,) = torch.autograd.grad(spikes, leaf, upstream, create_graph=True)
        return first.detach(), *torch.autograd.grad((first * probe).sum(), (leaf, upstream))


@pytest.mark.parametrize("given", [False, True], ids=["surrogate", "slopes"])
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("kernel", FUSED)
def test_double_backward_of_the_fused_kernels_equals_that_of_the_loop(kernel, name, given):
    currents, weight, probe = (random(4, 31, dtype=torch.float64, seed=s) for s in range(3))
    slopes = SURROGATES[name]().slope(currents - THETA) if given else None
    for leak, hard, detach in SETTINGS:
        arguments = currents, neuron(SURROGATES[name](), leak, hard, detach), weight, probe, slopes
        for got, expected in zip(
            second_derivatives(kernel, *arguments), second_derivatives("loop", *arguments), strict=True
        ):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("given", [False, True], ids=["surrogate", "slopes"])
@pytest.mark.parametrize("kernel", ["loop", *FUSED])
def test_double_backward_agrees_with_differences_where_the_reset_is_detached(kernel, given):
    currents, weight, probe = (random(4, 31, dtype=torch.float64, seed=s) for s in range(3))
    slopes = random(4, 31, dtype=torch.float64, seed=3).abs() if given else None
    constants, h = neuron(ArcTan(), 0.5, detach=True), 1e-6
    assert (kernels.potentials(currents**2 + currents, constants) - THETA).abs().min() > 100 * h

    def second(x):
        return second_derivatives(kernel, x, constants, weight, probe, slopes)

    up, down = (second(currents + e)[0] for e in (h * probe, -h * probe))
    # Σ probe · (H · probe) along the direction probe, both ways
    expected = ((up - down) / (2 * h) * probe).sum()
    torch.testing.assert_close((second(currents)[1] * probe).sum(), expected, rtol=1e-6, atol=1e-6)


@needs_compiler
def test_the_compiled_kernel_is_picked_only_where_it_applies():
    currents = random(3, 4)
    assert kernels.pick(currents, Triangle()) == "native"
    assert kernels.pick(currents.bfloat16(), Gaussian()) == "native"
    assert kernels.pick(currents.half(), Triangle()) == "eager"
    assert kernels.pick(currents, Quartic()) == "eager"
    assert kernels.pick(currents, None) == "native"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_surrogate_or_type_unknown_to_the_compiled_kernel_works_all_the_same(dtype):
    currents, weight = random(4, 20, dtype=dtype), random(4, 20, dtype=dtype, seed=1)
    leaf = currents.clone().requires_grad_()
    spikes = kernels.fire(leaf, neuron(Quartic(), 0.5))
    expected, expected_gradient = run("loop", currents, neuron(Quartic(), 0.5), weight)
    assert torch.equal(spikes, expected)
    assert spikes.dtype == dtype
    torch.testing.assert_close(torch.autograd.grad(spikes, leaf, weight)[0], expected_gradient)


def test_forcing_a_kernel_nests_and_is_undone_after_an_exception():
    def picked():
        return kernels.pick(random(2, 2), Triangle())

    def fail_inside():
        with kernels.kernel("eager"):
            assert picked() == "eager"
            raise RuntimeError("inside")

    usual = picked()
    with kernels.kernel("loop"):
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
        assert picked() == "loop"
    assert picked() == usual
    with (
        pytest.raises(ValueError, match=r"^kernel must be one of loop, eager, native; got 'triton'"),
        kernels.kernel("triton"),
    ):
        pass
    assert picked() == usual


@pytest.fixture
def forget_library():
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.mark.usefixtures("forget_library")
@pytest.mark.parametrize("lack", ["no compiler", "forbidden", "compiler fails"])
def test_without_a_compiled_kernel_the_eager_one_takes_over(lack, monkeypatch, tmp_path):
    monkeypatch.setattr(native.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    if lack == "no compiler":
        monkeypatch.setattr(native.shutil, "which", lambda name: None)
    elif lack == "forbidden":
        monkeypatch.setenv("ROBUSTSPIKE_KERNEL", "eager")
    else:
        monkeypatch.setattr(native.shutil, "which", lambda name: "/bin/false")
    assert native.library() is None
    currents = random(3, 4)
    assert kernels.pick(currents, Triangle()) == "eager"
    with kernels.kernel("loop"):
        expected = LIF()(currents)
    assert torch.equal(LIF()(currents), expected)
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
@pytest.mark.usefixtures("forget_library")
def test_the_compiled_kernel_is_built_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(native.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    built = []
    build = native._build
    monkeypatch.setattr(native, "_build", lambda *arguments: built.append(arguments) or build(*arguments))
    assert isinstance(native.library(), ctypes.CDLL)
    tries = len(built)  # the first variant that this machine's compiler takes
    native.library.cache_clear()
    assert isinstance(native.library(), ctypes.CDLL)
    assert tries >= 1
    assert len(built) <= 2 * tries - 1
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".so"]


@pytest.mark.parametrize("kernel", FUSED)
def test_infinite_currents_and_nan_fire_as_in_the_loop(kernel):
    currents = torch.tensor([[math.inf, -math.inf, math.nan, 1e38], [1.0, 1.0, 1.0, 1e38]])
    spikes = run(kernel, currents, neuron(ArcTan()), torch.ones(2, 4))[0]
    assert torch.equal(spikes, run("loop", currents, neuron(ArcTan()), torch.ones(2, 4))[0])


@pytest.mark.parametrize("kernel", FUSED)
@pytest.mark.parametrize("name", SURROGATES)
def test_a_kernel_hides_no_nan_gradient(kernel, name):
    currents = torch.tensor([[math.nan, 0.5], [1.0, 1.0]])
    got, expected = (run(k, currents, neuron(SURROGATES[name]()), torch.ones(2, 2))[1] for k in (kernel, "loop"))
    assert (got.isnan() >= expected.isnan()).all()
    assert not got[:, 1].isnan().any()


@pytest.mark.parametrize(
    "kernel",
    [
        "eager",
        pytest.param("native", marks=needs_compiler),
    ],
)
def test_far_from_the_threshold_the_sigmoid_vanishes_alike(kernel):
    """Audits count exact zeros; they must not depend on the kernel."""
    currents, weight = torch.tensor([[-6.0, -3.0, 4.0, 6.0, 12.0]]), torch.ones(1, 5)
    got, expected = (run(k, currents, neuron(Sigmoid()), weight)[1] for k in (kernel, "loop"))
    assert torch.equal(got == 0, expected == 0)


@needs_compiler
def test_one_and_two_threads_give_the_same_numbers():
    currents, weight = random(3, 1000), random(3, 1000, seed=1)
    results = []
    for n in (1, 2):
        torch.set_num_threads(n)
        results.append(run("native", currents, neuron(Gaussian()), weight))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
