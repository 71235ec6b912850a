"""``python -m erl_bridge node``: options, then a node and a dispatcher joined together, then the exit status.

Rule of this file: everything that may be wrong about the options is found before anything listens.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ..dispatch import Dispatcher
    from ..timers import Timers
    from .meet import Tls
    from .node import Settings


class BadOption(Exception):
    """The options do not fit together; the message says which and why."""


def tls(cert: str, key: str, ca: str) -> Tls | None:
    """What encrypts connections, by the certificate of this node and the authorities of the others; None without files.

    Raises BadOption and BadTls.
    """
    if not (cert or key or ca):
        return None
    if not (cert and ca):
        raise BadOption("TLS needs --tls-cert and --tls-ca: nodes of a cluster check each other")
    from ..transports.tls import client_context, server_context
    from .meet import Tls

    return Tls(server_context(cert, key, ca), client_context(ca, cert, key))


def settings(
    name: str, cookie_file: str, connect: list[str], host: str, port: int, epmd: bool, **more: Any
) -> Settings:
    """The settings of a node. Raises BadOption and BadCookie."""
    from ..wire.handshake import check_name
    from .cookie import read
    from .node import Settings

    for target in connect:
        target_name, _, target_port = target.partition(":")
        if (wrong := check_name(target_name)) or (target_port and not target_port.isdigit()):
            raise BadOption(f"--connect: expected name@host or name@host:port, got {target!r}")
    if not name and connect:
        name = connect[0].partition("@")[2].partition(":")[0]  # only a host: the other node gives a name
    elif not name:
        raise BadOption("--name: expected the name of this node, name@host")
    elif wrong := check_name(name):
        raise BadOption(f"--name: {wrong}, got {name!r}")
    return Settings(name, read(cookie_file), host=host, port=port, connect=tuple(connect), use_epmd=epmd, **more)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt(3)
_KEPT = 32 << 20  # bytes, the most that the first of them can be


def keep_memory() -> Callable[[], object]:
    """Have the C library keep memory of a few megabytes for the next large message, rather than give it back.

    The system gives such memory page by page and cleared, which takes longer than all else that is done to a message.
    Returns what gives all of it back.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):  # it is not glibc
        return lambda: None
    library.mallopt(_MMAP_THRESHOLD, _KEPT)
    library.mallopt(_TRIM_THRESHOLD, 2 * _KEPT)
    return lambda: library.malloc_trim(0)


def serve(
    node_settings: Settings,
    tls: Tls | None,
    timers: Timers,
    facts: Mapping[Any, Any],
    spin_us: int,
    make_dispatcher: Callable[[Callable[[], None]], Dispatcher],
    ready: Callable[[str, int], None],
) -> int:
    """Be a node until ``:shutdown`` or a signal. Returns the exit status.

    ``make_dispatcher`` is given what is to be called after a ``:shutdown``; ``ready`` gets name and port of
    the node as soon as it has a name.
    """
    import logging

    from ..transports.port import processors
    from ..wire.epmd import EpmdError
    from .bridge import NodeBridge
    from .loop import Loop
    from .node import Node

    logging.getLogger("erl_bridge.node").setLevel(logging.INFO)
    loop = Loop(lambda: dispatcher.busy, spin_us / 1e6 if processors() > 1 else 0.0)
    dispatcher = make_dispatcher(loop.stop)

    def on_up() -> None:
        bridge.begin()
        ready(node.name, node.port)

    node = Node(node_settings, loop, timers, tls=tls, on_up=on_up, release=keep_memory())
    bridge = NodeBridge(node, dispatcher, facts)
    try:
        try:
            node.begin()
        except (OSError, EpmdError) as error:
            print(f"erl_bridge node: {node_settings.name} cannot be: {error}", file=sys.stderr)
            return 1
        loop.run()
    finally:
        dispatcher.close()
        node.close()
    return 0
