"""Weights that others saved: safetensors and PyTorch's own files, read without executing what is in them."""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.serialization import MAGIC_NUMBER

from robustspike.checkpoints import FORMAT, CheckpointError, load_weights, read_tensors

# Under which names training scripts keep a network's tensors beside epochs and optimisers; the first that is there counts.
NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")

# A key in old files of SpikingJelly: only the derivative depends on it, which estimators replace, and no call does.
SURROGATE_ALPHA = "surrogate_function.alpha"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, or in what ``torch.save`` wrote (.pt, .pth, .ckpt, .bin), by name, on the CPU.

    Nothing that a file holds is executed. Where a file holds more than tensors, those under "state_dict", "model", … count.

    Raises:
        CheckpointError: in one sentence, for a file that is missing, damaged, empty, or that needs code to be unpickled,
            with the command that converts it.

    Example:
        >>> torch.save({"epoch": 3, "state_dict": nn.Linear(2, 1).state_dict()}, tmp_path / "best.pt")
        >>> {name: tuple(t.shape) for name, t in read_state_dict(tmp_path / "best.pt").items()}
        {'weight': (1, 2), 'bias': (1,)}
    """
    path = Path(path)
    if not path.is_file():
        there = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"no weights at {path}: there is {there}; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty: it has 0 bytes; copy or save it again")
    tensors = _safetensors(path) if _is_safetensors(path) else _unwrapped(_unpickled(path), path)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; save a network's with torch.save(model.state_dict(), …)")
    return tensors


def load_file(model: nn.Module, path: str | Path) -> None:
    """Copy the tensors of a file into a model, strictly; see :func:`read_state_dict`.

    Names may all begin with something that the model's do not, as "module." after ``DataParallel`` and "model." after
    Lightning; what a file holds beside such a whole network is ignored.

    Raises:
        CheckpointError: as :func:`read_state_dict`; for tensors that do not fit, with the first differences; for a file
            in which several networks fit.

    Example:
        >>> trained, model = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> torch.save({f"module.{name}": t for name, t in trained.state_dict().items()}, tmp_path / "best.pt")
        >>> load_file(model, tmp_path / "best.pt")
        >>> torch.equal(model.weight, trained.weight)
        True
    """
    load_weights(model, named_for(model, read_state_dict(path), path), path)


def fits(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a model's tensors by name, under some prefix."""
    try:
        return set(named_for(model, tensors, "")) == set(model.state_dict())
    except CheckpointError:
        return True


def named_for(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The tensors as the model names them: those under the prefix with which the most of its names occur.

    Raises:
        CheckpointError: where its names occur under several prefixes.
    """
    own = set(model.state_dict())
    tensors = {name: t for name, t in tensors.items() if not name.endswith(SURROGATE_ALPHA) or _ends(own, name)}
    under = {prefix: _under(prefix, tensors) for prefix in _prefixes(own, tensors)}
    whole = [prefix for prefix, found in under.items() if set(found) == own]
    if len(whole) > 1 and "" not in whole:
        raise CheckpointError(
            f"{source} holds {len(whole)} networks that fit, under {', '.join(whole)}; save the tensors of one of them"
        )
    if whole:
        return under["" if "" in whole else whole[0]]
    return max(under.values(), key=lambda found: len(own & set(found)))


def _ends(own: set[str], name: str) -> bool:
    """Whether a name of the model's own is the end of this one."""
    return any(name == one or name.endswith(f".{one}") for one in own)


def _prefixes(own: set[str], names: Mapping[str, Any]) -> list[str]:
    """What may stand before the model's names: what does before some of them, and nothing."""
    found = {""}
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[:k]) + "." for k in range(1, len(parts)) if ".".join(parts[k:]) in own}
    return sorted(found)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


# --- safetensors


