"""The transport of an Erlang Port: two file descriptors, stdio or the 3 and 4 of ``:nouse_stdio``.

Rule of this file: the descriptors are taken away from the process before anything else is imported, so that nothing a
library prints can end up in a frame.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys

from .base import WRITE_SIZE
from .locks import new_lock
from .spinner import SPIN_US, Spinner

READ_SIZE = 64 * 1024
LARGE_READ_SIZE = 1024 * 1024  # while much comes; then the pipe may hold as much


class PortTransport:
    """Bytes over a pair of descriptors that nobody else in the process has.

    ``spin_us`` is for how many microseconds :meth:`read` may look for bytes before it sleeps; 0 for not at all.
    With one processor it does not: the client needs it to send anything.
    """

    def __init__(self, fd_in: int, fd_out: int, spin_us: int = SPIN_US) -> None:
        self.fd_in = fd_in
        self.fd_out = fd_out
        self._read_size = READ_SIZE
        self.serving = new_lock()  # held but for the time in which read waits
        self.serving.acquire()
        poll = select.poll()
        poll.register(fd_in, select.POLLIN)
        self._spinner = Spinner(poll.poll, self._read, spin_us / 1e6 if processors() > 1 else 0.0)
        self.habit = self._spinner.habit

    def read(self, alone: bool = False) -> bytes:
        """See :meth:`erl_bridge.transports.base.Transport.read`."""
        self.serving.release()
        try:
            return self._spinner.wait(alone)  # type: ignore[no-any-return]
        except OSError:
            return b""
        finally:
            self.serving.acquire()

    def _read(self) -> bytes:
        data = os.read(self.fd_in, self._read_size)
        if len(data) < READ_SIZE:
            self._read_size = READ_SIZE
        elif self._read_size == READ_SIZE:  # more is waiting than that
            self._read_size = LARGE_READ_SIZE
            widen(self.fd_in)
        return data

    def write(self, *parts: bytes) -> None:
        """See :meth:`erl_bridge.transports.base.Transport.write`."""
        large = len(parts[-1]) >= WRITE_SIZE
        try:
            self._write(b"".join(parts[:-1] if large else parts))
            if large:  # not copied once more
                self._write(parts[-1])
        except OSError:
            return  # the client is gone; the end of the input says so to the reader

    def _write(self, data: bytes) -> None:
        written = os.write(self.fd_out, data)
        if written < len(data):
            rest = memoryview(data)[written:]
            while rest:
                rest = rest[os.write(self.fd_out, rest) :]

    def settle(self) -> None:
        """Return, in another thread than that of :meth:`read`, when all that was read has been served.

        Nothing is served any more afterwards.
        """
        self.serving.acquire()


def widen(fd: int) -> None:
    """Make a pipe larger, so that who writes much to it need not wait as often. What is no pipe is left alone."""
    import fcntl  # not before hello

    with contextlib.suppress(OSError, AttributeError):  # no pipe, more than the user may have; not Linux
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, LARGE_READ_SIZE)


def processors() -> int:
    """How many processors the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def claim_stdio() -> tuple[int, int]:
    """Take stdin and stdout for the protocol and return their new descriptors.

    Afterwards stdin is empty, and what anything writes to stdout, in this process or its children, goes to stderr.
    """
    fds = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    divert_stdout()
    return fds


def claim_fds(fd_in: int, fd_out: int) -> tuple[int, int]:
    """Take two descriptors that were inherited. Raises OSError when they are not open."""
    for fd in (fd_in, fd_out):
        os.set_inheritable(fd, False)
    divert_stdout()
    return fd_in, fd_out


def divert_stdout() -> None:
    """Send what is printed to stderr, line by line."""
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
