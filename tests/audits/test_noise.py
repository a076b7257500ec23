"""Noise against attack: a model whose accuracy is known at every ε, plain loops, and records by hand."""

import pytest
import torch
from scipy import stats
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.attacks import PGD, EncodedPGD, Transfer, UniformNoise, WorstOf, fgsm
from robustspike.audits import noise
from robustspike.audits.noise import at_radius
from robustspike.balls import L2, Linf
from robustspike.data import Split
from robustspike.draws import Draws
from robustspike.gradients import RGA
from robustspike.results.audits import AtNoise, Noise
from robustspike.results.rates import rate


class Threshold(nn.Module):
    """Class 1 where the sum of the pixels exceeds half their number."""

    def __init__(self, pixels=16):
        super().__init__()
        self.pixels, self.scale = pixels, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        z = self.scale * (x.double().flatten(1).sum(1) - self.pixels / 2)
        return torch.stack([-z, z], 1)


def levels(*margins, pixels=16):
    """Images of class 1 whose sum exceeds half by margin·pixels: an attack needs ε > margin, noise far more."""
    images = torch.tensor(margins)[:, None].expand(-1, pixels) + 0.5
    return Split(images.contiguous(), torch.ones(len(margins), dtype=torch.int64))


def images(n=8):
    torch.manual_seed(0)
    return Split(torch.rand(n, 1, 8, 8), torch.arange(n) % 4)


def test_an_attack_moves_every_pixel_and_noise_only_their_mean():
    """Margins 0.01, 0.05, 0.1 and 0.2 and one wrong: the attack at ε breaks exactly the margins below ε."""
    data = levels(0.01, 0.05, 0.1, 0.2, -0.1)
    found = noise(Threshold(), data, eps=0.07, radii=[0.03, 0.07, 0.15], tries=20)
    assert found.correct == (0, 1, 2, 3)
    assert [at.attacked for at in found.radii] == [(0,), (0, 1), (0, 1, 2)]
    assert [found.under_attack(at).value for at in found.radii] == [3 / 5, 2 / 5, 1 / 5]
    # the mean of 16 uniform draws has standard deviation ε/√48, below 0.022 here
    assert [at.right[3] for at in found.radii] == [20, 20, 20]
    assert 0 < found.radii[2].right[0] < 20
    assert "observation 1" in found.answer()


def test_noise_against_a_plain_loop():
    model, data = small_snn().double(), images(4)
    found = noise(model, data, eps=0.2, radii=[0.2, 0.9], tries=6, seed=3, attack=fgsm(Linf(0.1)))
    model.eval()
    for i in range(4):
        streams = Draws.of(3, torch.tensor([i])).fork("noise").fork("noise")
        for at in found.radii:
            right = 0
            for k in range(6):
                u = streams.fork(k).uniform((1, 8, 8), torch.float64)[0]
                x = (data.images[i].double() + at.eps * (2 * u - 1)).clamp(0, 1)
                right += int(model(x[None])[0].argmax()) == int(data.labels[i])
            assert at.right[i] == right


def test_the_attack_is_made_at_every_radius():
    model, data = small_snn().double(), images(6)
    own = PGD(Linf(0.05), steps=2, step_size=0.02, estimator=RGA(), early_stop=True)
    by_attack, by_function = (
        noise(model, data, eps=0.05, radii=[0.05, 0.3], tries=1, attack=attack)
        for attack in (
            own,
            lambda eps: PGD(Linf(eps), steps=2, step_size=0.4 * eps, estimator=RGA(), early_stop=True),
        )
    )
    assert by_attack.radii == by_function.radii
    assert by_attack.gradients == by_function.gradients > 0
    assert "RGA" in by_attack.under
    assert "ε = 0.05" in by_attack.under


def test_an_attack_in_another_ball():
    assert at_radius(PGD(L2(0.5)), 1.5) == PGD(L2(1.5))
    assert at_radius(fgsm(Linf(0.1)), 0.2) == fgsm(Linf(0.2))
    both = at_radius(WorstOf((PGD(Linf(0.1)), UniformNoise(Linf(0.1), 3))), 0.2)
    assert both == WorstOf((PGD(Linf(0.2)), UniformNoise(Linf(0.2), 3)))
    source = nn.Linear(2, 2)
    assert at_radius(Transfer(PGD(Linf(0.1)), source), 0.2) == Transfer(PGD(Linf(0.2)), source)


def test_noise_takes_the_ball_of_the_attack():
    data = levels(0.05, 0.3)
    found = noise(Threshold(), data, eps=0.1, radii=[1.0, 2.0], tries=4, attack=PGD(L2(1.0), steps=5))
    assert found.norm == "L2"
    # ‖δ‖₂ = 1 moves the sum by 4 at most, its mean by 0.25; 2 by 0.5
    assert [at.attacked for at in found.radii] == [(0,), (0, 1)]


