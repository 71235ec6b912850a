"""From a request to its answer: finds the handler, runs it where it says, and sees to it that there is one answer.

Rule of this file: every request gets exactly one final reply, and every event of it goes out before. This is the one
place that catches whatever a handler raises.
"""

from __future__ import annotations

import threading
import time
from functools import partial

from .context import MORE, Context
from .error_map import from_exception
from .errors import (
    BridgeError,
    CallbackError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    Stopped,
    UnknownRequest,
)
from .lanes import MAX_WAITING, Lane, OrderedLane
from .messages import Call, Event, Failure, Reply, Request
from .refusals import show
from .terms import Atom, identity
from .timers import Timer, Timers
from .values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Set
    from typing import Any, Protocol

    from .app import Handler
    from .wire.port import Message

    AtOnce = Callable[["Client", Request], Reply | Failure | None]

    class Send(Protocol):
        """How a client is told something; may be called from any thread."""

        def __call__(self, message: Message, atoms: Set[Atom]) -> None: ...

    class Jobs(Protocol):
        """Runs a handler in a process of its own; see :class:`erl_bridge.jobs.runner.JobRunner`."""

        def run(self, work: Work) -> Any: ...

        def close(self) -> None: ...


class Capacity(Value):
    """How much is done at once: requests in flight, threads for handlers, job processes.

    ``max_jobs`` are processes for one piece of work each; ``max_reused`` are those that are left for the next, which
    predict and mostly wait for a language model. ``max_waiting`` is how many bytes may wait for handlers that take one
    request after the other.
    """

    __slots__ = ("max_in_flight", "max_threads", "max_jobs", "max_waiting", "max_reused")
    max_in_flight: int
    max_threads: int
    max_jobs: int
    max_waiting: int
    max_reused: int

    def __init__(
        self,
        max_in_flight: int = 1000,
        max_threads: int = 32,
        max_jobs: int = 8,
        max_waiting: int = MAX_WAITING,
        max_reused: int = 64,
    ) -> None:
        self._set(
            max_in_flight=max_in_flight,
            max_threads=max_threads,
            max_jobs=max_jobs,
            max_waiting=max_waiting,
            max_reused=max_reused,
        )


_ORDERED_THREADS = 4


class Inline:
    """One request that is answered at once. It is the outlet of its context: see :class:`erl_bridge.context.Outlet`."""

    __slots__ = ("best", "client", "finished", "request")

    def __init__(self, client: Client, request: Request) -> None:
        self.client = client
        self.request = request
        self.best: Any = None
        self.finished = False

    def event(self, event: dict[Any, Any]) -> None:
        """Send an event. Raises :class:`Stopped` when the handler has returned."""
        if self.finished:
            raise Stopped
        self.client.tell(self.request, Event(self.request.message_id, event), self.request.atoms)

    def call(self, call_id: int, name: Any, args: list[Any]) -> None:
        """Refuse: the thread that would wait is the one that reads the answer."""
        raise RuntimeError('an inline handler cannot wait for the client; register it with run="thread"')

    def on_node(self, call_id: int, what: str, to: Any, message: Any, timeout: float | None) -> None:
        """Refuse, as :meth:`call` does."""
        raise RuntimeError('an inline handler cannot wait for other processes; register it with run="thread"')

    def checkpoint(self, best: Any) -> None:
        """Keep the best result so far."""
        self.best = best

    def allow(self, atoms: Set[Atom]) -> None:
        """Refuse: a dataset is read from the disk, which the thread that reads requests does not wait for."""
        raise RuntimeError('an inline handler cannot read a dataset; register it with run="thread"')


def at_once(handler: Handler) -> AtOnce | None:
    """What answers a request on the thread that reads requests; None where its handler runs elsewhere.

    It does not raise. An answer that comes later is None.
    """
    if handler.run == "inline":
        plain = handler.schema is None and not isinstance(handler.function, str)
        return InlineHandler(handler.resolve() if plain else handler)
    if handler.run == "control":
        return partial(_answer_control, handler.resolve())
    return None


