"""Networks that adversarial examples are made on for another: the sources of ``Transfer``, built on the spot.

A defence that only hides its gradients is broken by examples from a network that does not (Lin and Sengupta 2025). The three
here are the ReLU network of the same weights, a newly trained undefended network of the same architecture, and a ReLU
network of the same architecture. Example::

    evaluate(model, data.test, Transfer(PGD(Linf("8/255")), source=undefended_twin(model, data.train, epochs=30)))
"""

from __future__ import annotations

import copy
import zlib
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robustspike.checkpoints import architecture
from robustspike.data import Split
from robustspike.defences import vanilla
from robustspike.gradients import BPTT, CBA, device_of, estimating
from robustspike.models import SNN, build
from robustspike.neurons import spiking_layers
from robustspike.train import fit

Network = TypeVar("Network", bound=nn.Module)


class ReLUNetwork(nn.Module):
    """A spiking network run as a ReLU network, without a time axis; see :func:`relu_network`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]; the gradient is the ReLU network's own."""
        if any(layer.gradient_rule is not None for layer in spiking_layers(self.network).values()):
            raise ValueError(
                "a ReLU network has no spikes for an estimator to see through, but one is in force; attack it with BPTT(), "
                "its own gradient"
            )
        with estimating(self.network, CBA()):
            logits: Tensor = self.network(x)
        return logits


def relu_network(model: nn.Module) -> ReLUNetwork:
    """The same weights as a ReLU network: what :class:`robustspike.CBA` sees, as a network that can be attacked by itself.

    Nothing is copied: the parameters are the model's, also after further training. The weights were trained with spikes, so
    the ReLU network may classify little better than chance; its adversarial examples can transfer all the same.

    Args:
        model: a network with spiking layers.

    Raises:
        ValueError: for a model without spiking layers; at call time if an estimator other than BPTT() looks through it.

    Source: Ding 2022, section 4 (CBA), as a source of transfer.

    Example:
        >>> model, x = digits_cnn(time_steps=2).eval(), torch.rand(2, 1, 8, 8)
        >>> with estimating(model, CBA()):
        ...     logits = model(x)
        >>> torch.equal(relu_network(model)(x), logits)
        True
    """
    with estimating(model, CBA()):  # says what is wrong where it is not possible
        return ReLUNetwork(model)


def undefended_twin(model: nn.Module, data: Split, *, epochs: int = 30, seed: int = 0, **options: Any) -> nn.Module:
    """The same architecture with newly drawn weights, trained without any defence.

    Args:
        model: only looked at. A network of MODELS is built anew; of any other, a copy has its weights drawn by the
            ``reset_parameters`` of its modules, its buffers being otherwise kept.
        data: images to train on, as for :func:`robustspike.fit`.
        epochs: passes over the data.
        seed: of weights and training; the same seed gives the same twin (CPU) and leaves PyTorch's generator alone.
        options: of :func:`robustspike.fit`, such as ``flip=False``; progress is not shown unless asked for.

    Returns:
        The twin in evaluation mode, on the model's device.

    Raises:
        ValueError: naming the parameters that no ``reset_parameters`` draws anew; and what ``fit`` raises.

    Example:
        >>> model, data = digits_cnn(time_steps=2), load("digits", train_limit=64)
        >>> twin = undefended_twin(model, data.train, epochs=1, flip=False, crop_padding=0)
        >>> attack = Transfer(PGD(Linf(0.1)), source=twin)
    """
    return _trained(_newly_drawn(model, seed), model, data, epochs, seed, options)


def relu_twin(model: nn.Module, data: Split, *, epochs: int = 30, seed: int = 0, **options: Any) -> ReLUNetwork:
    """The same architecture with newly drawn weights, trained without any defence as a ReLU network from the start.

    Arguments and errors as in :func:`undefended_twin`; also a ValueError for a model without spiking layers.

    Example:
        >>> model, data = digits_cnn(time_steps=2), load("digits", train_limit=64)
        >>> twin = relu_twin(model, data.train, epochs=1, flip=False, crop_padding=0)
        >>> attack = Transfer(PGD(Linf(0.1)), source=twin)
    """
    return _trained(relu_network(_newly_drawn(model, seed)), model, data, epochs, seed, options)


def _trained(twin: Network, model: nn.Module, data: Split, epochs: int, seed: int, options: dict[str, Any]) -> Network:
    """The twin after training in the model's floating type (float32 for 16 bits), in evaluation mode where the model is."""
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    wide = torch.promote_types(kind, torch.float32)
    cast = twin.to(wide).register_forward_pre_hook(lambda _, inputs: (inputs[0].to(wide),))
    fit(twin, data, vanilla(), epochs=epochs, seed=_own(seed), **({"progress": False} | options))
    cast.remove()
    return twin.to(device_of(model), kind).eval()


def _own(seed: int) -> int:
    """A seed for a stand-in: the model itself may have been drawn and trained with ``seed``."""
    return zlib.crc32(f"stand-in {seed}".encode())


def _newly_drawn(model: nn.Module, seed: int) -> nn.Module:
    """The architecture with weights drawn from the seed, on the CPU, all to be trained."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_own(seed))
        twin = _rebuilt(model) or _redrawn(model)
    return twin.requires_grad_(True)


def _rebuilt(model: nn.Module) -> nn.Module | None:
    """The network that the model's record describes, if that is all there is to the model."""
    if not isinstance(model, SNN):
        return None
    try:
        twin = build(model.settings.record())
    except ValueError:  # layers or a surrogate of the user's own
        return None
    return twin if architecture(twin) == architecture(model) else None


def _redrawn(model: nn.Module) -> nn.Module:
    with estimating(model, BPTT()):  # no copy of an estimator that is looking through it
        twin = copy.deepcopy(model).cpu()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.fill_(torch.nan)
        for module in twin.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    if left := [name for name, parameter in twin.named_parameters() if parameter.isnan().any()]:
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        raise ValueError(
            f"cannot draw {', '.join(left[:4])}{more} of {type(model).__name__} anew: no reset_parameters sets them; give "
            "their modules one, or train a network yourself and pass it as the source of Transfer"
        )
    return twin
