"""Commands run in this process."""

import pytest
import torch
from tests.cli.commands import QUIET, SMALL

from robustspike.cli import main


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are no faster on more, and much slower where other work runs beside them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Runs a command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("ROBUSTSPIKE_DEBUG", raising=False)

    def run(*argv):
        with pytest.raises(SystemExit) as leaving:
            main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return leaving.value.code or 0, out, err

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run; copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "sr-star"
    with pytest.raises(SystemExit) as leaving:
        main(["train", "--defence", "sr-star", "--out", str(folder), *SMALL, *QUIET])
    assert not leaving.value.code
    return folder
