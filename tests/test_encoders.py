"""Encoders: bits and rates by hand, gradients, and what a network without time receives."""

import pytest
import torch
from tests.conftest import small_snn

from robustspike.draws import Draws, sampling
from robustspike.encoders import ENCODERS, Direct, Frames, Phase, Poisson, presenting


def gradient(encoder, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(encoder(leaf).sum(), leaf)[0]


def test_direct_repeats_the_image_without_a_copy():
    x = torch.rand(2, 3, 4, 4)
    x_seq = Direct(5)(x)
    assert x_seq.shape == (5, 2, 3, 4, 4)
    assert x_seq.stride(0) == 0
    assert x_seq.data_ptr() == x.data_ptr()
    assert torch.equal(x_seq, torch.stack([x] * 5))
    assert torch.equal(gradient(Direct(5), x), torch.full_like(x, 5))


def test_poisson_spikes_with_the_probability_of_the_pixel():
    x = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).expand(2000, 5)
    with sampling(Draws.of(0, torch.arange(2000))):
        spikes = Poisson(10)(x)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    rate, p = spikes.mean((0, 1)), x[0]
    assert rate[0] == 0
    assert rate[-1] == 1
    assert ((rate - p).abs() <= 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_poisson_gradient_is_one_for_every_step():
    assert torch.equal(gradient(Poisson(7), torch.rand(2, 3)), torch.full((2, 3), 7.0))


def test_poisson_draws_belong_to_the_samples():
    x, draws, encoder = torch.rand(4, 3, 2, 2), Draws.of(0, torch.arange(4)), Poisson(6)
    with sampling(draws):
        whole = encoder(x)
    order = torch.tensor([3, 1])
    with sampling(draws[order]):
        assert torch.equal(encoder(x[order]), whole[:, order])
    with sampling(draws.fork(1)):
        assert not torch.equal(encoder(x), whole)


def test_poisson_without_streams_follows_the_global_generator():
    x, encoder = torch.rand(4, 3), Poisson(6)
    torch.manual_seed(0)
    first = encoder(x)
    assert not torch.equal(encoder(x), first)
    torch.manual_seed(0)
    assert torch.equal(encoder(x), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_poisson_keeps_its_rate_in_short_types(dtype):
    x = torch.tensor([0.5, 1.0], dtype=dtype).expand(1000, 2)
    with sampling(Draws.of(0, torch.arange(1000))):
        rate = Poisson(10)(x).double().mean((0, 1))
    assert rate[0].item() == pytest.approx(0.5, abs=0.03)
    assert rate[1] == 1


@pytest.mark.parametrize(
    ("pixel", "bits"),
    [
        (0.0, [0, 0, 0, 0, 0, 0, 0, 0]),
        (1.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (128 / 255, [1, 0, 0, 0, 0, 0, 0, 0]),
        (127 / 255, [0, 1, 1, 1, 1, 1, 1, 1]),
        (1 / 255, [0, 0, 0, 0, 0, 0, 0, 1]),
        (0xB5 / 255, [1, 0, 1, 1, 0, 1, 0, 1]),
        (0.3, [0, 1, 0, 0, 1, 1, 0, 0]),  # 0.3 · 255 = 76.5, to even: 76 = 64 + 8 + 4
    ],
)
def test_phase_sends_the_bits_of_the_pixel_most_significant_first(pixel, bits):
    # step t carries bit_t · 2^−t in the first period; steps 9 and 10 start the next one
    sent = Phase(10)(torch.tensor([[pixel]], dtype=torch.float64)).flatten().tolist()
    assert sent == [bit * 2.0**-t for t, bit in enumerate(bits, 1)] + [bits[0] / 2, bits[1] / 4]


@pytest.mark.parametrize("phases", [1, 3, 8])
def test_one_period_of_phase_sums_to_q_over_two_to_the_k_and_has_that_gradient(phases):
    q = torch.arange(2**phases, dtype=torch.float64)[:, None]
    x, encoder = q / (2**phases - 1), Phase(phases, phases)
    assert torch.equal(encoder(x).sum(0), q / 2**phases)
    assert torch.equal(gradient(encoder, x), torch.full_like(x, 1 - 2.0**-phases))


def test_phase_saturates_outside_the_box():
    """A finite-difference step (SR: x + h·d) may leave [0, 1]; white must not turn black there, nor black white."""
    sent = Phase(8)(torch.tensor([[-0.01, 0.0, 1.0, 1.01]])).sum(0)
    assert sent[0, 0] == sent[0, 1]
    assert sent[0, 3] == sent[0, 2]


@pytest.mark.parametrize("phases", [0, 17])
def test_phase_refuses_other_numbers_of_bits(phases):
    with pytest.raises(ValueError, match=r"^phases must lie in 1 … 16"):
        Phase(8, phases)


def test_frames_put_time_first():
    x = torch.rand(2, 3, 1, 4, 4)
    assert torch.equal(Frames(3)(x)[1], x[:, 1])
    assert torch.equal(gradient(Frames(3), x), torch.ones_like(x))


@pytest.mark.parametrize("shape", [(2, 4, 1, 4, 4), (2, 3)])
def test_frames_refuse_the_wrong_shape_and_say_the_right_one(shape):
    with pytest.raises(ValueError, match=r"^frames must be \[N, T, \.\.\.\] with T = 3, got \[2, "):
        Frames(3)(torch.rand(shape))


@pytest.mark.parametrize("name", ENCODERS)
def test_rate_is_the_time_average_of_what_the_encoder_sends(name):
    time_steps = 16
    x = torch.rand(200, time_steps, 3) if name == "frames" else torch.rand(200, 3)
    encoder = ENCODERS[name](time_steps)
    with sampling(Draws.of(0, torch.arange(200))):
        sent = encoder(x).mean(0)
    tolerance = {"poisson": 6 * 0.125, "phase": 2.0**-8 / 8, "direct": 1e-6, "frames": 1e-6}[name]
    assert encoder.rate(x).shape == (200, 3)
    torch.testing.assert_close(encoder.rate(x), sent, rtol=0, atol=tolerance)
    assert (encoder.rate(x) - sent).mean().abs() < 0.02


@pytest.mark.parametrize("name", ENCODERS)
def test_only_poisson_is_stochastic(name):
    x = torch.rand(2, 4, 3)
    encoder = ENCODERS[name](4)
    assert encoder.stochastic == (name == "poisson") == (not torch.equal(encoder(x), encoder(x)))


# Codes in place of images


@pytest.mark.parametrize("name", ["direct", "poisson", "phase"])
def test_presenting_the_code_of_images_gives_the_logits_of_the_images(name):
    model, x = small_snn(time_steps=4, encoder=name).double().eval(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    with sampling(Draws.of(0, torch.arange(3))):
        expected, code = model(x), model.encoder(x)
    with presenting(model, 4):
        torch.testing.assert_close(model(code.transpose(0, 1)), expected, rtol=0, atol=1e-12)


def test_fewer_steps_may_be_presented_and_others_than_said_are_refused():
    model, x = small_snn(time_steps=4).eval(), torch.rand(3, 1, 8, 8)
    short = small_snn(time_steps=2).eval()
    short.load_state_dict(model.state_dict())
    frames = x[:, None].expand(3, 2, 1, 8, 8)
    with presenting(model, 2):
        torch.testing.assert_close(model(frames), short(x))
        with pytest.raises(ValueError, match="takes inputs"):
            model(x)
        with pytest.raises(ValueError, match="with T = 2, got"):
            model(frames.repeat(1, 2, 1, 1, 1))


def test_the_encoder_is_back_after_the_block_and_after_an_exception():
    model = small_snn()
    encoder, modules = model.encoder, [name for name, _ in model.named_modules()]
    with presenting(model, 3):
        assert isinstance(model.encoder, Frames)
        assert model.encoder.time_steps == 3
        with presenting(model, 2):
            assert model.encoder.time_steps == 2
        assert model.encoder.time_steps == 3
    assert model.encoder is encoder
    with pytest.raises(RuntimeError, match="on purpose"), presenting(model, 3):
        raise RuntimeError("on purpose")
    assert model.encoder is encoder
    assert [name for name, _ in model.named_modules()] == modules