def test_gradients_are_counted_on_samples_that_are_right():
    data = levels(0.05, 0.2, 0.3, -0.1)
    found = noise(Threshold(), data, radii=[0.1, 0.2], tries=1, attack=fgsm(Linf(0.1)), batch_size=1)
    assert found.gradients == 3 * 2


def test_default_radii():
    found = noise(Threshold(), levels(0.3), tries=1)
    assert [at.eps * 255 / 8 for at in found.radii] == pytest.approx([0.5, 1, 2, 4, 8, 16, 255 / 8])
    assert [at.attacked is not None for at in found.radii] == [True] * 4 + [False] * 3
    assert [at.eps for at in noise(Threshold(), levels(0.3), eps=0.5, tries=1).radii] == [0.25, 0.5, 1.0]


def test_figures_do_not_depend_on_the_batch_and_repeat_under_one_seed():
    model, data = small_snn(time_steps=4).double(), images(7)
    options = {"radii": [0.1, 0.6], "tries": 4, "attack": fgsm(Linf(0.1))}
    one, other, again, else_ = (
        noise(model, data, batch_size=size, seed=seed, **options) for size, seed in ((7, 0), (3, 0), (7, 0), (7, 1))
    )
    assert one.radii == other.radii == again.radii
    assert one.correct == other.correct
    assert one.radii != else_.radii


def test_a_stochastic_model_is_judged_by_ten_calls():
    found = noise(small_snn(encoder="poisson"), images(4), radii=[0.3], tries=2, attack=fgsm(Linf(0.1)))
    assert "the majority of 10 calls" in found.under
    assert all(0 <= right <= 2 for right in found.radii[0].right)


