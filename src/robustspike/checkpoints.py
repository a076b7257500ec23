"""Weights on disk: one safetensors file, its architecture and history in the header, a hash over all of it.

Files are written beside their target and then renamed, so a killed process or a full disk leaves the old file whole.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robustspike.models import SNN, build
from robustspike.writing import replacing

FORMAT = "robustspike-1"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not of the kind asked for."""


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and contents, in the order of the names; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {list(t.shape)} {t.dtype}".encode())
        if t.numel():
            digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _seal(tensors: Mapping[str, Tensor], record: str) -> str:
    """The fingerprint of a whole file: tensors and record."""
    return hashlib.sha256(f"{tensors_fingerprint(tensors)} {record}".encode()).hexdigest()[:16]


def architecture(model: nn.Module) -> str:
    """What a model is without its weights: every module with its settings, 16 hexadecimal digits."""
    named = ((path, getattr(m, "adapted_constants", None)) for path, m in model.named_modules())
    constants = [f"{path} {said}" for path, said in named if said is not None]
    text = re.sub(r" at 0x[0-9a-f]+", "", "; ".join([repr(model), *constants]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(model: nn.Module) -> str:
    """What a model is and all its tensors, those that are not saved included.

    A plain attribute that a module's ``extra_repr`` does not print is not seen: two models that differ in one look alike.

    Example:
        >>> weights, other = digits_cnn(time_steps=4), digits_cnn(time_steps=8)
        >>> _ = other.load_state_dict(weights.state_dict())
        >>> fingerprint(weights) == fingerprint(other)
        False
    """
    return fingerprint_of(architecture(model), tensors_of(model))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model, saved or not, without the state that calls leave in its neurons."""
    state = {
        f"{path}.{name}" if path else name for path, m in model.named_modules() for name in getattr(m, "transient", ())
    }
    buffers = {name: buffer for name, buffer in model.named_buffers() if name not in state}
    return dict(model.named_parameters()) | buffers


def fingerprint_of(architecture: str, tensors: Mapping[str, Tensor]) -> str:
    """The fingerprint of a model with this :func:`architecture` and these parameters and buffers."""
    return hashlib.sha256(f"{architecture} {tensors_fingerprint(tensors)}".encode()).hexdigest()[:16]


def settings_text(value: Any) -> str:
    """A representation of an algorithm that is equal in every process: functions by name, networks by their weights.

    Example:
        >>> settings_text(UniformNoise(Linf(0.1)))
        'UniformNoise(ball=Linf(eps=0.1), tries=1)'
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = (f"{f.name}={settings_text(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, nn.Module):
        return f"{type(value).__name__}[{fingerprint(value)}]"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(settings_text, value))})"
    if isinstance(value, functools.partial):
        return f"partial({settings_text((value.func, *value.args, *value.keywords.items()))})"
    if repr(value) == object.__repr__(value):
        return f"{type(value).__qualname__}({settings_text(tuple(vars(value).items()))})"
    name = str(getattr(value, "__qualname__", repr(value)))
    if "<locals>" in name or "<lambda>" in name:  # only its code and what it holds tell it from another
        name += f"[{_code_of(value)}]"
    if inspect.ismethod(value):
        name += f" of {settings_text(value.__self__)}"
    return name


