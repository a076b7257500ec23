"""What every audit promises: walked over AUDITS."""

import inspect
import math

import pytest
import torch
from tests.conftest import record_of, small_snn
from torch import nn

from robustspike.audits import AUDITS
from robustspike.data import Split
from robustspike.results import Bars, Chart, Matrix, Pictures, Table
from robustspike.results.audits import AUDIT_RECORDS
from robustspike.results.audits.audited import Audited

# What makes an audit small enough for a test.
SMALL = {
    "noise": {"tries": 2, "radii": (0.2, 0.6)},
    "steps": {"steps": (1, 2)},
    "surface": {"points": 3},
    "theorems": {"time_steps": (1, 2), "networks": 10, "repeats": 2},
    "vulnerability": {"tries": 3, "steps": 2, "radii": (0.01, 0.2)},
    "widths": {"widths": (0.5, 1.0), "steps": 2},
}
EPS = 0.2


@pytest.fixture(autouse=True)
def one(one_thread):
    """Networks this small are no faster on more threads."""


def images(n=5, steps=None):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        shape = (n, 1, 8, 8) if steps is None else (n, steps, 1, 8, 8)
        return Split(torch.rand(shape), torch.arange(n) % 4, torch.arange(n) + 7)


def audited(name, model, data=None, **options):
    takes = inspect.signature(AUDITS[name]).parameters
    given = {"eps": EPS, "seed": 1, **options}
    return AUDITS[name](
        model, data or images(), **{k: v for k, v in given.items() if k in takes}, **SMALL.get(name, {})
    )


def alike(a, b, tolerance):
    """Equal but for rounding and for the time it took."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            alike(a[key], b[key], tolerance)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            alike(one, other, tolerance)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance, nan_ok=True)
    else:
        assert a == b


def test_every_audit_has_a_record_of_its_name():
    assert list(AUDITS) == list(AUDIT_RECORDS)


@pytest.mark.parametrize("name", AUDITS)
def test_it_takes_what_audits_are_given(name):
    takes = list(inspect.signature(AUDITS[name]).parameters)
    assert takes[:2] == ["model", "data"]
    assert {"seed", "batch_size", "watch"} <= set(takes)
    assert all(p.default is not p.empty for p in list(inspect.signature(AUDITS[name]).parameters.values())[2:])


@pytest.mark.parametrize("name", AUDITS)
def test_the_model_and_the_random_numbers_are_left_alone(name):
    model = small_snn()
    model.layers[1].eval()
    before, generator = record_of(model), torch.get_rng_state()
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    audited(name, model)
    assert record_of(model) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert hooks == [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()
    ]


@pytest.mark.parametrize("name", AUDITS)
def test_an_audit_that_is_ended_leaves_nothing_behind(name):
    class EndedError(Exception):
        pass

    def end(share):
        raise EndedError

    model = small_snn().eval()
    before = record_of(model)
    with pytest.raises(EndedError):
        audited(name, model, watch=end)
    assert record_of(model) == before


@pytest.mark.parametrize("name", AUDITS)
def test_progress_rises_to_one(name):
    heard = []
    audited(name, small_snn().eval(), watch=heard.append, batch_size=2)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)
    assert 0 <= heard[0] <= 1


@pytest.mark.parametrize("name", AUDITS)
def test_one_seed_gives_one_record(name):
    model = small_snn().double().eval()
    alike(audited(name, model).model_dump(), audited(name, model).model_dump(), 0)


@pytest.mark.parametrize("name", AUDITS)
def test_no_figure_depends_on_the_batches(name):
    model = small_snn().double().eval()
    whole, parts = (audited(name, model, batch_size=size).model_dump() for size in (5, 2))
    alike(whole, parts, 1e-9)


@pytest.mark.parametrize("name", AUDITS)
def test_a_stochastic_model_is_audited_too(name):
    model = small_snn(encoder="poisson").double().eval()
    alike(audited(name, model, batch_size=5).model_dump(), audited(name, model, batch_size=2).model_dump(), 1e-9)


@pytest.mark.parametrize("name", AUDITS)
def test_frames_are_audited_too(name):
    audited(name, small_snn(encoder="frames").eval(), images(steps=2))


@pytest.mark.parametrize("name", AUDITS)
def test_a_network_without_spikes_is_audited_or_refused_in_words(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    refusal = ""
    try:
        audited(name, model)
    except ValueError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert not refusal or len(refusal) > 30


@pytest.mark.parametrize("name", AUDITS)
def test_the_record_comes_back_from_json(name):
    found = audited(name, small_snn().eval())
    kind = AUDIT_RECORDS[name]
    assert isinstance(found, kind)
    alike(kind.model_validate_json(found.model_dump_json()).model_dump(), found.model_dump(), 0)


@pytest.mark.parametrize("name", AUDITS)
def test_the_record_says_what_it_is_of(name):
    found = audited(name, small_snn().eval())
    assert 1 <= found.n <= 5
    assert found.seed == 1
    assert found.seconds > 0
    assert f"n = {found.n}, seed 1" in found.conditions()
    assert found.title
    assert found.about
    assert found.page == f"docs/audits/{name}.md"
    assert len(found.answer()) > 20
    assert found.headline()
    assert all(isinstance(value, str) for value in found.headline().values())


def written(view):
    """Every number that a view shows, to see that it can be drawn."""
    if isinstance(view, Chart):
        return [v for line in view.lines for v in (*line.x, *line.y)]
    if isinstance(view, Bars):
        return [v for values in view.series.values() for v in values]
    if isinstance(view, Matrix):
        return [v for row in view.values for v in row]
    return []


@pytest.mark.parametrize("name", AUDITS)
def test_views_can_be_drawn_and_say_what_they_show(name):
    found = audited(name, small_snn().eval())
    both = type(found).compared({"one": found, "other": found})
    assert isinstance(both[0], Table)
    assert [row[0] for row in both[0].rows] == ["one", "other"]
    for view in (*found.views(), *both):
        assert isinstance(view, (Table, Chart, Bars, Matrix, Pictures))
        assert view.title
        assert not any(math.isinf(number) for number in written(view))
        if isinstance(view, Table):
            assert all(len(row) == len(view.columns) for row in view.rows)
        if isinstance(view, Pictures):
            assert all(picture.alt for row in view.rows for picture in row.pictures if picture is not None)


def test_there_is_a_record_for_audits_of_other_people():
    class Mine(Audited):
        title, about, page = "Mine?", "About mine.", "docs/mine.md"

        def answer(self):
            return "Yes."

        def headline(self):
            return {"mine": "1"}

    one = Mine(n=1, seed=0, under="nothing")
    assert Mine.compared({"a": one})[0].rows == (("a", "1"),)
