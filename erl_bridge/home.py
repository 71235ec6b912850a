"""The folder in which the bridge keeps what outlives its processes: datasets, answers of language models.

Rule of this file: it says where, and makes nothing.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def home(environment: Mapping[str, str] | None = None) -> str:
    """``$ERL_BRIDGE_HOME``, or ``erl_bridge`` in ``$XDG_DATA_HOME``, which is ``~/.local/share`` unless it is set.

    >>> home({"ERL_BRIDGE_HOME": "/srv/data"}), home({"XDG_DATA_HOME": "/srv"})
    ('/srv/data', '/srv/erl_bridge')
    """
    environment = os.environ if environment is None else environment
    if chosen := environment.get("ERL_BRIDGE_HOME"):
        return chosen
    data = environment.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "erl_bridge")
