"""Files that are whole or not there."""

import errno
import json
import os
from pathlib import Path

import pytest

from robustspike.writing import replacing, write_text


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as unfinished:
        unfinished.write_text("one")
        assert unfinished.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(ZeroDivisionError), replacing(path) as unfinished:
        unfinished.write_text(f"two {1 / 0}")
    assert path.read_text() == "one"
    with pytest.raises(FileNotFoundError), replacing(path) as unfinished:  # the block itself removes the new file
        unfinished.unlink(missing_ok=True)
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (os, "replace"), (Path, "write_text")])
def test_a_full_disk_leaves_the_old_file_and_is_named_with_it(tmp_path, monkeypatch, owner, name):
    path = tmp_path / "log.jsonl"
    write_text(path, "old")

    monkeypatch.setattr(owner, name, full)
    with pytest.raises(OSError, match=rf"No space left on device: '{path}'"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_first_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "log.jsonl", "text")
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_the_systems_keeps_its_words(tmp_path):
    with pytest.raises(OSError, match=r"^cannot encode this$"), replacing(tmp_path / "picture.png"):
        raise OSError("cannot encode this")


def test_a_block_that_wrote_nothing_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "file.txt"
    with pytest.raises(FileNotFoundError, match=str(path)), replacing(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_in_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "ε ≤ 8/255\n")
    assert (tmp_path / "a.txt").read_bytes() == "ε ≤ 8/255\n".encode()
    write_text(tmp_path / "t.json", json.dumps({"ε": "8/255"}, ensure_ascii=False))
    assert json.loads((tmp_path / "t.json").read_bytes().decode("utf-8")) == {"ε": "8/255"}
