"""Who may import whom, and how long a file or function may grow."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "robustspike"
FILES = sorted(SOURCE.rglob("*.py"))

RANKS = {
    **dict.fromkeys(("surrogates", "draws", "balls", "results", "progress", "processes", "writing"), 0),
    **dict.fromkeys(("neurons", "kernels", "encoders", "data", "report"), 1),
    **dict.fromkeys(("models", "gradients"), 2),
    **dict.fromkeys(("attacks", "defences", "adapters", "checkpoints"), 3),
    **dict.fromkeys(("train", "evaluate", "audits", "doubts", "state_files"), 4),
    **dict.fromkeys(("experiment", "demo", "stand_ins", "doctor"), 5),
    "cli": 6,
}
# Exceptions to "only to a lower rank" (or within one package): allowed all the same, or forbidden although lower.
ALLOWED = {("balls", "draws"), ("neurons", "kernels"), ("encoders", "neurons")}
ALLOWED |= {
    ("adapters", "checkpoints"),
    ("demo", "experiment"),
    ("evaluate", "doubts"),
    ("audits", "evaluate"),
    ("experiment", "stand_ins"),
}
FORBIDDEN = {("attacks", "models"), *(("report", name) for name in ("surrogates", "draws", "balls"))}


def part_of(path):
    """The part of the package that a file belongs to: its first folder, or its own name."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imported(tree, package):
    """(line, part) for every import of robustspike in a file of ``package``, e.g. ("robustspike", "data")."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        for name in names:
            if name[0] == "robustspike":
                yield node.lineno, name[1] if len(name) > 1 else "robustspike"


def complaints(source, path):
    """What a file imports that its rank forbids, one sentence each."""
    part, package = part_of(path), ("robustspike", *path.relative_to(SOURCE).parts[:-1])
    if part not in RANKS:
        return [f"{path}: give {part!r} a rank in {Path(__file__).name}"]
    wrong = []
    for line, target in imported(ast.parse(source), package):
        if target == part:
            continue
        lower = target in RANKS and RANKS[target] < RANKS[part] and (part, target) not in FORBIDDEN
        if not lower and (part, target) not in ALLOWED:
            wrong.append(f"{path}:{line}: {part} must not import {target}")
    return list(dict.fromkeys(wrong))


def test_the_source_is_found():
    assert {"neurons.py", "estimators.py"} <= {path.name for path in FILES}


def test_imports_only_go_to_a_lower_rank():
    found = [c for path in FILES if path != SOURCE / "__init__.py" for c in complaints(path.read_text(), path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("surrogates.py", "import robustspike.neurons"),
        ("balls.py", "from robustspike import gradients"),
        ("kernels/loop.py", "from robustspike.neurons import LIF"),
        ("kernels/loop.py", "from ..models.snn import SNN"),
        ("neurons.py", "from . import encoders"),
        ("models/snn.py", "from robustspike.gradients import RGA"),
        ("gradients/pixels.py", "def f():\n    from robustspike.models import SNN"),
        ("attacks/pgd.py", "from robustspike.models import SNN"),
        ("defences/terms.py", "from robustspike.attacks import PGD"),
        ("report/html.py", "from robustspike.draws import Draws"),
        ("evaluate.py", "import robustspike as rs"),
        ("train.py", "if TYPE_CHECKING:\n    from robustspike.audits import audit"),
        ("helpful.py", "import torch"),
    ],
)
def test_a_forbidden_import_is_noticed(file, line):
    assert len(complaints(line, SOURCE / file)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("neurons.py", "from robustspike import kernels"),
        ("encoders.py", "from robustspike.neurons import repeat"),
        ("kernels/fused.py", "from robustspike.kernels import loop"),
        ("kernels/fused.py", "from . import loop"),
        ("attacks/pgd.py", "from robustspike.gradients import RGA\nimport torch, robustspike.balls"),
        ("report/html.py", "from robustspike.results import Outcome"),
        ("cli.py", "from robustspike import demo, train"),
    ],
)
def test_a_permitted_import_is_left_alone(file, line):
    assert complaints(line, SOURCE / file) == []


def test_the_front_door_has_no_logic():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, definitions)]


def test_no_file_is_named_after_nothing():
    names = {"util", "utils", "common", "helper", "helpers", "manager", "misc"}
    assert not [path for path in SOURCE.rglob("*") if path.stem.lower() in names]


def length_without_docstring(function):
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def test_files_and_functions_stay_short():
    long = []
    for path in FILES:
        text = path.read_text()
        if len(text.splitlines()) >= 420:
            long.append(f"{path}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = length_without_docstring(node)
                if length >= 60:
                    long.append(f"{path}:{node.lineno}: {node.name} has {length} lines")
    assert not long, "\n".join(long)
