"""The template process: imports what jobs need once, then forks a job process whenever the bridge asks.

Rule of this file: one thread, no work of its own. When the bridge is gone it kills every job and ends; when it is
killed itself, the kernel kills the jobs (``PR_SET_PDEATHSIG``, Linux) or they see their socket close (elsewhere).

Run by :mod:`erl_bridge.jobs.runner` as ``python -m erl_bridge.jobs.template FD APP MEMORY dspy|bare``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from .. import logs
from ..app import Bridge, load, table
from ..datasets import store  # noqa: F401 -- each job that reads a dataset would import it itself
from ..errors import Stopped
from ..handlers import builtin, preload
from ..transports.port import divert_stdout
from . import control
from .channel import Channel
from .worker import Handlers, serve

try:
    from ._arenas import use as use_huge_pages
except ImportError:  # not compiled here

    def use_huge_pages() -> None:
        """See ``_arenas.c``: a job makes many objects faster."""


_PR_SET_PDEATHSIG = 1
_HELD = (signal.SIGTERM, signal.SIGCHLD)


class Template:
    """The loop between the control socket and the children that end."""

    def __init__(self, sock: socket.socket, handlers: Handlers, memory: int) -> None:
        self._control = sock
        self._handlers = handlers
        self._memory = memory
        self._pid = os.getpid()
        self._numbers: dict[int, int] = {}  # process id -> job number
        self._wakeup, self._waker = socket.socketpair()

    def run(self) -> None:
        """Serve until the bridge is gone."""
        self._waker.setblocking(False)
        self._wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._control, self._wakeup], [], [])
            if self._wakeup in ready:
                self._wakeup.recv(4096)
                self._reap()
            if self._control in ready and not self._obey():
                return

    def kill_all(self) -> None:
        """Kill every job process."""
        for pid in self._numbers:
            with suppress(ProcessLookupError):  # reaped when a signal came between that and the note of it
                os.kill(pid, signal.SIGKILL)

    def _obey(self) -> bool:
        record = control.receive(self._control)
        if record is None:
            return False
        kind, number, value, fds = record
        if kind == control.FORK:
            self._fork(number, socket.socket(fileno=fds[0]))
        elif kind == control.KILL:
            for pid in [pid for pid, job in self._numbers.items() if job == number]:
                os.kill(pid, value)
        return True

    def _fork(self, number: int, sock: socket.socket) -> None:
        # Held back until the child has its own handlers: ours would end its siblings.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_job(sock)
        except OSError as error:  # no more processes or memory: the job ends before it began
            print(f"erl_bridge: cannot fork a job process: {error}", file=sys.stderr)
            control.send(self._control, control.ENDED, number, 127 << 8)
        else:
            self._numbers[pid] = number
            control.send(self._control, control.STARTED, number, pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
            sock.close()

    def _reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            control.send(self._control, control.ENDED, self._numbers.pop(pid), status)

    def _become_job(self, sock: socket.socket) -> NoReturn:
        """In the child: leave everything of the template behind, then serve. Does not return."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, _stop)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
            for one in (self._control, self._wakeup, self._waker):
                one.close()
            _die_with(self._pid)
            _limit_memory(self._memory)
            if not self._memory:  # they are mapped many at once, which a limit would count
                use_huge_pages()
            serve(Channel(sock), self._handlers)
            status = 0
        except Stopped:
            status = 0
        finally:
            os._exit(status)  # not sys.exit: interpreter shutdown waits for pool threads that may never end


def _stop(signum: int, frame: object) -> NoReturn:
    raise Stopped


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _limit_memory(extra: int) -> None:
    """Let the job map ``extra`` bytes beyond what it inherited; zero is no limit."""
    if extra:
        with open("/proc/self/statm", "rb") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + extra, mapped + extra))


def main(argv: list[str]) -> None:
    """Import everything, then fork on demand."""
    fd, app, memory, dspy = int(argv[0]), argv[1], int(argv[2]), argv[3] == "dspy"
    divert_stdout()  # its buffer must be empty when a process ends, or is forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the bridge process to act on
    handlers = table(builtin(dspy=dspy), load(app) if app else Bridge())
    if dspy:
        preload()
        logs.install()
    gc.collect()
    gc.freeze()  # keep the collector from writing to pages that jobs share
    template = Template(socket.socket(fileno=fd), handlers, memory)
    signal.signal(signal.SIGTERM, _stop)
    try:
        template.run()
    except Stopped:
        pass
    finally:
        template.kill_all()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
