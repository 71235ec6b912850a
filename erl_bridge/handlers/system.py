"""The bridge's own requests: answered at once, also while everything else is busy.

Rule of this file: a control takes the client and the request and returns the reply, or None when it sends it later.
"""

from __future__ import annotations

import os
import sys
import time

from ..app import Handler
from ..context import check_callback_result
from ..errors import InvalidRequest, Overloaded
from ..messages import Reply
from ..refusals import invalid, unknown_key
from ..terms import Atom
from ..version import VERSION
from ..vocabulary import named
from ..wire.port import MAX_TIMEOUT_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ..dispatch import Capacity, Client
    from ..messages import Request

DRAIN_MS = 5_000


def ping(client: Client, request: Request) -> Reply:
    """``payload`` comes back as it is."""
    return Reply(request.message_id, request.payload)


def health_check(client: Client, request: Request) -> Reply:
    """How the bridge process is: ``%{status: :healthy | :draining, version, os_pid, uptime_ms, ...}``."""
    fields(request.payload)
    dispatcher = client.dispatcher
    in_flight, jobs_running, jobs_waiting = dispatcher.load()
    return Reply(
        request.message_id,
        named(
            {
                "status": Atom("draining" if dispatcher.draining else "healthy"),
                "version": VERSION,
                "python": PYTHON,
                "os_pid": os.getpid(),
                "uptime_ms": round((time.monotonic() - dispatcher.started) * 1000),
                "requests_in_flight": in_flight,
                "jobs_running": jobs_running,
                "jobs_waiting": jobs_waiting,
                "memory_bytes": memory_bytes(),
            }
        ),
    )


def cancel(client: Client, request: Request) -> Reply:
    """End the request ``payload.message_id``: ``%{cancelled: true | false}``, false when it is not in flight."""
    payload = fields(request.payload, required=("message_id",))
    return Reply(request.message_id, named({"cancelled": client.cancel(payload["message_id"])}))


def callback_result(client: Client, request: Request) -> Reply:
    """The answer to a call: ``%{accepted: true | false}``, false when nobody waits for it any more."""
    payload = fields(request.payload, required=("call_id", "result"))
    result = check_callback_result(payload["result"])
    accepted = client.callback_result(payload["call_id"], result, request.atoms)
    return Reply(request.message_id, named({"accepted": accepted}))


def shutdown(client: Client, request: Request) -> None:
    """Drain for at most ``payload.drain_ms``, reply ``%{finished: n, cancelled: n}`` and end the server."""
    if client.dispatcher.draining:
        raise Overloaded("the server is shutting down already")
    payload = fields(request.payload, optional=("drain_ms",))
    drain_ms = payload.get("drain_ms", DRAIN_MS)
    if type(drain_ms) is not int or not 0 <= drain_ms <= MAX_TIMEOUT_MS:
        raise invalid("payload.drain_ms", f"an integer from 0 to {MAX_TIMEOUT_MS}", drain_ms)

    def done(finished: int, cancelled: int) -> None:
        reply = Reply(request.message_id, named({"finished": finished, "cancelled": cancelled}))
        client.tell(request, reply, request.atoms)

    client.dispatcher.drain(drain_ms / 1000, done)


def hello(handlers: Mapping[str, Handler], capacity: Capacity, max_frame: int) -> dict[Any, Any]:
    """The facts of the first message: ``%{protocol: 1, version, python, os_pid, request_types, limits}``.

    Request types of the bridge are atoms, those of the user's handlers are strings, since Python invents no atoms.
    """
    limits = {
        "max_frame_bytes": max_frame,
        "max_in_flight": capacity.max_in_flight,
        "max_jobs": capacity.max_jobs,
    }
    return named(
        {
            "protocol": 1,
            "version": VERSION,
            "python": PYTHON,
            "os_pid": os.getpid(),
            "request_types": list(named(handlers)),
            "limits": named(limits),
        }
    )


PYTHON = ".".join(str(part) for part in sys.version_info[:3])


def memory_bytes() -> int:
    """The resident memory of this process, in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the peak is the best there is
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fields(payload: Any, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A small payload by its keys. Not msgspec, which takes 40 ms to import: these requests are answered at once."""
    allowed = [*required, *optional]
    found = {}
    for key, value in payload.items():
        if str(key) not in allowed:
            raise unknown_key("payload", key, allowed)
        found[str(key)] = value
    for name in required:
        if name not in found:
            raise InvalidRequest(f"payload: the required key {name} is missing", context={Atom("path"): "payload"})
    return found


HANDLERS = [
    Handler(function.__name__, function, run="control")
    for function in (ping, health_check, cancel, callback_result, shutdown)
]
