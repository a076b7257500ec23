"""Several networks against the one number in which their training differs."""

import functools

import numpy as np
import pytest
from tests.report.made import outcome

from robustspike.results import Network, rate
from robustspike.results.audits import Gradients, Norms, Spread
from robustspike.results.trends import Trend, trend


def gradients(l1, l2, l0, under="BPTT own surrogate"):
    norms = Norms(l0=tuple(l0), l1=tuple(l1), l2=tuple(l2))
    spread = Spread(edges=(-1.0, 1.0), shares=(1.0,))
    return Gradients(n=len(l1), seed=0, under=under, of_probability=norms, of_loss=norms, spread=spread)


@functools.cache
def summary(**changes):
    return outcome(**changes).summary()


def network(name, training, clean=30, robust=10, audits=None, **changes):
    figures = summary(**changes).model_copy(update={"clean": rate(clean, 40), "robust": rate(robust, 40)})
    return Network(name=name, training=training, summary=figures, audits=audits or {})


SMALL = gradients([1.0, 3.0], [0.5, 0.7], [0.2, 0.4])
LARGE = gradients([10.0, 30.0], [5.0, 7.0], [0.9, 1.0])


def weights(*values, **training):
    return [network(f"λ={v}", {"weight": v, "epochs": 3} | training) for v in values]


def test_the_one_number_that_differs_is_found_and_put_in_order():
    found = trend(weights(0.3, 0.0, 0.1))
    assert found.setting == "weight"
    assert [p.value for p in found.points] == [0.0, 0.1, 0.3]
    assert [p.network for p in found.points] == ["λ=0.0", "λ=0.1", "λ=0.3"]
    assert found.also == found.left_out == ()


def test_nested_settings_and_fractions_are_numbers():
    found = trend([network(e, {"attack": {"eps": e, "steps": 5}}) for e in ("4/255", "2/255")])
    assert found.setting == "attack.eps"
    assert [p.value for p in found.points] == pytest.approx([2 / 255, 4 / 255])


@pytest.mark.parametrize(
    "trainings",
    [
        [],
        [{"weight": 0.1}],
        [{"weight": 0.1}, {"weight": 0.1}],
        [{"weight": 0.1, "epochs": 1}, {"weight": 0.2, "epochs": 2}],
        [{"defence": "sr"}, {"defence": "at"}],
        [{"flip": True}, {"flip": False}],
        [{"weight": 0.1}, {"weight": None}],
        [{"weight": 0.1}, {"weight": float("inf")}],
        [{"milestones": [1, 2]}, {"milestones": [1, 3]}],
        [{"eps": "1/0"}, {"eps": "1/2"}],
        [{"weight": 1}, {"weight": 1.0}],
        [{"seed": 1, "loss": 0.3, "training_seconds": 4.0}, {"seed": 2, "loss": 0.1, "training_seconds": 5.0}],
    ],
    ids=str,
)
def test_without_exactly_one_number_there_is_no_trend(trainings):
    assert trend([network(str(k), training) for k, training in enumerate(trainings)]) is None


def test_seeds_times_and_losses_are_no_settings():
    rest = [
        {"seed": k, "epochs_done": k, "loss": k / 3, "validation_accuracy": k, "training_seconds": k} for k in (1, 2)
    ]
    found = trend([network(str(k), {"weight": float(k)} | one) for k, one in enumerate(rest)])
    assert found.setting == "weight"
    assert found.also == ()


def test_a_named_setting_may_go_with_others_which_are_named():
    networks = [
        network("vanilla", {"weight": None, "defence": "vanilla"}),
        network("SR", {"weight": 0.1, "defence": "sr"}),
        network("SR*", {"weight": 0.5, "defence": "sr-star"}),
    ]
    assert trend(networks) is None
    found = trend(networks, "weight")
    assert [p.network for p in found.points] == ["SR", "SR*"]
    assert found.also == ("defence",)
    assert found.left_out == ("vanilla",)
    note = found.views()[0].note
    assert "also differ in defence" in note
    assert "Left out, without a number for weight: vanilla." in note


def test_a_setting_that_does_not_fit_is_refused():
    networks = [network(str(w), {"weight": w, "epochs": e, "defence": "sr"}) for w, e in ((0.1, 1), (0.2, 1))]
    for name in ("wieght", "epochs", "defence"):
        with pytest.raises(ValueError, match=f"got '{name}'; choose one of weight"):
            trend(networks, name)
    with pytest.raises(ValueError, match="these networks have none"):
        trend([network("a", {"epochs": 1})], "epochs")


