"""What is installed here, for those who look for what is wrong: ``erl_bridge info``.

Rule of this file: one fact on each line, its name first, so that people and programs read the same.
"""

from __future__ import annotations

import sys

from .home import home
from .version import VERSION


def facts() -> dict[str, str]:
    """Name and value of each fact. A package that is not installed has no line.

    >>> facts()["codec"] in ("compiled", "python")
    True
    """
    from importlib import metadata

    from . import etf

    found = {
        "erl_bridge": VERSION,
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "codec": etf.backend,
        "home": home(),
    }
    for package in ("dspy", "msgspec"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def print_facts() -> int:
    """Print the facts; returns the exit status."""
    for name, value in facts().items():
        print(name, value)
    return 0
