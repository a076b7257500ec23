"""Several processes of one job, as ``torchrun`` starts them; one process is the same with nobody to talk to."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

# One process waits for another's last batch, or for the checks that only one of them runs.
_PATIENCE = timedelta(days=30)

_calls = itertools.count()
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("robustspike_together", default=False)


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work: number ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1
    group: Any = None

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def first(self, make: Callable[[], T]) -> T:
        """What process 0 makes, in all of them; what it refuses, all refuse."""
        if self.world == 1:
            return make()
        made: list[Any] = [None, None]
        if self.rank == 0:
            try:
                made[0] = make()
            except (ValueError, OSError) as error:
                made[1] = error
        dist.broadcast_object_list(made, src=0, group=self.group)
        if made[1] is not None:
            self.gather(None)  # nobody hangs up before all have heard
            raise made[1]
        return made[0]


@contextlib.contextmanager
def launched(backend: str = "gloo") -> Iterator[Processes]:
    """The processes that ``torchrun`` started; what begins within such a block has one process to itself.

    Args:
        backend: of ``torch.distributed``, for tensors on the CPU and possibly others: "gloo", "cpu:gloo,cuda:nccl".
    """
    if _inside.get() or not (dist.is_available() and (dist.is_initialized() or several())):
        yield Processes()
        return
    token = _inside.set(True)
    group: Any = None
    try:
        if dist.is_initialized():
            group = dist.new_group(backend=backend, timeout=_PATIENCE)
        else:
            _initialize(backend)
            group = dist.group.WORLD
        processes = Processes(dist.get_rank(), dist.get_world_size(), group)
        yield processes
        processes.gather(None)
    finally:
        _inside.reset(token)
        if group is not None:
            dist.destroy_process_group(group)


def several() -> bool:
    """Whether the environment names several processes and where they meet, as that of ``torchrun`` does."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and int(os.environ["WORLD_SIZE"]) > 1


def speaks() -> bool:
    """Whether this process is the one that prints: process 0, or the only one."""
    return not several() or int(os.environ["RANK"]) == 0


def first_to_fail() -> bool:
    """Whether no other process has failed before: the one that tells why. True for all where they cannot meet."""
    if not several():
        return True
    try:
        store, *_ = _meeting_point()
        return bool(store.add(f"robustspike failures {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1)
    except (RuntimeError, ValueError, OSError, ImportError):
        return True


@functools.cache
def _meeting_point() -> Any:
    """The store that ``torchrun`` hosts; made once, for its port cannot be opened twice."""
    from torch.distributed.rendezvous import rendezvous  # missing where PyTorch was built without it

    return next(iter(rendezvous("env://")))


def _initialize(backend: str) -> None:
    """A group for this call only; under a name of its own, since a store remembers the addresses of an earlier group."""
    from torch.distributed.distributed_c10d import PrefixStore

    store, rank, world = _meeting_point()
    own = PrefixStore(f"robustspike-{next(_calls)}", store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=_PATIENCE)
