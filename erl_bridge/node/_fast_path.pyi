# Made of _fast_path.c; see bridge.py.

from typing import Any

from ..messages import Failure, Reply, Request

class FastPath:
    def __new__(
        cls,
        *,
        bridge: Any,
        client: Any,
        clients: dict[Any, Any],
        handlers: dict[str, Any],
        limits: Any,
        atoms: frozenset[Any],
    ) -> FastPath: ...
    def answer(
        self,
        node: Any,
        data: bytes,
        begin: int,
        end: int,
        caller: bytes,
        tag: bytes,
        alias: bytes,
        head: bytes,
        to_alias: bool,
        sender: bytes,
        /,
    ) -> bytes | Request | tuple[Request, Reply | Failure | None] | None: ...