def test_figures_are_the_networks():
    networks = [
        network("a", {"weight": 0.0}, clean=38, robust=4, audits={"gradients": LARGE}),
        network("b", {"weight": 0.1}, clean=32, robust=16, audits={"gradients": SMALL}),
        network("c", {"weight": 0.2}, clean=30, robust=20),
    ]
    found = trend(networks)
    accuracy, norms, share, table = found.views()
    clean, worst = accuracy.lines
    assert (clean.label, worst.label) == ("without attack", "worst case")
    assert clean.x == worst.x == (0.0, 0.1, 0.2)
    assert clean.y == (95, 80, 75)
    assert worst.y == (10, 40, 50)
    assert (worst.low[1], worst.high[1]) == (100 * rate(16, 40).low, 100 * rate(16, 40).high)
    l1, l2 = norms.lines
    assert (l1.x, l1.y, l2.y) == ((0.0, 0.1), (20, 2), (6, pytest.approx(0.6)))
    error = np.std([1, 3], ddof=1) / np.sqrt(2)
    assert (l1.low[1], l1.high[1]) == pytest.approx((2 - 1.96 * error, 2 + 1.96 * error))
    assert share.lines[0].y == pytest.approx((95, 30))
    assert table.rows[0] == ("a", "0", str(rate(38, 40)), str(rate(4, 40)), "20", "6", "95")
    assert table.rows[2][4:] == ("·", "·", "·")
    assert "Gradients under BPTT own surrogate, n = 2, seed 0." in norms.note
    assert not accuracy.x_log


def test_without_gradients_there_is_one_chart():
    accuracy, table = trend(weights(1.0, 2.0)).views()
    assert accuracy.percent
    assert [line.x for line in accuracy.lines] == [(1.0, 2.0)] * 2
    assert "upper bounds" in accuracy.note
    assert len(table.rows) == 2