class InlineHandler:
    """Answers with the result of a function. The fast paths do the same in C (``_fast_path.h``)."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Any, Context], Any]) -> None:
        self.function = function

    def __call__(self, client: Client, request: Request) -> Reply | Failure:
        outlet = Inline(client, request)
        try:
            due = None if request.timeout_ms is None else deadline_of(request)
            context = Context(outlet, request.request_type, request.message_id, request.metadata, due)
            return Reply(request.message_id, self.function(request.payload, context))
        except BaseException as error:
            traceback = error.__traceback__
            # Without this frame, which is nothing to the user and not there in C.
            return failure_of(request, error.with_traceback(traceback and traceback.tb_next), outlet.best)
        finally:
            outlet.finished = True


def _answer_control(function: AtOnce, client: Client, request: Request) -> Reply | Failure | None:
    try:
        return function(client, request)
    except BaseException as error:
        return Failure(request.message_id, from_exception(error))


class Work:
    """One request in flight. It is the outlet of its context: see :class:`erl_bridge.context.Outlet`."""

    def __init__(self, client: Client, request: Request, handler: Handler) -> None:
        self.client = client
        self.request = request
        self.handler = handler
        self.atoms = request.atoms
        self.deadline = deadline_of(request)
        self.best: Any = None
        self._lock = threading.RLock()
        self._finished = False
        self._calls: dict[int, int] = {}  # from their number on the connection to their number in the context
        self._lane: Lane | None = None  # where its place is lent while it waits for the client
        self._lent = False
        self._expiry: Timer | None = None
        self._stop: Callable[[], None] | None = None
        self._answer: Callable[[int, Any], bool] | None = None

    def expire_with(self, timers: Timers) -> None:
        """Have the work ended at its deadline, if it has one."""
        if self.deadline is not None:
            self._expiry = timers.call_at(self.deadline, self._expire)

    def _expire(self) -> None:
        timeout_ms = self.request.timeout_ms
        self.abort(
            DeadlineExceeded(f"not done within {timeout_ms} ms, so it was stopped", context={_TIMEOUT: timeout_ms})
        )

    # -- while it runs -------------------------------------------------------------------------------------------

    def lend(self, lane: Lane) -> None:
        """Have the work's place on this lane free for others while it waits for the client, who may ask for more."""
        self._lane = lane

    def attach(self, *, stop: Callable[[], None], answer: Callable[[int, Any], bool]) -> None:
        """Say how to stop what does the work, and where the client's answers to its calls go."""
        with self._lock:
            self._stop, self._answer = stop, answer
            if not self._finished:
                return
        stop()

    def detach(self) -> bool:
        """Say that what did the work has done it and is not to be stopped any more; False when that came too late."""
        with self._lock:
            self._stop = self._answer = None
            return not self._finished

    def event(self, event: dict[Any, Any]) -> None:
        """Send an event. Raises :class:`Stopped` when the request has been answered."""
        self.client.make_room(self)
        self._send(Event(self.request.message_id, event))

    def call(self, call_id: int, name: Any, args: list[Any]) -> None:
        """Ask the client to run a function. Raises :class:`Stopped` when the request has been answered."""
        with self._lock:
            public_id = self.client.new_call(self)
            self._calls[public_id] = call_id
            self._send(Call(public_id, self.request.message_id, name, args))
            if self._lane is not None and not self._lent:
                self._lent = True
                self._lane.lend()

    def on_node(self, call_id: int, what: str, to: Any, message: Any, timeout: float | None) -> None:
        """Send to a process of the cluster, or call it. See :class:`erl_bridge.context.NodeAccess`."""

        def done(result: tuple[Any, Any], atoms: Set[Atom]) -> None:
            self.allow(atoms)
            answer = self._answer
            if answer is not None:
                answer(call_id, result)

        try:
            self.client.on_node(self.request, what, to, message, timeout, done)
        except Exception as error:
            done((Atom("error"), from_exception(error).message), frozenset())

    def checkpoint(self, best: Any) -> None:
        """Keep the best result so far."""
        self.best = best

    def answer(self, public_id: int, result: Any, atoms: Set[Atom]) -> bool:
        """Deliver the client's answer to a call, or a piece of it; False when nobody waits for it.

        Its atoms may go back too.
        """
        with self._lock:
            self.allow(atoms)
            call_id = self._calls.get(public_id) if result[0] is MORE else self._calls.pop(public_id)
            answer = self._answer
            if not self._calls:
                self._take_back()
        return answer is not None and call_id is not None and answer(call_id, result)

    def allow(self, atoms: Set[Atom]) -> None:
        """Let what is sent for this request hold these atoms too."""
        with self._lock:
            self.atoms = self.atoms | atoms

    def _send(self, message: Message) -> None:
        with self._lock:
            if self._finished:
                raise Stopped
            self.client.tell(self.request, message, self.atoms)

    # -- the end -------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True once the final reply is out."""
        return self._finished

    def finish(self, message: Reply | Failure) -> bool:
        """Send the final reply; False when there was one already."""
        with self._lock:
            if self._finished:
                return False
            self._finished = True
            if self._expiry is not None:
                self._expiry.cancel()
            try:
                self.client.tell(self.request, message, self.atoms)
            finally:
                self._take_back()
                self.client.forget(self, list(self._calls))
        return True

    def _take_back(self) -> None:
        if self._lane is not None and self._lent:
            self._lent = False
            self._lane.take_back()

    def abort(self, error: BridgeError) -> bool:
        """End the work from outside with ``error``, which gets the best result so far; False when it had ended."""
        if self.best is not None:
            error.context[_BEST] = self.best
        if not self.finish(Failure(self.request.message_id, error)):
            return False
        stop = self._stop
        if stop is not None:
            stop()
        return True