def test_the_model_is_left_as_it_was_also_where_the_watch_ends_it():
    model, heard = small_snn(), []
    before = record_of(model)
    noise(model, images(4), radii=[0.1, 0.2], tries=1, batch_size=2, attack=fgsm(Linf(0.1)), watch=heard.append)
    assert heard == [0.25, 0.5, 0.75, 1.0]

    def ends(_share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        noise(model, images(4), radii=[0.1], tries=1, attack=fgsm(Linf(0.1)), watch=ends)
    assert record_of(model) == before


def by_hand(rights, attacked, n=10, correct=tuple(range(9)), **changes):
    """``rights``: how many of ten samples are right under both of two draws; the others under none."""
    radii = tuple(
        AtNoise(eps=eps, right=(2,) * right + (0,) * (n - right), attacked=broken)
        for eps, right, broken in zip((0.1, 0.2, 0.4), rights, attacked, strict=True)
    )
    fields = {
        "n": n, "seed": 0, "under": "a pencil", "eps": 0.1, "tries": 2, "classes": 2, "norm": "Linf", "correct": correct,
        "radii": radii,
    }  # fmt: skip
    return Noise(**fields | changes)


def test_how_much_larger_noise_must_be_by_hand():
    found = by_hand((9, 8, 4), ((0, 1), (0, 1, 2), None))  # attack: 7, then 6 of 10
    first, second, third = found.radii
    assert found.as_harmful(first) == pytest.approx(0.2 + 0.2 * 1 / 4)  # 0.8 to 0.4 passes 0.7 after a quarter
    assert found.as_harmful(second) == pytest.approx(0.3)
    assert found.as_harmful(third) is None
    assert "at ε = 0.25, 2.5 times as large, as in Liu's observation 1" in found.answer()
    assert found.headline()["noise as harmful at"] == "2.5 ε"
    never = by_hand((9, 9, 9), ((0, 1), (0, 1, 2), None))
    assert never.as_harmful(never.radii[0]) is None
    assert "No noise up to ε = 0.4, 4 times as large" in never.answer()
    assert never.headline()["noise as harmful at"] == "> 4 ε"


def test_what_speaks_against_the_attack_is_said():
    weak = by_hand((6, 5, 4), ((0, 1), (0, 1, 2), None))
    assert weak.as_harmful(weak.radii[0]) == pytest.approx(0.1 * 2 / 3)
    assert weak.missed(weak.radii[0]) == 3
    assert "Of the 9 samples that are right without either, 3 are broken by a draw of noise" in weak.answer()
    assert "gradients are masked or its steps too few" in weak.answer()
    near = by_hand((8, 5, 4), ((0, 1), (0, 1, 2), None))
    assert "against Liu's observation 1" in near.answer()
    blind = by_hand((9, 9, 9), ((), (), None))
    assert "The attack lowers nothing" in blind.answer()
    rising = by_hand((9, 9, 9), ((0, 1, 2), (0,), None))
    assert "rises from 60.0" in rising.answer()
    assert "rises" not in weak.answer()
    chance = by_hand((9, 9, 9), ((), (), None), correct=(0, 1, 2, 3, 4))
    assert "no better than chance" in chance.answer()
    assert "chance" not in by_hand((9, 9, 9), ((), (), None), classes=10).answer()


def test_a_tie_is_no_evidence_of_masking():
    """Noise breaks the two samples that the attack breaks, and no other: as much harm, and nothing missed."""
    at = AtNoise(eps=0.1, right=(0, 0) + (2,) * 7 + (0,), attacked=(0, 1))
    tie = by_hand((9, 9, 9), ((), (), ()), radii=(at,))
    assert tie.as_harmful(at) == pytest.approx(0.1)
    assert tie.missed(at) == 0
    assert "masked" not in tie.answer()
    assert "not told apart" in tie.answer()


def test_a_sample_that_noise_breaks_and_the_attack_does_not_is_evidence_whatever_the_means():
    """Of samples 0 to 8 the attack breaks 0, 1 and 2, one of two draws 3; 9 is wrong without either and counts not."""
    at = AtNoise(eps=0.1, right=(2, 2, 2, 1) + (2,) * 5 + (0,), attacked=(0, 1, 2))
    found = by_hand((9, 9, 9), ((), (), ()), radii=(at,))
    assert found.as_harmful(at) is None
    assert found.missed(at) == 1
    assert "1 are broken by a draw of noise" in found.answer()
    assert found.missed(at.model_copy(update={"attacked": None})) == 0


def test_the_interval_of_a_mean_is_the_binomial_one_where_samples_are_right_or_wrong():
    found = by_hand((9, 8, 0), ((0,), (0,), None))
    assert found.mean(found.radii[0]).low == pytest.approx(rate(9, 10).low)
    assert found.mean(found.radii[0]).high == pytest.approx(rate(9, 10).high)
    assert (found.mean(found.radii[2]).low, found.mean(found.radii[2]).value) == (0, 0)
    mixed = found.model_copy(update={"radii": (AtNoise(eps=0.1, right=(1,) * 5 + (2,) * 5, attacked=()),)})
    mean = mixed.mean(mixed.radii[0])
    assert mean.value == 0.75
    assert mean.low == pytest.approx(stats.beta.ppf(0.025, 7.5, 3.5))
    assert mean.high == pytest.approx(stats.beta.ppf(0.975, 8.5, 2.5))
    assert mixed.worst(mixed.radii[0]).value == 0.5


def test_what_a_record_shows_is_what_it_holds():
    found = by_hand((9, 8, 4), ((0, 1), (0, 1, 2), None))
    table, chart = found.views()
    assert table.rows[0] == ("0.1", str(rate(9, 10)), str(rate(9, 10)), str(rate(7, 10)), "0.25 (2.5 ε)")
    assert table.rows[2][3:] == ("–", "–")
    mean, every, attacked, clean = chart.lines
    assert mean.y == every.y == (90, 80, 40)
    assert attacked.x == (0.1, 0.2)
    assert attacked.y == (70, 60)
    assert attacked.low[0] == pytest.approx(100 * rate(7, 10).low)
    assert clean.y == (90, 90)
    headlines, both = Noise.compared({"a": found, "b": found})
    assert [row[0] for row in headlines.rows] == ["a", "b"]
    assert [line.label for line in both.lines] == ["a noise", "a attack", "b noise", "b attack"]


def test_it_survives_json():
    found = noise(small_snn(), images(5), eps=0.2, radii=[0.2], tries=2, attack=fgsm(Linf(0.1)))
    assert Noise.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radii": [0.2, 0.1]}, "ascending"),
        ({"radii": [0.0]}, "positive"),
        ({"radii": []}, "ascending"),
        ({"eps": 0}, "give eps > 0"),
        ({"eps": 8}, "8/255"),
        ({"tries": 0}, "tries must be ≥ 1"),
        ({"attack": EncodedPGD(Linf(0.1))}, "takes attacks on pixels"),
        ({"attack": lambda eps: fgsm(Linf(0.1))}, "expected an attack in a ball of radius"),
    ],
)
def test_bad_input_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        noise(Threshold(), levels(0.1), **options)


def test_an_attack_without_a_ball_and_an_empty_split_are_refused():
    class Nothing:
        name = "nothing"

        def run(self, model, x, y, draws=None):
            raise AssertionError

    with pytest.raises(ValueError, match="needs an attack with a ball"):
        noise(Threshold(), levels(0.1), attack=Nothing())
    with pytest.raises(ValueError, match="at least one sample"):
        noise(Threshold(), levels(0.1).subset(0))