def test_norms_are_on_a_logarithmic_axis_where_they_can_be():
    even = gradients([2.0, 2.0], [1.0, 1.0], [0.5, 0.5])
    networks = [network(str(w), {"weight": w}, audits={"gradients": g}) for w, g in ((1.0, even), (2.0, even))]
    assert trend(networks).views()[1].y_log
    flat = gradients([0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    networks[1] = network("flat", {"weight": 2.0}, audits={"gradients": flat})
    assert not trend(networks).views()[1].y_log


def test_the_axis_is_logarithmic_from_a_factor_of_ten_and_zero_becomes_a_dashed_line():
    assert not trend(weights(0.1, 0.9)).views()[0].x_log
    assert trend(weights(0.1, 1.0)).views()[0].x_log
    assert not trend(weights(-1.0, 0.1, 10.0)).views()[0].x_log
    assert not trend(weights(0.0, 0.1)).views()[0].x_log
    networks = weights(0.1, 1.0)
    networks.append(network("none", {"weight": 0.0, "epochs": 3}, clean=36, robust=2))
    chart, _ = trend(networks).views()
    assert chart.x_log
    assert [(line.label, line.x, line.dashed) for line in chart.lines] == [
        ("without attack", (0.1, 1.0), False),
        ("without attack, weight = 0", (0.1, 1.0), True),
        ("worst case", (0.1, 1.0), False),
        ("worst case, weight = 0", (0.1, 1.0), True),
    ]
    assert chart.lines[1].y == (90, 90)
    assert chart.lines[3].y == (5, 5)
    assert "Dashed: weight = 0" in chart.note


def test_several_networks_at_one_value_give_their_mean():
    networks = [
        network("a 1", {"weight": 1.0, "seed": 1}, clean=40, robust=10),
        network("a 2", {"weight": 1.0, "seed": 2}, clean=36, robust=20),
        network("b", {"weight": 2.0, "seed": 1}),
    ]
    found = trend(networks)
    chart, table = found.views()
    assert chart.lines[0].x == (1.0, 2.0)
    assert chart.lines[0].y[0] == pytest.approx(95)
    assert (chart.lines[1].low[0], chart.lines[1].high[0]) == (100 * rate(10, 40).low, 100 * rate(20, 40).high)
    assert "Of several networks at one value the mean is shown" in chart.note
    assert len(table.rows) == 3


def test_without_a_sound_worst_case_there_is_no_line_of_it():
    networks = weights(1.0, 2.0)
    member = networks[0].summary.header.members[0].model_copy(update={"caveat": "not sound"})
    header = networks[0].summary.header.model_copy(update={"members": (member,)})
    unsound = networks[0].summary.model_copy(update={"header": header})
    chart, table = trend([one.model_copy(update={"summary": unsound}) for one in networks]).views()
    assert [line.label for line in chart.lines] == ["without attack"]
    assert [row[3] for row in table.rows] == ["–", "–"]


def test_the_answer_compares_the_ends():
    first = network("a", {"weight": 0.0}, clean=38, robust=4, audits={"gradients": LARGE})
    last = network("b", {"weight": 0.1}, clean=32, robust=24, audits={"gradients": SMALL})
    answer = trend([first, last]).answer()
    assert answer.startswith(
        "From weight = 0 to 0.1: accuracy without attack from 95 to 80 %; worst case from 10 to 60 %; ‖∇f_y‖₁ from 20 to 2; "
        "‖∇f_y‖₂ from 6 to 0.6 (under liu2024, Linf ε = 0.1, n = 40, seed 7, an upper bound)."
    )
    assert "A smaller gradient goes with more robustness" in answer
    close = network("b", {"weight": 0.1}, robust=6, audits={"gradients": SMALL})
    assert "does not rise beyond its intervals" in trend([first, close]).answer()
    larger = network("b", {"weight": -0.1}, robust=24, audits={"gradients": SMALL})
    assert "The gradient does not get smaller" in trend([first, larger]).answer()
    bare = trend(weights(1.0, 2.0)).answer()
    assert "∇" not in bare
    assert bare.endswith("an upper bound).")


def test_json_comes_back_exactly():
    found = trend([network(str(w), {"weight": w}, audits={"gradients": SMALL}) for w in (0.1, 7.0)])
    assert Trend.model_validate_json(found.model_dump_json()) == found


def test_networks_measured_differently_are_told():
    networks = [network("a", {"weight": 1.0}), network("b", {"weight": 2.0}, eps=0.2)]
    assert trend(networks).under.count("ε = ") == 2


@pytest.mark.parametrize(
    ("changes", "other", "words"),
    [
        ({}, {"under": "RGA"}, "The gradients were not all"),
        ({}, {"seed": 1}, "The gradients were not all"),
        ({}, {"l": [1.0, 3.0, 2.0]}, "The gradients were not all"),
        ({"eps": 0.2}, {}, "The accuracies were not all"),
        ({"eps": 0.2}, {"under": "RGA"}, "The accuracies and the gradients were not all"),
    ],
    ids=str,
)
def test_only_what_is_measured_alike_is_compared(changes, other, words):
    values = other.pop("l", [1.0, 3.0])
    found = gradients(values, values, values, other.pop("under", "BPTT own surrogate")).model_copy(update=other)
    first = network("a", {"weight": 0.0}, robust=4, audits={"gradients": LARGE})
    alike = network("b", {"weight": 0.1}, robust=24, audits={"gradients": SMALL})
    last = network("c", {"weight": 0.2}, robust=24, audits={"gradients": found}, **changes)
    assert "more robustness" in trend([first, alike]).answer()
    answer = trend([first, alike, last]).answer()
    assert words in answer
    assert "this is no comparison" in answer
    assert "more robustness" not in answer


def test_the_mean_of_one_sample_has_no_interval():
    one, two = gradients([2.0], [1.0], [0.5]), gradients([3.0], [1.0], [0.5])
    networks = [network(str(w), {"weight": w}, audits={"gradients": g}) for w, g in ((1.0, one), (2.0, two))]
    found = trend(networks)
    assert (found.points[0].l1.value, found.points[0].l1.low, found.points[0].l1.high) == (2.0, None, None)
    norms = found.views()[1]
    assert [(line.low, line.high) for line in norms.lines] == [((), ())] * 2
    assert norms.y_log
    assert Trend.model_validate_json(found.model_dump_json()) == found
    networks[1] = network("several", {"weight": 2.0}, audits={"gradients": SMALL})
    low = trend(networks).views()[1].lines[0].low
    assert np.isnan(low[0])
    assert low[1] < 2.0


def test_gradients_that_are_not_finite_are_left_out():
    broken = SMALL.model_copy(update={"of_probability": SMALL.of_probability.model_copy(update={"not_finite": 1})})
    first = network("a", {"weight": 0.0}, robust=4, audits={"gradients": LARGE})
    last = network("b", {"weight": 0.1}, robust=24, audits={"gradients": broken})
    found = trend([first, last])
    assert found.points[1].l1 is None
    assert "Not finite, and left out: gradients of b." in found.views()[0].note
    assert "more robustness" not in found.answer()