_BEST, _TIMEOUT = Atom("best"), Atom("timeout_ms")


def _order(work: Work) -> tuple[Hashable, int]:
    """Behind which requests a work waits, and how many bytes it takes meanwhile."""
    order = work.handler.order
    assert order is not None, "a handler that runs in order says in which"
    return order(work.request.payload)


def deadline_of(request: Request) -> float | None:
    """When the request must be answered, a ``time.monotonic()`` value."""
    return None if request.timeout_ms is None else time.monotonic() + request.timeout_ms / 1000


def failure_of(request: Request, error: BaseException, best: Any) -> Failure:
    """The answer to a request whose handler raised, with the best result so far."""
    failure = from_exception(error)
    if best is not None:
        failure.context[_BEST] = best
    return Failure(request.message_id, failure)


class Client:
    """One client of the dispatcher: its requests in flight, and how to tell it something."""

    def __init__(self, dispatcher: Dispatcher, send: Send, calls: Calls | None = None) -> None:
        self.dispatcher = dispatcher
        self.send = send
        self._lock = threading.Lock()
        self.in_flight: dict[Hashable, Work] = {}
        self._calls = calls or Calls()

    def handle(self, request: Request) -> Reply | Failure | None:
        """Begin a request. What can be answered at once is returned, everything else is sent when it is done."""
        try:
            if self.in_flight and self.has(request.message_id):
                raise InvalidRequest(f"message_id {show(request.message_id)} is in flight already; use another one")
            answer = self.dispatcher.at_once.get(request.request_type)
            if answer is not None:
                return answer(self, request)
            self.dispatcher.begin(self, Work(self, request, self.dispatcher.find(request)))
            return None
        except BaseException as error:
            return Failure(request.message_id, from_exception(error))

    def tell(self, request: Request, message: Message, atoms: Set[Atom]) -> None:
        """Send a message that belongs to a request."""
        self.send(message, atoms)

    def make_room(self, work: Work) -> None:
        """Wait, before an event of ``work`` is sent, while the client does not read what it is sent."""

    def on_node(
        self,
        request: Request,
        what: str,
        to: Any,
        message: Any,
        timeout: float | None,
        done: Callable[[tuple[Any, Any], Set[Atom]], None],
    ) -> None:
        """Send to a process of the cluster, or call it, and give ``done`` what comes of it. Only nodes can."""
        raise CallbackError("this bridge is no node of a cluster; start it with python -m erl_bridge node")

    def close(self) -> None:
        """The client is gone: everything it asked for ends, and nothing more is sent to it."""
        for work in self.works():
            work.abort(RequestCancelled("the client went away"))

    @property
    def is_busy(self) -> bool:
        """Whether anything is in flight."""
        return bool(self.in_flight)

    def works(self) -> list[Work]:
        """What is in flight."""
        with self._lock:
            return list(self.in_flight.values())

    # -- requests in flight --------------------------------------------------------------------------------------

    def remember(self, work: Work) -> None:
        """Note a request as in flight."""
        with self._lock:
            self.in_flight[identity(work.request.message_id)] = work

    def forget(self, work: Work, calls: list[int]) -> None:
        """Note a request as answered, and the calls it still waits for as given up."""
        with self._lock:
            self.in_flight.pop(identity(work.request.message_id), None)
        self._calls.forget(calls)
        self.dispatcher.ended()

    def has(self, message_id: Any) -> bool:
        """Whether a request of that id is in flight."""
        return identity(message_id) in self.in_flight

    def cancel(self, message_id: Any) -> bool:
        """End the request of that id; False when there is none."""
        with self._lock:
            work = self.in_flight.get(identity(message_id))
        return work is not None and work.abort(RequestCancelled("the request was cancelled by the client"))

    # -- calls to the client -------------------------------------------------------------------------------------

    def new_call(self, work: Work) -> int:
        """A number, new on this connection, for a call that ``work`` makes."""
        return self._calls.add(work)

    def callback_result(self, call_id: Any, result: Any, atoms: Set[Atom]) -> bool:
        """Pass on what the client's function returned, or a piece; False when nobody waits for it any more."""
        work = self._calls.get(call_id) if result[0] is MORE else self._calls.take(call_id)
        return work is not None and work.answer(call_id, result, atoms)


