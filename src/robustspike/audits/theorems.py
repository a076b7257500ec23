"""Three theorems on spiking networks' gradients, measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from robustspike.attacks.suites import describe_estimator
from robustspike.audits.batches import Stopwatch, Watch, batches
from robustspike.audits.probability import usual
from robustspike.audits.signal import TwoLayerClassifier, measure, timed_part
from robustspike.audits.two_layers import entry_bounds, trails
from robustspike.data import Split
from robustspike.encoders import Frames
from robustspike.gradients import Estimator, check_labels
from robustspike.results.audits import Theorems


def theorems(
    model: nn.Module,
    data: Split,
    *,
    estimator: Estimator | None = None,
    seed: int = 0,
    batch_size: int = 64,
    watch: Watch | None = None,
    time_steps: Sequence[int] = (1, 2, 4, 8, 16),
    samples: int = 64,
    networks: int = 500,
    repeats: int = 20,
) -> Theorems:
    """What Luu 2025 claims of weight and input gradients in its theorems 4.2, 4.3 and 4.4, beside what is measured.

    *4.2*: with the same weights at each T, SNR = ‖E δ‖²/E‖δ − E δ‖² of δ, the gradient of the true class's logit (h·g of eq.
    33 with h the one-hot label) and that of the cross-entropy, with respect to the first and the last weight, in ℓ2 and in
    the sup norm of the theorem; and how far its assumptions hold. *4.3*: where zeros of the input and weight gradients of
    random networks of eq. 8 come from and how they correlate. *4.4*: E‖∇w₁‖₀ against T/d·k_S/k_w₁·E‖∇s‖₀ on random networks,
    counted as eq. 13 does and as autograd finds.

    Args:
        model: x [N, ...] in [0, 1] to logits [N, K]. One of ours is run with other numbers of steps; for any other network
            the first part takes eq. 8's two layers with random weights on the same data. Left as it was.
        data: the samples of the first part.
        estimator: what the weight gradients of the first part are taken through; None: the model's own gradient.
        seed: of random networks and an encoder's draws.
        batch_size: not used: gradients are taken sample by sample.
        watch: hears how much is done.
        time_steps: T, ascending; event frames are cut to their first T.
        samples: the first part is of the first so many.
        networks: random networks for 4.3.
        repeats: random networks for each setting of 4.4.

    Raises:
        ValueError: for fewer than two samples, networks or repeats, time steps that are not positive and ascending, an
            estimator without time, or labels that the model has no class for.

    Example:
        >>> images = load("digits").test.subset(4)
        >>> found = audits.theorems(digits_cnn(time_steps=2), images, time_steps=(1, 2), networks=8, repeats=2)
        >>> found.n, len(found.bounds), [one.violations for one in found.trails]
        (4, 162, [0, 0])

    Source: Luu 2025, theorems 4.2-4.4, eqs. 8-19 and 32-36; the SNR is that of Shalev-Shwartz et al. 2017.
    """
    clock, estimator = Stopwatch(), usual(estimator)
    part = data.subset(min(samples, len(data)))
    steps = _check(part, estimator, time_steps, networks, repeats)
    hear = watch or (lambda share: None)
    network, name = _network(model, part, seed)
    check_labels(network, next(batches(network, part, "theorems", seed, 1)).x, part.labels)
    if isinstance(timed_part(network).encoder, Frames):
        steps = tuple(t for t in steps if t <= part.images.shape[1])
    weights = {key: weight for key, weight in network.named_parameters() if weight.dim() >= 2}
    ends = {key: weights[key] for key in (next(iter(weights)), next(reversed(weights)))}
    signals, steadiness = measure(network, part, ends, estimator, seed, steps, lambda share: hear(0.7 * share))
    found = trails(networks, seed)
    hear(0.8)
    bounds = entry_bounds(repeats, seed, lambda share: hear(0.8 + 0.2 * share))
    return Theorems(
        n=len(part), seed=seed, seconds=clock.seconds, gradients=3 * len(part) * len(steps), network=name,
        under=f"weight gradients through {describe_estimator(estimator)}", signals=signals,
        steadiness=steadiness, trails=found, networks=networks, bounds=bounds, repeats=repeats,
    )  # fmt: skip


def _network(model: nn.Module, data: Split, seed: int) -> tuple[nn.Module, str]:
    if timed_part(model) is not None:
        return model, "the network itself"
    classes = max(2, int(data.labels.max()) + 1)
    made = TwoLayerClassifier(data.images[0].numel(), 64, classes, seed).to(data.images.device)
    return made.eval(), "two random layers in the network's place, whose number of steps cannot be changed"


def _check(
    data: Split, estimator: Estimator, time_steps: Sequence[int], networks: int, repeats: int
) -> tuple[int, ...]:  # fmt: skip
    if len(data) < 2:
        raise ValueError(f"audit 'theorems': signal and noise need at least two samples, got {len(data)}")
    if getattr(estimator, "without_time", False):
        raise ValueError(f"audit 'theorems': {estimator} has no time steps to vary; use BPTT()")
    steps = tuple(time_steps)
    if not steps or steps[0] < 1 or list(steps) != sorted(set(steps)):
        raise ValueError(f"audit 'theorems': expected positive time steps in ascending order, got {list(steps)}")
    if networks < 2 or repeats < 2:
        raise ValueError(f"audit 'theorems': networks and repeats must be ≥ 2, got {networks} and {repeats}")
    return steps
