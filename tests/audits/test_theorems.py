"""Signal and noise of weight gradients against T, and what the record says of the three theorems."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests.conftest import InDouble, record_of, small_snn
from torch import nn

from robustspike.audits import theorems, two_layers
from robustspike.audits.signal import (
    TwoLayerClassifier,
    differing,
    jackknife,
    lasting,
    log_ratios_without_groups,
    signal_and_noise,
    steadiness,
    timed_part,
    weight_gradients,
)
from robustspike.data import Split
from robustspike.draws import Draws, sampling
from robustspike.gradients import BPTT, CBA, RGA
from robustspike.models import digits_cnn
from robustspike.results.audits import Steadiness, Theorems, WeightSignal
from robustspike.stand_ins import relu_network

FEW = {"networks": 10, "repeats": 2}


@pytest.fixture(autouse=True)
def fewer_settings(monkeypatch):
    """54 settings of theorem 4.4 in place of 162; tests/audits/test_two_layers.py walks them all."""
    monkeypatch.setattr(two_layers, "SIZES", (8,))
    monkeypatch.setattr(two_layers, "STEPS", (1, 2))


def images(n=6, classes=4):
    torch.manual_seed(0)
    return Split(torch.rand(n, 1, 8, 8), torch.arange(n) % classes)


def test_signal_and_noise_by_hand():
    found = signal_and_noise(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    assert found["sup"] == (4, 4)  # the mean is (2, 2), the deviations ∓(1, 2)
    assert found["l2"] == (8, 5)


def test_weight_gradients_against_a_network_built_with_another_number_of_steps():
    model, data = small_snn(time_steps=2).double(), images(3)
    weights = {"first": model.layers[0].weight, "last": model.head.weight}
    with lasting(model, 5):
        found = weight_gradients(model, data, weights, BPTT(), 0, 5)
    longer = small_snn(time_steps=5).double()
    longer.load_state_dict(model.state_dict())
    longer.eval()
    shares = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64) / 3
    for i in range(3):
        z = longer(data.images[i : i + 1].double())[0]
        y = int(data.labels[i])
        for quantity, target in ((0, z[y]), (1, -z.log_softmax(0)[y])):
            both = torch.autograd.grad(target, (longer.layers[0].weight, longer.head.weight), retain_graph=True)
            for name, g in zip(("first", "last"), both, strict=True):
                torch.testing.assert_close(found[name].by_quantity[quantity][i], g.flatten(), rtol=1e-9, atol=1e-12)
    z = longer(data.images.double())[:, :3]
    (mean,) = torch.autograd.grad((z * shares).sum(1).mean(), longer.head.weight)
    torch.testing.assert_close(found["last"].expected, mean.flatten(), rtol=1e-9, atol=1e-12)


def test_jackknife_of_a_mean_is_its_standard_error():
    torch.manual_seed(0)
    sample = torch.randn(12, dtype=torch.float64)
    without = torch.stack([torch.cat([sample[:i], sample[i + 1 :]]).mean() for i in range(12)])
    assert jackknife(without) == pytest.approx(float(sample.std() / 12**0.5), rel=1e-4)
    assert jackknife(torch.tensor([1.0, torch.nan])) is None


def test_groups_are_left_out_one_at_a_time():
    torch.manual_seed(0)
    rows = torch.randn(45, 3, dtype=torch.float64) + 1
    found = log_ratios_without_groups(rows, "l2")
    assert len(found) == 20
    kept = [i for i in range(45) if i % 20 != 7]
    signal, noise = signal_and_noise(rows[kept])["l2"]
    assert float(found[7]) == pytest.approx(math.log(signal / noise), rel=1e-6)


def test_distributions_are_told_apart_by_place_and_by_spread():
    torch.manual_seed(0)
    rows = torch.randn(100, 200, dtype=torch.float64)
    assert differing(rows, rows) < 0.12
    assert differing(rows, 3 * rows) > 0.9
    assert differing(rows, rows + 2) > 0.9
    assert differing(rows * 0, rows * 0) is None
    assert differing(rows[:6], rows[:6]) is None
    half = torch.cat([rows[:, :100], torch.zeros(100, 100, dtype=torch.float64)], 1)
    assert differing(half, 3 * half) > 0.9  # entries that are always 0 do not count


def test_the_same_gradients_at_two_lengths_are_alike_as_means_and_not_as_sums():
    torch.manual_seed(0)
    rows = torch.rand(100, 50, dtype=torch.float64)  # all positive, so that −δ would differ
    found = steadiness("w", (1, 4), [rows, rows], [0.0, 0.0])
    assert found.mean_differs[0] < 0.15
    assert found.sum_differs[0] > 0.9
    assert max(found.same_differs) < 0.15


def test_a_poisson_encoders_draws_belong_to_the_sample():
    model, data = small_snn(time_steps=3, encoder="poisson").double(), images(2)
    found = weight_gradients(model, data, {"w": model.head.weight}, BPTT(), 3, 3)
    for i in range(2):
        with sampling(Draws.of(3, torch.tensor([i])).fork("theorems").fork("encoder")):
            z = model.eval()(data.images[i : i + 1].double())
        (g,) = torch.autograd.grad(z[0, data.labels[i]], model.head.weight)
        torch.testing.assert_close(found["w"].by_quantity[0][i], g.flatten())


def test_noise_without_signal_has_the_ratio_that_the_note_says():
    torch.manual_seed(0)
    ratios = [(lambda pair: pair[0] / pair[1])(signal_and_noise(torch.randn(10, 400))["l2"]) for _ in range(50)]
    assert np.mean(ratios) == pytest.approx(1 / 9, rel=0.05)


def test_two_layers_see_the_same_first_steps_at_every_length():
    """Extending T adds steps to the same spikes: the mean of spikes over the first two steps is found again."""
    network = TwoLayerClassifier(64, 16, 3, seed=0).eval()
    x, streams = images(4).images, Draws.of(0, torch.arange(4))
    trains = {}
    for steps in (2, 5):
        with lasting(network, steps), sampling(streams):
            trains[steps] = network.encoder(x.flatten(1).double())
    assert torch.equal(trains[2], trains[5][:2])
    with lasting(network, 5), sampling(streams):
        logits = network(x)
    assert logits.shape == (4, 3)
    assert set((5 * logits).round(decimals=9).unique().tolist()) <= {0, 1, 2, 3, 4, 5}
    assert network.encoder.time_steps == 1


def test_the_encoder_comes_back_also_after_an_error():
    model = digits_cnn(time_steps=3, encoder="phase", phases=4)
    encoder = model.encoder

    def interrupted():
        with lasting(model, 6):
            assert (model.encoder.time_steps, model.encoder.phases) == (6, 4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert model.encoder is encoder


@pytest.mark.parametrize("encoder", ["direct", "poisson", "phase"])
def test_a_network_of_ours_is_run_with_other_numbers_of_steps(encoder):
    found = theorems(small_snn(encoder=encoder), images(4), time_steps=(1, 3), **FEW)
    assert found.network == "the network itself"
    assert {one.weight for one in found.signals} == {"layers.0.weight", "head.weight"}
    assert len(found.signals) == 2 * 2 * 2
    assert all(one.time_steps == (1, 3) for one in found.signals)
    assert found.gradients == 3 * 4 * 2


def test_event_frames_are_cut_to_their_first_steps():
    torch.manual_seed(0)
    model = small_snn(time_steps=3, encoder="frames").double()
    data = Split(torch.rand(4, 3, 1, 8, 8), torch.arange(4))
    found = theorems(model, data, time_steps=(1, 2, 3, 4), **FEW)
    assert found.signals[0].time_steps == (1, 2, 3)
    only = Split(data.images[:, :2].contiguous(), data.labels)
    shorter = small_snn(time_steps=2, encoder="frames").double()
    shorter.load_state_dict(model.state_dict())
    two = theorems(shorter, only, time_steps=(1, 2), **FEW)
    assert two.signals[0].signal == found.signals[0].signal[:2]


def test_other_networks_are_stood_in_for_by_two_layers():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    learned = small_snn(neuron="dlif")
    assert timed_part(linear) is timed_part(learned) is None
    one, other = (theorems(model, images(4), time_steps=(1, 2), **FEW) for model in (linear, learned))
    assert one.signals == other.signals
    assert "two random layers" in one.answer()
    assert theorems(linear, images(4), time_steps=(1, 2), seed=1, **FEW).signals != one.signals


def test_a_network_inside_another_is_found():
    inner, data = small_snn(), images(4)
    wrapped = theorems(InDouble(inner), data, time_steps=(1, 2), **FEW)
    assert [one.signal for one in wrapped.signals] == [
        one.signal for one in theorems(inner.double(), data, time_steps=(1, 2), **FEW).signals
    ]
    relu = theorems(relu_network(small_snn()), data, time_steps=(1, 2), **FEW)
    assert "nothing depends on T" in relu.answer()


def test_covariance_is_zero_where_all_samples_have_one_label():
    one = Split(images(6).images, torch.full((6,), 2))
    found = theorems(small_snn().double(), one, time_steps=(1, 2), **FEW)
    assert all(share < 1e-9 for each in found.steadiness for share in each.covariance)
    mixed = theorems(small_snn().double(), images(6), time_steps=(1, 2), **FEW)
    assert all(share > 0.01 for each in mixed.steadiness for share in each.covariance)


def test_the_estimator_is_used_and_one_without_time_refused():
    model, data = small_snn(time_steps=3), images(4)
    own, other = (theorems(model, data, time_steps=(1, 3), estimator=e, **FEW) for e in (None, RGA()))
    assert own.signals[0].signal != other.signals[0].signal
    assert "RGA" in other.under
    with pytest.raises(ValueError, match="no time steps to vary"):
        theorems(model, data, estimator=CBA(), **FEW)


def test_it_repeats_whatever_the_batch_and_leaves_the_model_as_it_was():
    model, heard = small_snn(), []
    model.head.bias.requires_grad_(False)
    before, encoder = record_of(model), model.encoder
    one = theorems(model, images(5), time_steps=(1, 2), watch=heard.append, **FEW)
    other = theorems(model, images(5), time_steps=(1, 2), batch_size=2, **FEW)
    assert one.model_copy(update={"seconds": 0}) == other.model_copy(update={"seconds": 0})
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)

    def ends(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        theorems(model, images(5), time_steps=(1, 2), watch=ends, **FEW)
    assert record_of(model) == before
    assert model.encoder is encoder


def test_it_survives_json():
    found = theorems(small_snn(), images(9), time_steps=(1, 2), **FEW)
    assert Theorems.model_validate_json(found.model_dump_json()) == found
    assert len(found.model_dump_json()) < 100_000


def test_gradients_that_vanish_are_said_to():
    model = small_snn(threshold=50.0)  # no neuron comes near: its triangle is 0 everywhere
    found = theorems(model, images(5), time_steps=(1, 2), **FEW)
    first = [one for one in found.signals if one.weight == "layers.0.weight"]
    assert all(one.snr() == [None, None] for one in first)
    assert all(one.steps() == (0, 0, 0) for one in first)
    assert Theorems.model_validate_json(found.model_dump_json()) == found
    assert found.views()
    assert "vanish" in found.answer()


def signal(**changes):
    fields = {
        "weight": "w", "quantity": "∇ logit of the true class", "norm": "sup", "time_steps": (1, 2, 4),
        "signal": (1.0, 2.0, 1.0), "noise": (10.0, 5.0, 5.0), "error": (0.1, 0.1, None), "step_error": (0.1, 0.3),
    }  # fmt: skip
    return WeightSignal(**fields | changes)


def test_a_signal_by_hand():
    one = signal()
    assert one.snr() == pytest.approx([0.1, 0.4, 0.2])
    assert one.logs() == pytest.approx([math.log(4), -math.log(2)])
    assert one.steps() == (2, 1, 1)  # ln 2 = 0.69 > 2·0.3
    assert signal(step_error=(0.1, 0.4)).steps() == (2, 1, 0)
    assert signal(step_error=(0.1, None)).steps() == (2, 1, 0)
    assert one.larger_signals(as_sum=False) == (2, 1)
    assert one.larger_signals(as_sum=True) == (2, 2)  # 1, 8, 16
    assert signal(signal=(1.0, 0.3, 1.0)).larger_signals(as_sum=True) == (2, 2)  # 1, 1.2, 16
    assert one.noise_ratios(as_sum=False) == [0.5, 1.0]
    assert one.noise_ratios(as_sum=True) == [2.0, 4.0]
    assert not one.timeless
    assert signal(signal=(1.0, 0.0, 1.0)).snr()[1] is None
    assert signal(signal=(1.0, 0.0, 1.0)).steps() == (0, 0, 0)


def by_hand():
    """Two weights of pencil, all else measured."""
    found = theorems(small_snn(), images(4), time_steps=(1, 2), **FEW)
    signals = tuple(
        signal(weight=name, quantity=quantity, norm=norm)
        for name in ("first", "last")
        for quantity in ("∇ logit of the true class", "∇ cross-entropy")
        for norm in ("sup", "l2")
    )
    steady = Steadiness(
        weight="first", time_steps=(1, 2, 4), covariance=(0.1, 0.2, 0.3), mean_differs=(0.25, None),
        sum_differs=(0.75, 1.0), same_differs=(0.0, 0.04, 0.08),
    )  # fmt: skip
    return found.model_copy(update={"signals": signals, "steadiness": (steady,)})


def test_what_a_record_says_and_shows_is_what_it_holds():
    found = by_hand()
    assert found.steps("sup") == found.steps("l2", "entropy") == (4, 2, 2)
    assert found.differing() == pytest.approx((0.25, 0.875, 0.04))
    text = found.answer()
    assert "holds in 2 of 4 steps of T on the network itself; in 2 it falls by more than two standard errors" in text
    assert "tell 25 % of the entries apart" in text
    assert "88 %, and their noise changes by a factor of 2 to 4; at the same T: 4 %" in text
    failing = [one for one in found.bounds if one.fails()]
    fewer = sum(one.k_s < one.k_w1 for one in failing)
    assert f"fails at {len(failing)} of 54 settings as eq. 13 counts, {fewer} of them with fewer spikes" in text
    claims, sup, l2, table, bars, sparse, dense, where, scatter = found.views()
    assert claims.rows[0][2] == "2 of 4 steps; surely falls in 2"
    assert [line.label for line in sup.lines] == [
        f"{name}: {quantity}"
        for name in ("first", "last")
        for quantity in ("∇ logit of the true class", "∇ cross-entropy")
    ]
    assert sup.lines[0].y == pytest.approx((0.1, 0.4, 0.2))
    assert sup.lines[0].high[0] == pytest.approx(0.1 * math.exp(0.2))
    assert l2.lines[-1].y == (1 / 3, 1 / 3)
    assert len(table.rows) == 8 * 3
    assert bars.series["∇w₁"][0] == pytest.approx(found.trails[0].correlation("w1"))
    assert sparse.lines[0].x == tuple(100 * share for share in found.trails[0].s)
    assert dense.lines[1].y == tuple(100 * share for share in found.trails[1].w2)
    assert [int(row[1]) for row in where.rows] == [18, 18, 18]
    assert sum(int(row[2]) for row in where.rows) == len(failing)
    assert scatter.lines[0].points
    assert scatter.lines[0].y == tuple(one.weight for one in found.bounds)
    assert scatter.lines[0].x == tuple(one.claimed() for one in found.bounds)
    assert scatter.lines[2].dashed
    (headlines,) = Theorems.compared({"a": found, "b": found})
    assert [row[0] for row in headlines.rows] == ["a", "b"]


def test_the_assumption_of_equal_distributions_makes_both_ratios_equal():
    """δ at two T with the same values in another order is distributed alike: every SNR is the same to the last digit."""
    torch.manual_seed(0)
    rows = torch.randn(8, 5, dtype=torch.float64)
    one, other = (signal_and_noise(each) for each in (rows, rows[torch.randperm(8)]))
    for norm in ("sup", "l2"):
        assert one[norm] == pytest.approx(other[norm], rel=1e-12)


def test_lemma_b_1_fails_where_later_steps_pull_back():
    """δ = 1 and δ_T₂ = −½ for every sample: nothing vanishes or explodes, h and g do not covary, and |E δ| halves."""
    before, later = torch.ones(4, 1), torch.full((4, 1), -0.5)
    assert signal_and_noise(before + later)["sup"][0] < signal_and_noise(before)["sup"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 1}, "at least two samples, got 1"),
        ({"time_steps": ()}, "ascending order, got \\[\\]"),
        ({"time_steps": (0, 1)}, "positive"),
        ({"time_steps": (2, 1)}, "ascending"),
        ({"networks": 1}, "≥ 2, got 1"),
        ({"repeats": 1}, "≥ 2"),
    ],
)
def test_bad_input_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        theorems(small_snn(), images(4), **{**FEW, **options})


def test_labels_without_a_class_are_refused():
    with pytest.raises(ValueError, match="only 4 classes"):
        theorems(small_snn(), images(6, classes=6), **FEW)


def test_scipys_tests_are_the_ones_meant():
    torch.manual_seed(0)
    rows = torch.randn(20, 1, dtype=torch.float64)
    a, b = rows[::2, 0].numpy(), (5 * rows)[1::2, 0].numpy()
    expected = min(stats.ks_2samp(a, b).pvalue, stats.levene(a, b).pvalue) < 0.025
    assert differing(rows, 5 * rows) == float(expected)
