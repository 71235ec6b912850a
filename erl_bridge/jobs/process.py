"""A job process and the template process, seen from the bridge process.

Rule of this file: whatever becomes of a process, who waits for it gets to know.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time

from ..error_map import from_error_map
from ..errors import ProcessCrashed, Stopped
from ..terms import Atom
from . import control
from .channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..dispatch import Work
    from ..timers import Timers

TERM_TO_KILL = 0.1  # seconds between asking a job to end and ending it
_REPORT_LIMIT = 5.0  # seconds to wait for the template's report on a job whose socket has closed
_CLOSE_LIMIT = 1.0  # seconds to wait for the template to kill its jobs and end


class JobProcess:
    """One job process, seen from the bridge."""

    def __init__(self, number: int, channel: Channel, kill: Callable[[int, int], None], timers: Timers) -> None:
        self.number = number
        self.pid: int | None = None
        self.status: int | None = None
        self.ended = threading.Event()
        self._channel = channel
        self._kill = kill
        self._timers = timers

    def perform(self, work: Work) -> Any:
        """Have the process do ``work`` and return its result; raises what the job raised, or that it died."""
        request = work.request
        remaining = None if work.deadline is None else max(0.0, work.deadline - time.monotonic())
        try:
            self._channel.send(
                "run", request.request_type, request.message_id, request.payload, request.metadata, remaining
            )
        except OSError:
            raise self._crashed() from None
        while (message := self._channel.receive()) is not None:
            tag = message[0]
            if tag == "ok":
                return message[1]
            if tag == "error":
                raise from_error_map(message[1])
            with contextlib.suppress(Stopped):  # answered meanwhile; the process is being ended and may say its last
                _RELAY[tag](work, *message[1:])
        raise self._crashed()

    def answer(self, call_id: int, result: Any) -> bool:
        """Pass on what the client's function returned; False when the process is gone."""
        try:
            self._channel.send("callback_result", call_id, result)
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End the process: politely, and for certain soon after."""
        self._kill(self.number, signal.SIGTERM)
        self._timers.call_at(time.monotonic() + TERM_TO_KILL, self._kill_if_alive)

    def close(self) -> None:
        """Let an idle process go."""
        self._channel.close()

    def _kill_if_alive(self) -> None:
        if not self.ended.is_set():
            self._kill(self.number, signal.SIGKILL)

    def _crashed(self) -> ProcessCrashed:
        self.ended.wait(_REPORT_LIMIT)
        how, context = _describe(self.status)
        return ProcessCrashed(
            f"the job process {self.pid or '?'} {how}; no other request was touched",
            context={Atom("os_pid"): self.pid, **context},
        )


def _relay_event(work: Work, event: Any) -> None:
    work.event(event)


def _relay_call(work: Work, call_id: int, name: Any, args: list[Any]) -> None:
    work.call(call_id, name, args)


def _relay_checkpoint(work: Work, best: Any) -> None:
    work.checkpoint(best)


def _relay_on_node(work: Work, call_id: int, what: str, to: Any, message: Any, timeout: float | None) -> None:
    work.on_node(call_id, what, to, message, timeout)


def _relay_allow(work: Work, atoms: list[Atom]) -> None:
    work.allow(set(atoms))


_RELAY: dict[str, Callable[..., None]] = {
    "event": _relay_event,
    "call": _relay_call,
    "checkpoint": _relay_checkpoint,
    "on_node": _relay_on_node,
    "allow": _relay_allow,
}


def _describe(status: int | None) -> tuple[str, dict[Any, Any]]:
    """How a process ended, from its wait status: in words and as context.

    >>> _describe(9)
    ('was killed by signal 9 (SIGKILL)', {Atom('signal'): 9})
    >>> _describe(256)
    ('ended with exit status 1', {Atom('exit_status'): 1})
    """
    if status is None:
        return "ended with the process it was forked from", {}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"was killed by signal {number} ({signal.Signals(number).name})", {Atom("signal"): number}
    code = os.waitstatus_to_exitcode(status)
    return f"ended with exit status {code}", {Atom("exit_status"): code}


class TemplateProcess:
    """The process that jobs are forked from, seen from the bridge."""

    def __init__(self, arguments: list[str]) -> None:
        self.gone = False
        self._jobs: dict[int, JobProcess] = {}
        self._lock = threading.Lock()
        self._reaped = threading.Event()
        self._control, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            command = [sys.executable, "-m", "erl_bridge.jobs.template", str(theirs.fileno()), *arguments]
            self.pid = os.posix_spawn(sys.executable, command, os.environ)
        threading.Thread(target=self._listen, name="template", daemon=True).start()

    def fork(self, number: int, timers: Timers) -> JobProcess:
        """A new job process. Raises OSError when the template is gone."""
        ours, theirs = socket.socketpair()
        process = JobProcess(number, Channel(ours), self.kill, timers)
        with self._lock, theirs:
            self._jobs[number] = process
            control.send(self._control, control.FORK, number, fds=(theirs.fileno(),))
        return process

    def kill(self, number: int, signum: int) -> None:
        """Send a signal to a job. The template does it, who knows whether the process is still that job."""
        try:
            with self._lock:
                control.send(self._control, control.KILL, number, signum)
        except OSError:
            pass  # the template is gone, and its jobs with it

    def close(self) -> None:
        """End the template and its jobs, and wait until they are gone."""
        if not self._reaped.is_set():
            os.kill(self.pid, signal.SIGTERM)
        if not self._reaped.wait(_CLOSE_LIMIT):
            os.kill(self.pid, signal.SIGKILL)

    def _listen(self) -> None:
        while (record := control.receive(self._control)) is not None:
            kind, number, value, _ = record
            process = self._jobs[number]
            if kind == control.STARTED:
                process.pid = value
            else:
                process.status = value
                process.ended.set()
                del self._jobs[number]
        self.gone = True
        os.waitpid(self.pid, 0)
        self._reaped.set()
        for process in list(self._jobs.values()):
            process.ended.set()
