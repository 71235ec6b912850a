"""Runs a program on a terminal of its own.

What it shows goes to stdout, between "pid N" and the keys that the terminal has afterwards; what
comes to stdin is typed. The status is the program's, 128 and the signal when one ended it.
"""

import os
import pty
import select
import sys
import termios
import time


def keys(terminal: int) -> list[bytes]:
    """The characters that send SIGINT and SIGQUIT."""
    characters = termios.tcgetattr(terminal)[6]
    return [characters[termios.VINTR], characters[termios.VQUIT]]


pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])

before = keys(terminal)
os.write(1, b"pid %d\n" % pid)
sources = [terminal, 0]
while terminal in sources:
    for source in select.select(sources, [], [])[0]:
        try:
            data = os.read(source, 65536)
        except OSError:  # the program has ended
            data = b""
        if not data:
            sources.remove(source)
        else:
            os.write(terminal if source == 0 else 1, data)

status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
at_once = keys(terminal)
# Nothing tells of a terminal's settings.
deadline = time.monotonic() + 20
while keys(terminal) != before and time.monotonic() < deadline:
    time.sleep(0.01)
when = "at once" if at_once == before else "later" if keys(terminal) == before else "never"
os.write(1, b"keys as before: %s\n" % when.encode())
sys.exit(status if status >= 0 else 128 - status)
