"""The cookie, which every node of a cluster must know.

Rule of this file: it is read from a file, never from the command line, where others could see it, and never shown.
"""

from __future__ import annotations

import os

DEFAULT_FILE = "~/.erlang.cookie"
_MAX_COOKIE = 4096  # bytes of the file


class BadCookie(Exception):
    """There is no cookie that could be used; the message says why."""


def read(path: str) -> bytes:
    """The cookie in a file: its first line. Raises :class:`BadCookie`."""
    path = os.path.expanduser(path)
    try:
        with open(path, "rb") as file:
            readable_by_others = os.fstat(file.fileno()).st_mode & 0o077
            cookie = file.read(_MAX_COOKIE).split(b"\n", 1)[0].strip(b" \r\t")
    except OSError as error:
        raise BadCookie(f"the cookie file {path} cannot be read: {error.strerror}") from None
    if readable_by_others:
        raise BadCookie(f"the cookie file {path} may be read by others than its owner; chmod 400 {path}")
    if not cookie or cookie == b"nocookie":
        raise BadCookie(f"the cookie file {path} holds no cookie")
    return cookie