def _code_of(function: Any) -> str:
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    text = f"{_read(function.__code__)} {settings_text(tuple(held))}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _read(code: types.CodeType) -> str:
    """What a function's code does, names and inner functions included, and not where it is written."""
    consts = [_read(const) if inspect.iscode(const) else _constant(const) for const in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {consts}"


def _constant(const: Any) -> str:
    """The same in every process: sets of texts have another order in each."""
    return repr(sorted(map(repr, const))) if isinstance(const, frozenset) else repr(const)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Tensors and a JSON record in one safetensors file; tensors that share memory are written each by itself."""
    copies = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    text = json.dumps(record)
    header = {"format": FORMAT, "record": text, "fingerprint": _seal(copies, text)}
    with replacing(path) as unfinished:
        unfinished.write_bytes(to_bytes(copies, metadata=header))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_tensors` wrote; nothing is unpickled.

    Raises:
        CheckpointError: if the file is missing, truncated, changed, or not written by robustspike.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; train one with `robustspike train`, or check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no readable safetensors file ({error}); it is truncated or of another format, restore or retrain it"
        ) from None
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by robustspike: its header lacks the format {FORMAT!r}")
    if header.get("fingerprint") != _seal(tensors, header.get("record", "")):
        raise CheckpointError(f"{path} is damaged: its contents do not match its fingerprint; restore or retrain it")
    return tensors, json.loads(header["record"])


def save_model(model: SNN, path: str | Path, **history: Any) -> None:
    """Weights, architecture and any JSON values that say where they come from.

    Example:
        >>> model = digits_cnn(time_steps=2)
        >>> save_model(model, tmp_path / "weights.safetensors", epoch=3)
        >>> fingerprint(load_model(tmp_path / "weights.safetensors")) == fingerprint(model)
        True
    """
    write_tensors(Path(path), model.state_dict(), {"model": model.settings.record(), "history": history})


def load_model(path: str | Path) -> SNN:
    """The network that :func:`save_model` wrote, in evaluation mode; ``path`` may be its folder.

    Raises:
        CheckpointError: if the file is missing, damaged or foreign, or does not hold a whole network.

    Example:
        >>> save_model(digits_cnn(time_steps=2), tmp_path / "weights.safetensors")
        >>> load_model(tmp_path).time_steps
        2
    """
    path = Path(path)
    path = path / "weights.safetensors" if path.is_dir() else path
    return model_of(*read_tensors(path), path)


def model_of(tensors: Mapping[str, Tensor], record: Mapping[str, Any], path: Path) -> SNN:
    """The network of what :func:`read_tensors` found in a file, in evaluation mode.

    Raises:
        CheckpointError: if that is no network, or one that cannot be built.
    """
    if "network" in record:
        target = record["network"].get("target")
        raise CheckpointError(f"{path} holds the tensors of {target}, which only that file can make a network of")
    if "model" not in record:
        raise CheckpointError(f"{path} holds no network (its record has {', '.join(record) or 'nothing'})")
    try:
        model = build(record["model"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} holds a network that cannot be built: {error}") from None
    kinds = [t.dtype for t in tensors.values() if t.is_floating_point()]
    model.to(kinds[0] if kinds else None)
    load_weights(model, tensors, path)
    return model.eval()


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy tensors into a model, strictly; it is changed only if all of them fit.

    Raises:
        CheckpointError: naming the first tensors that are missing, unexpected, of another shape, or :func:`unfit`.
    """
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is unexpected" for name in tensors if name not in own]
    wrong += misshapen(own, tensors)
    wrong = wrong or [f"{name} {phrase}" for name, t in tensors.items() if (phrase := unfit(own[name], t))]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(f"{source} does not fit this network: {'; '.join(wrong[:4])}{more}")
    model.load_state_dict(dict(tensors))


def misshapen(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """For every tensor of another shape than the model's own of its name, a clause that says so."""
    return [
        f"{name} is {list(given[name].shape)} and should be {list(t.shape)}"
        for name, t in own.items()
        if name in given and not is_lazy(t) and not given[name].is_nested and given[name].shape != t.shape
    ]


def unfit(own: Tensor, given: Tensor) -> str | None:
    """Why a tensor's values cannot be those of the model's own of the same shape, as the end of a clause; None if they can.

    Example:
        >>> unfit(torch.zeros(2), torch.tensor([1, 2], dtype=torch.int8))
        'is of int8 and should be of float32'
        >>> unfit(torch.zeros(2), torch.tensor([1.0, 1e300], dtype=torch.float64))
        'has values too large for float32'
    """
    if given.is_meta:
        return "is on the meta device and has no values"
    if given.is_quantized:
        return "is quantized and should be dequantized first"
    if given.is_nested or given.layout != torch.strided:
        return f"is {'nested' if given.is_nested else _name(given.layout)} and should be dense"
    if _kind(given) != _kind(own):
        return f"is of {_name(given.dtype)} and should be of {_name(own.dtype)}"
    if _kind(own) in ("floating", "complex"):
        if bool(_strange(own, given, given).any()):
            return "has values that are not finite"
        if bool(_strange(own, given, given.to(own.dtype)).any()):
            return f"has values too large for {_name(own.dtype)}"
    return None


def _kind(t: Tensor) -> str:
    if t.is_floating_point() or t.is_complex():
        return "complex" if t.is_complex() else "floating"
    return "boolean" if t.dtype == torch.bool else "integer"


def _name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


def _strange(own: Tensor, given: Tensor, values: Tensor) -> Tensor:
    """Where values are not finite, but for the infinite ones that are given and the model's own already, as in a mask."""
    values = values.float() if values.dtype.itemsize == 1 else values
    if is_lazy(own) or own.is_meta:
        return ~values.isfinite()
    given = given.float() if given.dtype.itemsize == 1 else given
    kept = given.isinf() & (given == own.detach().to(given.device))
    return ~values.isfinite() & ~kept
