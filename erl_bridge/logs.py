"""What ``logging`` says, as lines that tell their level, for a client that has levels of its own.

Rule of this file: a line begins with ``<N>``, N as in syslog, which sd-daemon(3) describes; and where the application
has set up its logging itself, it stays as it is.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

VARIABLE = "ERL_BRIDGE_LOG_LEVELS"  # set by a client that reads the levels


def install() -> None:
    """Write what the root logger gets to stderr, with levels, if the client reads them."""
    import logging  # 5 ms, too slow to do before hello

    root = logging.getLogger()
    if wanted() and not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(formatter())
        root.addHandler(handler)


def wanted() -> bool:
    """Whether the client reads levels."""
    return bool(os.environ.get(VARIABLE))


def formatter() -> logging.Formatter:
    """Formats a record as ``<4>name: message``, each of its lines with the level.

    >>> import logging
    >>> record = logging.LogRecord("shop", logging.WARNING, "", 0, "two\\nlines", None, None)
    >>> print(formatter().format(record))
    <4>shop: two
    <4>lines
    """
    import logging

    class WithLevel(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            level = next(syslog for least, syslog in _SYSLOG if record.levelno >= least)
            return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())

    return WithLevel("%(name)s: %(message)s")


_SYSLOG = [(50, 2), (40, 3), (30, 4), (20, 6), (0, 7)]  # from a level of logging on: the level of syslog
