"""Attacks made of attacks: the worst case over several, and examples made on another model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from robustspike.attacks.attempt import Attack, Attempt, adversarial_examples, best_of, shared_ball
from robustspike.attacks.binding import bind
from robustspike.draws import Draws


@dataclass(frozen=True)
class WorstOf:
    """Every member in turn, each on the samples that no earlier one broke; ``restart`` says which member did.

    A sample counts as robust only if all members fail (Liu 2024, appendix E). Member k draws from the streams' fork "k".

    Example:
        >>> attack = WorstOf((fgsm(Linf(0.1)), UniformNoise(Linf(0.1))))
        >>> attack(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])).shape
        torch.Size([1, 2])
    """

    members: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("WorstOf needs at least one attack")
        _check_pixels(self.members, "WorstOf")
        shared_ball(self.members, "the members of WorstOf")

    @property
    def ball(self) -> Any:
        """The ball that the members share."""
        return shared_ball(self.members, "the members of WorstOf")

    @property
    def kind(self) -> str:
        """That of the members, "white-box" where they differ."""
        kinds = {getattr(member, "kind", "white-box") for member in self.members}
        return kinds.pop() if len(kinds) == 1 else "white-box"

    @property
    def caveat(self) -> str:
        """Those of the members."""
        return "; ".join(dict.fromkeys(c for member in self.members if (c := getattr(member, "caveat", ""))))

    @property
    def name(self) -> str:
        return "worst of " + ", ".join(member.name for member in self.members)

    __call__ = adversarial_examples
    bind = bind

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs summed over the members, see :class:`robustspike.attacks.Attempt`."""
        draws = Draws.fresh(len(x), x.device) if draws is None else draws

        def run(k: int, which: Tensor, draws: Draws) -> Attempt:
            return self.members[k].run(model, x[which], y[which], draws)

        return best_of(model, x, y, draws, len(self.members), run)


@dataclass(frozen=True)
class Transfer:
    """Adversarial examples made on ``source`` and shown to the attacked model: the black-box scenario.

    ``early_stop`` of the attack is switched off: an example that barely fools its source transfers badly. For the worst case
    over several attacks put each in a ``Transfer`` and these in a :class:`WorstOf`, so that the attacked model judges them.

    Args:
        attack: on pixels.
        source: the network it is made on.
        label: the source's name in tables; None: its class.

    Raises:
        ValueError: for a ``WorstOf``, which would be judged by the source, or an attack on something other than pixels.

    Example:
        >>> attack = Transfer(fgsm(Linf(0.1)), source=nn.Linear(2, 2))
        >>> attack(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])).shape
        torch.Size([1, 2])

    Source: Liu 2024, section 5.1 (black-box).
    """

    kind: ClassVar[str] = "black-box"
    attack: Any
    source: nn.Module
    label: str | None = None

    def __post_init__(self) -> None:
        _check_pixels((self.attack,), "Transfer")
        if isinstance(self.attack, WorstOf):
            raise ValueError(
                "Transfer takes a single attack, got WorstOf, which the source would judge; "
                "use WorstOf(tuple(Transfer(member, source) for member in members))"
            )

    @property
    def ball(self) -> Any:
        """The ball of the attack."""
        return getattr(self.attack, "ball", None)

    @property
    def caveat(self) -> str:
        """That of the attack."""
        return getattr(self.attack, "caveat", "")

    @property
    def name(self) -> str:
        return f"{self.attack.name} from {self.label or type(self.source).__name__}"

    __call__ = adversarial_examples
    bind = bind

    def run(self, model: nn.Module, x: Tensor, y: Tensor, draws: Draws | None = None) -> Attempt:
        """x_adv and costs, see :class:`robustspike.attacks.Attempt`."""
        attack = self.attack
        if hasattr(attack, "early_stop"):
            attack = dataclasses.replace(attack, early_stop=False)
        attempt: Attempt = attack.run(self.source, x, y, draws)
        return attempt


def _check_pixels(attacks: Iterable[Any], what: str) -> None:
    if any(hasattr(attack, "presented") for attack in attacks):
        raise ValueError(f"{what} takes attacks on pixels, got one on the encoded tensor; evaluate that one by itself")
