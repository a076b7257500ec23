"""Curves for TensorBoard: one event file that a resumed run goes on with."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robustspike.writing import replacing

TENSORBOARD = "tensorboard"
EVENTS = "events.out.tfevents.robustspike"


class Events:
    """Scalars on disk, in the format that TensorBoard reads. What was noted after step ``done`` is forgotten.

    Args:
        folder: where the event file is or will be.
        done: steps of the run that are not made again.
    """

    def __init__(self, folder: Path, done: int) -> None:
        from tensorboardX.proto.event_pb2 import Event  # half a second to load

        self._event, self._path = Event, folder / EVENTS
        kept = [r for r in read_records(self._path) if Event.FromString(r).step <= done] if done else []
        if not kept:
            kept = [Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()]
        with replacing(self._path) as unfinished:
            unfinished.write_bytes(b"".join(map(_framed, kept)))
        self._file = self._path.open("ab")

    def note(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add one value for each name; those that are None are left out."""
        scalars: list[Any] = [{"tag": tag, "simple_value": v} for tag, v in values.items() if v is not None]
        event = self._event(wall_time=time.time(), step=step, summary={"value": scalars})
        self._file.write(_framed(event.SerializeToString()))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_records(path: Path) -> Iterator[bytes]:
    """The records of an event file, up to one that was not written to its end."""
    data = path.read_bytes() if path.exists() else b""
    start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        if start + length + 16 > len(data):
            return
        yield data[start + 12 : start + 12 + length]
        start += length + 16


def _framed(record: bytes) -> bytes:
    """A record as TensorFlow frames it: length, its checksum, the record, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc32c(length)) + record + struct.pack("<I", masked_crc32c(record))
