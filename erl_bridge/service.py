"""What a server is made of, but for its transport: handlers, threads, job processes, and what clients may name of them.

Rule of this file: it makes things from options, and says in one sentence what is wrong with these.
"""

from __future__ import annotations

import os
import sys

from .app import Bridge, load, table
from .datasets.ceilings import Ceilings
from .dispatch import Capacity, Dispatcher
from .handlers import Datasets, rooms
from .jobs.runner import JobRunner
from .timers import Timers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .app import Handler
    from .wire.bert_rpc import Exposed


class Service:
    """The handlers of a process and what they run in.

    ``app`` is as for :func:`erl_bridge.app.load`, ``ceilings`` are those of :class:`erl_bridge.datasets.ceilings`.
    ``rooms`` are the bridge's own handlers by room, and the application's in the room ``app``.
    """

    def __init__(self, app: str, dspy: bool, capacity: Capacity, job_memory: int, ceilings: Mapping[str, int]) -> None:
        self.timers = Timers()
        self.datasets = Datasets(Ceilings(**ceilings), self.timers)
        users = load(app) if app else Bridge()
        own = rooms(dspy=dspy, datasets=self.datasets)
        self.rooms: dict[str, Iterable[Handler]] = {**own, "app": users}
        self.handlers = table(*own.values(), users)
        self.capacity = capacity
        has_jobs = any(handler.run == "job" for handler in users)
        self.jobs = JobRunner(self.timers, app=app if has_jobs else "", memory=job_memory, dspy=dspy)

    @classmethod
    def of(
        cls, command: str, app: str, dspy: bool, capacity: Capacity, job_memory: int, ceilings: Mapping[str, int]
    ) -> Service | None:
        """The service, or None after it was said why there is none."""
        try:
            return cls(app, dspy, capacity, job_memory, ceilings)
        except Exception as error:
            print(f"erl_bridge {command}: --app: cannot load {app}: {error!r}", file=sys.stderr)
            return None

    def dispatcher(self, on_shutdown: Callable[[], None]) -> Dispatcher:
        """What answers the requests."""
        return Dispatcher(
            self.handlers, jobs=self.jobs, timers=self.timers, capacity=self.capacity, on_shutdown=on_shutdown
        )


# What a client that shares the server with others has no need of, unless it is named.
_NOT_UNASKED = {"shutdown", "callback_result"}


def exposed(names: list[str], service: Service) -> Mapping[str, Mapping[str, Exposed]]:
    """The functions that clients of BERT-RPC may call: those named, or all but what ends the server.

    Raises ValueError for a name that is not there.
    """
    from .wire.bert_rpc import expose, with_request_types

    found = {room: [(handler.name, handler.cache) for handler in group] for room, group in service.rooms.items()}
    chosen = expose(names or None, found)
    if not names:
        chosen = {
            module: {name: function for name, function in functions.items() if name not in _NOT_UNASKED}
            for module, functions in chosen.items()
        }
    return with_request_types(chosen)


def read_token(file: str, variable: str) -> bytes:
    """The token in a file or an environment variable, empty where neither is given. Raises ValueError and OSError."""
    if file:
        with open(file, "rb") as opened:
            token = opened.read(4096).strip()
    elif variable:
        token = os.environ.pop(variable, "").encode()
    else:
        return b""
    if not token:
        raise ValueError(f"the token in {file or variable} is empty")
    return token
