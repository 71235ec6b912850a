"""The lock of those who read and write a Port.

Rule of this file: it is made when it is first needed. Compiled code is not imported before a Port is claimed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def new_lock() -> Any:
    """A lock as that of ``threading``; where the fast path is compiled, one that it takes without running Python.

    >>> with new_lock() as held:
    ...     held
    True
    """
    try:
        from ._fast_path import Lock
    except ImportError:  # there was no compiler
        from threading import Lock  # type: ignore[assignment]
    return Lock()