def _is_safetensors(path: Path) -> bool:
    """By its ending or by its first bytes: the length of a header, then the header in JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    plausible = head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
    return plausible or path.suffix == ".safetensors"


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") == FORMAT:
                return read_tensors(path)[0]
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, why: object) -> CheckpointError:
    said = str(why).strip() or type(why).__name__
    first = re.split(r"[\n:.] ?", said)[0] if len(said) > 120 else said
    return CheckpointError(f"{path} is damaged, or no file of weights ({first.rstrip('.')}); copy or save it again")


# --- what torch.save wrote


def _unpickled(path: Path) -> Any:
    """What is in the file, by PyTorch's unpickler for tensors and plain values."""
    if spoiled := _spoiled(path):
        raise _damaged(path, f"its part {spoiled} does not match its check sum")
    load = f"torch.load({str(path)!r}, weights_only=False)"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual protocol; it is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        if "TorchScript" in text:
            raise _needs_code(path, "a TorchScript program", f"torch.jit.load({str(path)!r}).state_dict()") from None
        if refused := re.search(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)", text):
            raise _needs_code(path, f"a pickled object of {refused[1]}", _tensors_of(load, path)) from None
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in text:
            load = f"__import__('pickle').loads(__import__('pathlib').Path({str(path)!r}).read_bytes())"
            raise _needs_code(path, "what pickle wrote, not torch.save", _tensors_of(load, path)) from None
        why = "it begins as no such file does" if isinstance(error, KeyError) else error
        raise _damaged(path, why) from None


def _spoiled(path: Path) -> str | None:
    """The first part of a zip file that does not match its check sum, which PyTorch does not look at."""
    try:
        with zipfile.ZipFile(path) as file:
            summed = any(part.CRC for part in file.infolist())
            return file.testzip() if summed else None
    except zipfile.BadZipFile:
        return None
    except Exception as error:  # whatever a damaged header leads to
        return str(error) or type(error).__name__


def _needs_code(path: Path, holds: str, tensors: str) -> CheckpointError:
    """The refusal, with the command that converts the file where somebody trusts it."""
    if command := re.search(r"\b(?:posix|nt|os|subprocess|builtins|runpy|webbrowser)\.\w+", holds):
        return CheckpointError(
            f"{path} calls {command[0]} when it is loaded, which weights never do: delete it, do not load it"
        )
    better = f"{path.with_suffix('')}-weights.pt"
    theirs = re.search(r"__main__\.(\w+)", holds)
    needs = f"import torch; from your_script import {theirs[1]}" if theirs else "import torch"
    code = f"{needs}; torch.save({tensors}, {better!r})"
    quoted = shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'
    return CheckpointError(
        f"{path} holds {holds}, and loading it would execute code; if you trust where it comes from, convert it once with "
        f"`python -c {quoted}` and take {better}"
    )


def _tensors_of(load: str, path: Path) -> str:
    """The expression for the tensors in what is loaded, as far as the pickle shows it without being executed."""
    opcodes = _opcodes(path)
    first = next((arg or name for name, arg in opcodes if name not in ("PROTO", "FRAME")), None)
    if first not in ("EMPTY_DICT", "collections OrderedDict", "collections"):
        return f"{load}.state_dict()"
    texts = {arg for name, arg in opcodes if "UNICODE" in name}
    if nest := next((name for name in NESTS if name in texts), None):
        return f"{load}[{nest!r}]"
    return f"{{k: v for k, v in {load}.items() if torch.is_tensor(v)}}"


def _opcodes(path: Path) -> list[tuple[str, Any]]:
    """The operations of a file's pickle with their arguments; of old files, those of the fourth one, as far as it goes."""
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            inside = [name for name in parts.namelist() if name.endswith("data.pkl")]
            content = parts.read(inside[0]) if inside else b""
    file, found = io.BytesIO(content), []
    with contextlib.suppress(ValueError):  # the tensors' bytes, which follow
        for _ in range(4):
            found.append([(opcode.name, arg) for opcode, arg, _ in pickletools.genops(file)])
    old = len(found) == 4 and found[0][1] == ("LONG1", MAGIC_NUMBER)
    return found[3 if old else 0] if found else []


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a mapping, or of the mapping in it that training scripts keep them in."""
    while isinstance(content, Mapping):
        nested = {name: value for name, value in content.items() if isinstance(value, Mapping)}
        tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
        if name := next((name for name in NESTS if name in nested), None):
            content = nested[name]
        elif tensors or len(nested) != 1:
            if not tensors and nested:
                raise CheckpointError(
                    f"{path} holds {', '.join(map(str, nested))}, none of which is a name for a network's tensors; save "
                    "those with torch.save(model.state_dict(), …)"
                )
            return tensors
        else:
            (content,) = nested.values()
    if isinstance(content, Tensor):
        raise CheckpointError(f"{path} holds one tensor without a name; save a network's with model.state_dict()")
    raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name; save model.state_dict()")
