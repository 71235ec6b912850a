"""Receives a dataset again and again, and dies each time one step later: at every call that changes a file.

Prints how many such steps there are. What is wrong ends it with a traceback.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from datasets_support import ROWS, compress, cut, dataset_id, stream

from erl_bridge.datasets import store as store_module
from erl_bridge.datasets.ceilings import Ceilings
from erl_bridge.datasets.reassembler import Announcement, Chunk
from erl_bridge.datasets.store import Store
from erl_bridge.datasets.transfers import Transfers
from erl_bridge.errors import BridgeError
from erl_bridge.timers import Timers

ID = dataset_id(ROWS)
ORDER = (1, 0, 3, 2)
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime", "fcntl.flock"}


class NoTimers(Timers):
    """No threads: a process with threads is not forked."""

    def call_at(self, when: float, function: Any) -> Any:
        return None


def receive(store: Store, compression: str) -> None:
    """Receive all of it, as far as it has not come before."""
    transfers = Transfers(Ceilings(), NoTimers(), store)
    chunks = cut(compress(stream(ROWS), compression), -(-len(compress(stream(ROWS), compression)) // 4))
    transfers.begin(b"t", Announcement(compression))
    for index in ORDER:
        transfers.receive(b"t", Chunk(index, chunks[index], index == 3))


def die_at(step: int) -> None:
    """Have this process die at its step-th call that changes a file; of a write, half is done."""
    steps = itertools.count(1)

    def count(event: str, arguments: Any) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if (event in EVENTS or writes) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(fd: int, data: Any, inner: Any = os.write) -> int:
        if next(steps) == step:
            inner(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return int(inner(fd, data))

    sys.addaudithook(count)
    os.write = write


def check(store: Store, compression: str) -> None:
    """After a death: the dataset is whole or not there, and the transfer can go on."""
    found = [entry.dataset_id for entry in store.entries()]
    if found:
        assert found == [ID]
        assert list(store.open(ID)) == ROWS
    transfers = Transfers(Ceilings(), NoTimers(), store)
    try:
        state = transfers.status(b"t")
    except BridgeError:
        assert not found, "complete, and nobody knows"
    else:
        assert state["dataset_id"] in (None, ID)
        assert bool(store.entries()) == (state["dataset_id"] is not None)
    transfers.close(keep=True)
    receive(store, compression)
    assert list(store.open(ID)) == ROWS
    assert Transfers(Ceilings(), NoTimers(), store).drop(b"t")
    assert os.listdir(os.path.join(store.folder, "transfers")) == []


def main(folder: str) -> None:
    store_module.threading.Thread = lambda **_: type("None", (), {"start": lambda self: None})()
    total = 0
    for compression in ("none", "zlib"):
        for step in itertools.count(1):
            store = Store(os.path.join(folder, compression, str(step)))
            child = os.fork()
            if child == 0:
                die_at(step)
                receive(store, compression)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status) or status == 0, status
            check(store, compression)
            shutil.rmtree(store.folder)
            if status == 0:
                break
            total += 1
    print(total)


if __name__ == "__main__":
    main(sys.argv[1])
