"""Every published objective against its formula, written from the papers for a network written as plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.defences.plain import LEAK, THRESHOLD, TIME_STEPS, forward, images, push, seen, two_layers

from robustspike.defences import DEFENCES, CosineRamp, Mixed, Noisy, clp, gr, mart, mppd, rat, sr, tgo, trades

pytestmark = pytest.mark.usefixtures("one_thread")


def rivals_of(z, y):
    """The class of the largest other logit, one sample at a time."""
    others = [
        [(value, j) for j, value in enumerate(row) if j != k] for row, k in zip(z.tolist(), y.tolist(), strict=True)
    ]
    return torch.tensor([max(each)[1] for each in others])


def f_y(z, y, rivals):
    if rivals is None:
        return torch.stack([torch.softmax(row, 0)[k] for row, k in zip(z, y, strict=True)])
    pairs = [torch.stack([row[k], row[j]]) for row, k, j in zip(z, y, rivals, strict=True)]
    return torch.stack([torch.softmax(pair, 0)[0] for pair in pairs])


def each_ce(z, y):
    return torch.stack([torch.logsumexp(row, 0) - row[k] for row, k in zip(z, y, strict=True)])


def ce(z, y):
    return each_ce(z, y).mean()


def slope(model, x, quantity, form, h, norm):
    """Per sample: ‖∇q‖ or the quotient in the direction of the gradient."""
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(quantity(seen(model, leaf).logits).sum(), leaf, create_graph=form == "exact")
    if form == "exact":
        return torch.stack([row.abs().sum() if norm == "l1" else row.norm() for row in g])
    d = torch.stack([row.sign() if norm == "l1" else row / row.norm() for row in g])
    return (quantity(seen(model, x + h * d).logits) - quantity(seen(model, x).logits)) / h


def _sr(model, x, y, h=0.01, classes="two", penalty="abs", form="difference", weight=None):
    z = seen(model, x).logits
    rivals = rivals_of(z, y) if classes == "two" else None
    change = slope(model, x, lambda z: f_y(z, y, rivals), form, h, "l1")
    return ce(z, y) + weight * (change.abs() if penalty == "abs" else change**2).mean()


def _gr(model, x, y, weight, h=0.01, form="difference", norm="l1"):
    change = slope(model, x, lambda z: each_ce(z, y), form, h, norm)
    return ce(seen(model, x).logits, y) + weight * (change**2).mean()


def _row_sums(model):
    total = 0
    for layer in (model.layers[0], model.layers[5], model.head):
        rows = layer.weight.reshape(len(layer.weight), -1)
        total = total + max(F.relu(row).sum() for row in rows) + max(F.relu(-row).sum() for row in rows)
    return total


def _trades(model, x, x_adv, y, weight):
    z, moved = seen(model, x).logits, seen(model, x_adv).logits
    return F.cross_entropy(z, y) + weight * F.kl_div(moved.log_softmax(1), z.softmax(1), reduction="batchmean")


def _mart(model, x, x_adv, y, weight):
    p, q = seen(model, x).logits.softmax(1), seen(model, x_adv).logits.softmax(1)
    total = 0
    for clean, moved, k in zip(p, q, y.tolist(), strict=True):
        wrong = max(moved[j] for j in range(len(moved)) if j != k)
        kl = sum(c * torch.log(c / m) for c, m in zip(clean, moved, strict=True))
        total = total - torch.log(moved[k]) - torch.log(1 - wrong) + weight * kl * (1 - clean[k])
    return total / len(y)


def _alp(model, x, x_adv, y, weight):
    z, moved = seen(model, x).logits, seen(model, x_adv).logits
    return (ce(z, y) + ce(moved, y)) / 2 + weight * ((z - moved) ** 2).sum() / z.numel()


def _clp(model, x, y, weight):
    z, half = seen(model, x).logits, len(y) // 2
    pairs = [((z[i] - z[i + half]) ** 2).mean() for i in range(half)]
    return ce(z, y) + weight * sum(pairs) / half


def _hire(model, x, y, eps, periods):
    steps, delta, frames, losses = TIME_STEPS // periods, torch.zeros_like(x), [], []
    for _ in range(periods):
        image = (x + delta).clamp(0, 1).detach().requires_grad_()
        loss = ce(forward(model, [f.detach() for f in frames] + [image] * steps).logits, y)
        delta = (delta + eps * torch.autograd.grad(loss, image, retain_graph=True)[0].sign()).clamp(-eps, eps)
        frames += [image] * steps
        losses.append(loss)
    return sum(losses) / periods


def _mppd(model, x, x_adv, y, weight, penalty, mix):
    still, moved = seen(model, x), seen(model, x_adv)
    error, sizes = 0, []
    for a, b in zip(still.currents[-1], moved.currents[-1], strict=True):
        error = LEAK * error + b - a.detach()
        sizes.append(error.abs().mean() if penalty == "abs" else (error**2).mean())
    return mix * ce(still.logits, y) + (1 - mix) * ce(moved.logits, y) + weight * sum(sizes) / TIME_STEPS


def _mpd_sgr(model, x, y, weight, width):
    here, layers = seen(model, x), []
    for potentials in here.potentials:
        masses = []
        for u in potentials:
            for c in range(u.shape[1]):
                normal = torch.distributions.Normal(u[:, c].mean(), (u[:, c].var(correction=0) + 1e-8).sqrt())
                masses.append(normal.cdf(_as(u, THRESHOLD + width)) - normal.cdf(_as(u, THRESHOLD - width)))
        layers.append(sum(masses) / len(masses))
    return ce(here.logits, y) + weight * sum(layers) / len(layers)


def _as(u, number):
    return torch.tensor(number, dtype=u.dtype)


def _tgo(model, x, y, weight, margin):
    here = seen(model, x)
    guards = [torch.relu(margin - (torch.stack(u) - THRESHOLD).abs()).mean() for u in here.potentials]
    return ce(here.logits, y) + weight * sum(guards)


def moved_ce(model, x, y, **options):
    return ce(seen(model, push(model, x, y)).logits, y)


def _pair(formula):
    return lambda model, x, y, **options: formula(model, x, push(model, x, y), y, **options)


def _moved(formula):
    return lambda model, x, y, **options: formula(model, push(model, x, y), y, **options)


FORMS = [
    {"classes": classes, "penalty": penalty, "form": form, "weight": 0.7, "h": 0.05}
    for classes in ("two", "all") for penalty in ("abs", "square") for form in ("difference", "exact")
]  # fmt: skip
NORMS = [
    {"norm": norm, "form": form, "weight": 0.3, "h": 0.05} for norm in ("l1", "l2") for form in ("difference", "exact")
]
CASES = {
    "vanilla": (lambda model, x, y: ce(seen(model, x).logits, y), [{}]),
    "at": (moved_ce, [{}]),
    "rat": (moved_ce, [{}, {"beta": 0.1}]),
    "rat-penalty": (lambda model, x, y, weight: moved_ce(model, x, y) + weight * _row_sums(model), [{"weight": 0.2}]),
    "sr": (_sr, FORMS),
    "sr-star": (_moved(_sr), FORMS),
    "gr": (_gr, NORMS),
    "trades": (_pair(_trades), [{"weight": 6.0}]),
    "mart": (_pair(_mart), [{"weight": 5.0}]),
    "alp": (_pair(_alp), [{"weight": 0.5}]),
    "clp": (lambda model, x, y, weight, noise: _clp(model, x, y, weight), [{"weight": 0.5, "noise": 0}]),
    "hire": (_hire, [{"eps": 0.1, "periods": n} for n in (1, 2, 4)]),
    "mppd": (_pair(_mppd), [{"weight": 2.0, "penalty": p, "mix": m} for p in ("abs", "square") for m in (0.5, 0.2)]),
    "mpd-sgr": (_mpd_sgr, [{"weight": 0.8, "width": w} for w in (0.3, 1.0)]),
    "tgo": (_tgo, [{"weight": 0.4, "margin": m} for m in (0.2, 0.6)]),
}
AT_MOVED = {"gr": _moved(_gr), "mpd-sgr": _moved(_mpd_sgr), "tgo": _moved(_tgo)}  # those whose attack may be left out
NEEDS_ATTACK = ("at", "rat", "rat-penalty", "sr-star", "trades", "mart", "alp", "mppd")


def test_every_objective_has_a_formula_here():
    assert list(CASES) == list(DEFENCES)


def compare(objective, formula, mode):
    model, (x, y) = two_layers(), images()
    getattr(model, mode)()
    expected = formula(model, x, y)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    loss = objective(model, x, y)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    loss.backward()
    for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
        wanted = torch.zeros_like(p) if gradient is None else gradient
        got = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    assert sum(p.grad.abs().max() > 1e-4 for p in model.parameters() if p.grad is not None) >= 6


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, (_, every) in CASES.items() for options in every], ids=str
)
def test_loss_and_gradients_are_those_of_the_formula(name, options, mode):
    attack = {"attack": push} if name in NEEDS_ATTACK else {}
    compare(
        DEFENCES[name](**attack, **options),
        lambda model, x, y: CASES[name][0](model, x, y, **{k: v for k, v in options.items() if k != "beta"}),
        mode,
    )


@pytest.mark.parametrize("name", AT_MOVED)
def test_with_an_attack_both_terms_are_taken_at_the_moved_images(name):
    options = CASES[name][1][0]
    compare(DEFENCES[name](attack=push, **options), lambda model, x, y: AT_MOVED[name](model, x, y, **options), "train")


# What they reduce to


def gradients(objective, x, y, mode="train", **options):
    model = getattr(two_layers(torch.float32), mode)()
    loss = objective(model, x, y, **options)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def stay(model, x, y):
    return x.clone()


def with_attack(name, attack, **options):
    return DEFENCES[name](attack, **options)


WEIGHT_ZERO = {
    "sr": (DEFENCES["sr"](0), "vanilla"),
    "gr": (gr(0), "vanilla"),
    "clp": (clp(0, noise=0), "vanilla"),
    "trades": (trades(push, 0), "vanilla"),
    "mpd-sgr": (DEFENCES["mpd-sgr"](0), "vanilla"),
    "tgo": (tgo(0), "vanilla"),
    "tgo's ramp at the beginning": (tgo(), "vanilla"),
    "mppd of the clean images": (mppd(push, 0, mix=1), "vanilla"),
    "sr-star": (with_attack("sr-star", push, weight=0), "at"),
    "rat-penalty": (with_attack("rat-penalty", push, weight=0), "at"),
    "mppd of the moved images": (mppd(push, 0, mix=0), "at"),
    "rat": (rat(push), "at"),
}


def same(a, b):
    return all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", WEIGHT_ZERO)
def test_with_weight_zero_it_is_vanilla_or_adversarial_training_bit_for_bit(name, mode):
    objective, limit = WEIGHT_ZERO[name]
    x, y = images(dtype=torch.float32)
    plain = DEFENCES["vanilla"]() if limit == "vanilla" else DEFENCES["at"](push)
    assert same(gradients(objective, x, y, mode, progress=0.0), gradients(plain, x, y, mode))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    "name", ["at", "rat", "alp", "mppd"]
)  # mart has no such limit: the boosted loss is not vanilla's
def test_images_that_stay_where_they_are_give_vanilla_bit_for_bit(name, mode):
    """Also with the weight of what compares them: ALP's squares, MPPD's dynamics are 0 and so are their gradients.

    In training mode the loss and gradients are vanilla's too, but ALP and MPPD pass the batch twice, and BatchNorm's
    running statistics take two steps.
    """
    x, y = images(dtype=torch.float32)
    assert same(gradients(with_attack(name, stay), x, y, mode), gradients(DEFENCES["vanilla"](), x, y, mode))


def test_trades_of_images_that_stay_is_vanilla_to_rounding():
    """The divergence is 0 exactly, its gradient the rounding of Σ_k p_k = 1."""
    x, y = images(dtype=torch.float32)
    got, expected = gradients(trades(stay), x, y), gradients(DEFENCES["vanilla"](), x, y)
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def trained(objective, weight_decay, steps=6):
    model = two_layers(torch.float32).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=weight_decay)
    for k in range(steps):
        x, y = images(seed=k, dtype=torch.float32)
        optimizer.zero_grad()
        objective(model, x, y).backward()
        optimizer.step()
        objective.after_step(model)
    return list(model.state_dict().values())


def test_rat_without_attack_and_retraction_trains_to_the_weights_of_vanilla_without_decay():
    vanilla = DEFENCES["vanilla"]()
    unheld = rat(stay, beta=0)
    assert same(trained(unheld, unheld.weight_decay), trained(vanilla, 0))
    assert not same(trained(unheld, unheld.weight_decay), trained(vanilla, vanilla.weight_decay))
    assert not same(trained(rat(stay, beta=0.01), 0), trained(vanilla, 0))
    assert not same(trained(rat(push, beta=0), 0), trained(vanilla, 0))


def test_mart_of_images_that_stay_is_the_boosted_cross_entropy():
    x, y = images()
    model = two_layers().eval()
    p = seen(model, x).logits.softmax(1)
    expected = sum(-math.log(q[k]) - math.log(1 - max(q[j] for j in range(3) if j != k))
                   for q, k in zip(p.tolist(), y.tolist(), strict=True)) / len(y)  # fmt: skip
    assert mart(stay)(model, x, y).item() == pytest.approx(expected, rel=1e-9)


# Settings


def test_defaults_of_what_is_published():
    assert DEFENCES["sr"]().parts[1].weight == 0.008
    assert DEFENCES["sr-star"](push).parts[1].weight == 0.002
    assert tgo().parts[1].weight == CosineRamp(0.4)
    assert clp().parts[0].attack == Noisy(0.1) == clp().parts[1].attack
    assert clp(noise=0).parts[0].attack is None
    assert mppd(push).name == "MPPD-TV-l1"
    assert mppd(push, penalty="square").name == "MPPD"
    assert sr(form="exact").parts[1].term.form == "exact"
    mixed = Mixed((push, stay))
    assert rat(mixed).parts[0].attack is mixed


@pytest.mark.parametrize("noise", [-0.1, math.nan])
def test_noise_of_a_negative_deviation_is_refused(noise):
    with pytest.raises(ValueError, match="^noise must have a standard deviation ≥ 0, got"):
        clp(noise=noise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "double"}, '^form must be "difference" or "exact", got \'double\''),
        ({"norm": "linf"}, '^norm must be "l1" or "l2", got \'linf\''),
        ({"h": -1}, "^h must be positive, in pixel units, got -1"),
    ],
)
def test_unfit_settings_of_gradient_regularisation_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gr(**options)