class Calls:
    """The calls to one client, or to all of a kind, that wait for an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, Work] = {}
        self._last = 0

    def add(self, work: Work) -> int:
        """A number that no call had before, for one of ``work``."""
        with self._lock:
            self._last += 1
            self._waiting[self._last] = work
            return self._last

    def get(self, number: Any) -> Work | None:
        """The work whose call has that number; None if there is none."""
        with self._lock:
            return self._waiting.get(number) if type(number) is int else None

    def take(self, number: Any) -> Work | None:
        """The work whose call has that number, and which waits for it no more; None if there is none."""
        with self._lock:
            return self._waiting.pop(number, None) if type(number) is int else None

    def forget(self, numbers: list[int]) -> None:
        """These are waited for no more."""
        with self._lock:
            for number in numbers:
                self._waiting.pop(number, None)


class Dispatcher:
    """The handlers, and the threads and processes they run in. One serves all transports of a process."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        jobs: Jobs,
        timers: Timers,
        capacity: Capacity | None = None,
        on_shutdown: Callable[[], None] = lambda: None,
    ) -> None:
        self.handlers = handlers
        self.at_once = {name: answer for name, handler in handlers.items() if (answer := at_once(handler)) is not None}
        self.capacity = capacity or Capacity()
        self.started = time.monotonic()
        self.draining = False
        self._jobs = jobs
        self._timers = timers
        self._on_shutdown = on_shutdown
        self._in_flight = 0
        self._changed = threading.Condition()
        self._clients: set[Client] = set()
        self._threads_lane = Lane("thread", self.capacity.max_threads)
        self._jobs_lane = Lane("job", self.capacity.max_jobs)
        self._reuse_lane = Lane("reuse", self.capacity.max_reused)
        self._lanes: dict[str, Lane | OrderedLane] = {
            "thread": self._threads_lane,
            "job": self._jobs_lane,
            "ordered": OrderedLane("ordered", _ORDERED_THREADS, _order, self.capacity.max_waiting),
        }

    def connect(self, send: Send) -> Client:
        """Take a new client, which is told things through ``send``."""
        client = Client(self, send)
        self.add(client)
        return client

    def add(self, client: Client) -> None:
        """Take a client that somebody made, until :meth:`disconnect`."""
        self._clients.add(client)

    def remove(self, client: Client) -> None:
        """Forget a client that has nothing in flight."""
        self._clients.discard(client)

    def disconnect(self, client: Client) -> None:
        """End what a client asked for and forget it."""
        self.remove(client)
        client.close()

    def find(self, request: Request) -> Handler:
        """The handler of a request. Raises :class:`UnknownRequest`, or :class:`Overloaded` while shutting down."""
        handler = self.handlers.get(request.request_type)
        if handler is None:
            names = ", ".join(sorted(self.handlers))
            raise UnknownRequest(f"there is no request type {request.request_type}; there are {names}")
        if self.draining and handler.run != "control":
            raise Overloaded("the server is shutting down and takes no new requests")
        return handler

    # -- running -------------------------------------------------------------------------------------------------

    def begin(self, client: Client, work: Work) -> None:
        """Start the work where its handler runs."""
        with self._changed:
            if self._in_flight >= self.capacity.max_in_flight:
                raise Overloaded(
                    f"{self._in_flight} requests are in flight, which is the limit; try again later",
                    context={Atom("limit"): self.capacity.max_in_flight},
                )
            self._in_flight += 1
        client.remember(work)
        work.expire_with(self._timers)
        try:
            lane = self._reuse_lane if work.handler.reuse else self._lanes[work.handler.run]
            lane.submit(self._run, work)
        except Overloaded as error:
            work.finish(Failure(work.request.message_id, error))
        except RuntimeError as error:  # the system has no more threads for us
            work.finish(Failure(work.request.message_id, Overloaded(f"the work cannot be started: {error}")))

    def _run(self, work: Work) -> None:
        if work.finished:
            return
        try:
            result = self._jobs.run(work) if work.handler.run == "job" else self._run_thread(work)
        except BaseException as error:
            work.finish(failure_of(work.request, error, work.best))
        else:
            work.finish(Reply(work.request.message_id, result))

    def _run_thread(self, work: Work) -> Any:
        request = work.request
        work.lend(self._threads_lane)
        context = Context(work, request.request_type, request.message_id, request.metadata, work.deadline)
        work.attach(stop=context.stop, answer=context.callback_result)
        return work.handler(request.payload, context)

    def ended(self) -> None:
        """A request was answered."""
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """True while requests are in flight, which run in threads or are waited for by them."""
        return self._in_flight > 0

    # -- health and the end --------------------------------------------------------------------------------------

    def load(self) -> tuple[int, int, int]:
        """Requests in flight, jobs that run, and jobs that wait for their turn to run."""
        jobs, reuse = self._jobs_lane, self._reuse_lane
        return self._in_flight, jobs.running + reuse.running, jobs.waiting + reuse.waiting

    def drain(self, limit: float, done: Callable[[int, int], None]) -> None:
        """Take no new requests, wait up to ``limit`` seconds for those in flight, and cancel the rest.

        Returns at once; then ``done(finished, cancelled)`` is called in a thread of its own, and after it the shutdown.
        """
        self._stop_taking()
        threading.Thread(target=self._drain, args=(limit, done), name="drain", daemon=True).start()

    def _stop_taking(self) -> None:
        self.draining = True
        for name, handler in self.handlers.items():
            if handler.run != "control":
                self.at_once.pop(name, None)

    def _drain(self, limit: float, done: Callable[[int, int], None]) -> None:
        with self._changed:
            waiting = self._in_flight
            self._changed.wait_for(lambda: self._in_flight == 0, limit)
            cancelled = self._in_flight
        for client in list(self._clients):
            for work in client.works():
                work.abort(RequestCancelled("the server is shutting down"))
        done(waiting - cancelled, cancelled)
        self._on_shutdown()

    def close(self) -> None:
        """End everything at once: all work is cancelled and no job process is left."""
        self._stop_taking()
        for client in list(self._clients):
            self.disconnect(client)
        self._jobs.close()
