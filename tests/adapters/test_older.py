"""The tests of two frameworks once more, with older releases of them in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RELEASES = {"test_spikingjelly.py": ("spikingjelly", "0.0.0.0.14"), "test_snntorch.py": ("snntorch", "0.9.4")}


@pytest.mark.parametrize("file", RELEASES)
def test_an_older_release_passes_the_same_tests(file):
    framework, release = RELEASES[file]
    older = Path(os.environ["ROBUSTSPIKE_OLDER"])
    if not (older / f"{framework}-{release}.dist-info").is_dir():
        pytest.skip(f"no {framework} {release} in {older}; `make install` puts it there")
    environment = os.environ | {"PYTHONPATH": str(older), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    version = f"import importlib.metadata as m; print(m.version({framework!r}))"
    seen = subprocess.run([sys.executable, "-c", version], capture_output=True, text=True, env=environment, check=True)
    assert seen.stdout.strip() == release
