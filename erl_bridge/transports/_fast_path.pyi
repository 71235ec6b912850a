# Made of _fast_path.c; see fast_path.py.

from typing import Any, Literal

class Lock:
    def acquire(self) -> Literal[True]: ...
    def release(self) -> None: ...
    def __enter__(self) -> Literal[True]: ...
    def __exit__(self, *args: object) -> None: ...

class FastPath:
    def __new__(
        cls,
        *,
        fd_in: int,
        fd_out: int,
        max_frame: int,
        spin_ns: int,
        preempted_ns: int,
        habit: Any,
        serving: Lock,
        writing: Lock,
        client: Any,
        handlers: dict[str, Any],
        in_flight: dict[Any, Any],
        is_in_flight: Any,
        parse: Any,
        hand_over: Any,
        held: list[bytes],
        write_held: Any,
        limits: Any,
        vocabulary: frozenset[Any],
    ) -> FastPath: ...
    def read(self, /) -> bytes: ...
