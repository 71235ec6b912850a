"""Handlers by name: what a user writes to add their own Python to the bridge.

Rule of this file: a handler says what it is called, where it runs and what its payload looks like; nothing here runs
it.
"""

from __future__ import annotations

from .error_map import missing_package
from .values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping
    from typing import Any, TypeVar

    from .context import Context

    Function = Callable[[Any, Context], Any]
    F = TypeVar("F", bound=Function)
    Order = Callable[[Any], tuple[Hashable, int]]

RUNS = ("inline", "thread", "job", "control", "ordered")


class Handler(Value):
    """A name, a function and where it runs.

    ``run`` is ``"inline"`` (at once, on the thread that reads requests: for what takes microseconds), ``"thread"`` (in
    a thread of the bridge process: for what waits), or ``"job"`` (in a process of its own, which a cancel or a deadline
    ends: for what computes, crashes or must be stopped). ``"control"`` and ``"ordered"`` are for the bridge's own
    requests; ``order`` gives for a payload the key of those that are handled one after the other, and its bytes.

    ``function`` is a callable ``(payload, context) -> result`` or its ``"module:name"``, which is imported when first
    needed. ``schema`` is a ``msgspec.Struct`` that the payload is turned into first. A job with ``reuse`` leaves its
    process for the next one of its kind.

    ``cache`` says how long a client may keep a result for the same payload, where its dialect can tell it (BERT-RPC):
    a number of seconds, 0 for ever, or ``"validate"``: it must ask whether the result is still the same.
    """

    __slots__ = ("name", "function", "run", "schema", "reuse", "order", "cache")
    name: str
    function: Function | str
    run: str
    schema: type | None
    reuse: bool
    order: Order | None
    cache: int | str | None

    def __init__(
        self,
        name: str,
        function: Callable[..., Any] | str,
        run: str = "thread",
        schema: type | None = None,
        reuse: bool = False,
        order: Order | None = None,
        cache: int | str | None = None,
    ) -> None:
        if run not in RUNS:
            raise ValueError(f"handler {name}: expected run to be one of {', '.join(RUNS)}, got {run!r}")
        if (run == "ordered") != (order is not None):
            raise ValueError(f'handler {name}: order is for run="ordered", and needed there')
        if cache not in (None, "validate") and not (type(cache) is int and cache >= 0):
            raise ValueError(f'handler {name}: expected cache to be seconds or "validate", got {cache!r}')
        self._set(name=name, function=function, run=run, schema=schema, reuse=reuse, order=order, cache=cache)

    def resolve(self) -> Callable[..., Any]:
        """The function itself. Raises :class:`MissingPackage` when what it needs is not installed."""
        if not isinstance(self.function, str):
            return self.function
        module, _, name = self.function.partition(":")
        from importlib import import_module  # a few ms, and only needed for what is not imported yet

        try:
            function: Callable[..., Any] = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
        return function

    def __call__(self, payload: Any, context: Context) -> Any:
        """Validate the payload and run the function."""
        function = self.function
        if isinstance(function, str):
            function = self.resolve()
        if self.schema is not None:
            from .validation import validate  # imports msgspec, too slow to do before hello

            payload = validate(payload, self.schema)
        return function(payload, context)


class Bridge:
    """The handlers of one application.

    >>> app = Bridge()
    >>> @app.handler("double")
    ... def double(payload, context):
    ...     return payload["n"] * 2
    >>> list(app.handlers)
    ['double']

    ``python -m erl_bridge port --app mypackage.mymodule:app`` serves them beside the bridge's own.
    """

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}

    def handler(
        self,
        name: str | None = None,
        *,
        run: str = "thread",
        schema: type | None = None,
        reuse: bool = False,
        cache: int | str | None = None,
    ) -> Callable[[F], F]:
        """Register the decorated function under ``name`` (its own name if none is given). See :class:`Handler`."""

        def register(function: F) -> F:
            self.add(Handler(name or function.__name__, function, run, schema, reuse, cache=cache))
            return function

        return register

    def add(self, handler: Handler) -> None:
        """Register a handler. Raises ValueError when its name is taken."""
        if handler.name in self.handlers:
            raise ValueError(f"there is already a handler named {handler.name}")
        self.handlers[handler.name] = handler

    def __iter__(self) -> Iterator[Handler]:
        return iter(self.handlers.values())


def load(spec: str) -> Bridge:
    """The application that ``"package.module:name"`` names.

    >>> load("nowhere")
    Traceback (most recent call last):
    ValueError: --app: expected package.module:name, got 'nowhere'
    """
    from importlib import import_module

    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise ValueError(f"--app: expected package.module:name, got {spec!r}")
    app = getattr(import_module(module), name, None)
    if not isinstance(app, Bridge):
        raise ValueError(f"--app: {spec} is not an erl_bridge.Bridge but {type(app).__name__}")
    return app


def table(*groups: Bridge | list[Handler]) -> Mapping[str, Handler]:
    """All handlers of several groups by name. Raises ValueError when two have one name."""
    whole = Bridge()
    for group in groups:
        for handler in group:
            whole.add(handler)
    return whole.handlers
