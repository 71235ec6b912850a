"""What connected nodes send each other: frames, fragments, and the signals in them.

Rule of this file: bytes and values, no I/O. One table says what a signal that comes looks like, another how one that
goes is written for what the other node understands. Whatever a BEAM would not send is a :class:`DistError`, which costs
the connection and nothing else. The source is "Protocol between Connected Nodes" in the ERTS user's guide.
"""

from __future__ import annotations

from struct import Struct

from .. import etf
from ..terms import Atom, Pid, Reference
from . import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Check = Callable[[Any], bool]

TICK = bytes(4)
FRAGMENT = 64 * 1024  # bytes of a message in one fragment: what a BEAM sends
MAX_UNFINISHED = 10_000  # messages of which fragments have come, at once
HEAD = 4096  # bytes that are kept of a message over the limit, to see whom to tell
PASS_THROUGH, VERSION = 112, 131
HEADER, _FIRST, _NEXT = 68, 69, 70
_fragment = Struct(">QQ")
_length = Struct(">I").pack
_frame_head, _first_head, _next_head = Struct(">IBBB").pack, Struct(">IBBQQB").pack, Struct(">IBBQQ").pack


NOTHING = Atom("")


class DistError(Exception):
    """The other node broke the protocol; the message says how."""


# -- signals that come -----------------------------------------------------------------------------------------


def _any(_: Any) -> bool:
    return True


def _pid(value: Any) -> bool:
    return type(value) is Pid


def _reference(value: Any) -> bool:
    return type(value) is Reference


def _atom(value: Any) -> bool:
    return type(value) is Atom or value is None or type(value) is bool


def _target(value: Any) -> bool:
    return type(value) is Pid or _atom(value)


def _unsigned(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _list(value: Any) -> bool:
    return type(value) is list


def _tuple(value: Any) -> bool:
    return type(value) is tuple


_MAX_SHAPES = 100
MAX_WORDS = 5  # of a reference


class _Op:
    """How the control term of an operation looks, and which of its elements are the arguments of the signal.

    ``peers``: the first is a process of the other node, which speaks for no third one.
    """

    def __init__(
        self, kind: str, checks: tuple[Check, ...], picks: tuple[int, ...], payload: bool = False, peers: bool = False
    ) -> None:
        self.kind = kind
        self.checks = checks
        self.picks = picks
        self.payload = payload
        self.first_is_peers = peers
        self.shapes: set[tuple[type, ...]] = set()  # types of elements that have passed the checks

    def check(self, control: tuple[Any, ...]) -> None:
        """Refuse a control term that is none. What has passed is known by its types, where those tell all."""
        shape = tuple(map(type, control))
        if shape in self.shapes:
            return
        if len(control) != len(self.checks) + 1:
            raise DistError(f"a {self.kind} signal of {len(control)} elements: {control!r:.200}")
        for check, value in zip(self.checks, control[1:], strict=True):
            if not check(value):
                raise DistError(f"a {self.kind} signal with {value!r:.100} in it: {control!r:.200}")
        if _unsigned not in self.checks and len(self.shapes) < _MAX_SHAPES:
            self.shapes.add(shape)


_EXIT, _EXIT_TT = (_pid, _pid, _any), (_pid, _pid, _any, _any)
_SPAWN = (_reference, _pid, _pid, _tuple, _list)
OPS = {
    1: _Op("link", (_pid, _pid), (1, 2), peers=True),
    2: _Op("anonymous", (_any, _pid), (2,), payload=True),
    3: _Op("exit", _EXIT, (1, 2, 3), peers=True),
    4: _Op("old_unlink", (_pid, _pid), (1, 2), peers=True),
    6: _Op("send", (_pid, _any, _atom), (1, 3), payload=True),
    7: _Op("group_leader", (_pid, _pid), (1, 2)),
    8: _Op("exit2", _EXIT, (1, 2, 3)),
    12: _Op("anonymous", (_any, _pid, _any), (2,), payload=True),
    13: _Op("exit", _EXIT_TT, (1, 2, 4), peers=True),
    16: _Op("send", (_pid, _any, _atom, _any), (1, 3), payload=True),
    18: _Op("exit2", _EXIT_TT, (1, 2, 4)),
    19: _Op("monitor", (_pid, _target, _reference), (1, 2, 3), peers=True),
    20: _Op("demonitor", (_pid, _target, _reference), (1, 2, 3), peers=True),
    21: _Op("down", (_target, _pid, _reference, _any), (1, 2, 3, 4)),
    22: _Op("send", (_pid, _pid), (1, 2), payload=True),
    23: _Op("send", (_pid, _pid, _any), (1, 2), payload=True),
    24: _Op("exit", (_pid, _pid), (1, 2), payload=True, peers=True),
    25: _Op("exit", (_pid, _pid, _any), (1, 2), payload=True, peers=True),
    26: _Op("exit2", (_pid, _pid), (1, 2), payload=True),
    27: _Op("exit2", (_pid, _pid, _any), (1, 2), payload=True),
    28: _Op("down", (_target, _pid, _reference), (1, 2, 3), payload=True),
    29: _Op("spawn", _SPAWN, (1, 2, 4, 5), payload=True),
    30: _Op("spawn", (*_SPAWN, _any), (1, 2, 4, 5), payload=True),
    31: _Op("spawn_reply", (_reference, _pid, _unsigned, _target), (1, 2, 3, 4)),
    33: _Op("send", (_pid, _reference), (1, 2), payload=True),
    34: _Op("send", (_pid, _reference, _any), (1, 2), payload=True),
    35: _Op("unlink", (_unsigned, _pid, _pid), (1, 2, 3)),
    36: _Op("unlink_ack", (_unsigned, _pid, _pid), (1, 2, 3)),
}
_ALTACT = 37
_PRIORITY, _TOKEN, _TO_ALIAS, _TO_NAME, _IS_EXIT = 1, 2, 4, 8, 16


def _altact(control: tuple[Any, ...]) -> _Op:
    """The operation that ``{37, Flags, From, To[, Token]}`` stands for."""
    flags = control[1] if len(control) > 1 and type(control[1]) is int else -1
    if flags < 0 or flags >= 2 * _IS_EXIT:
        raise DistError(f"a signal 37 with the flags {flags}")
    to = _reference if flags & _TO_ALIAS else _atom if flags & _TO_NAME else _pid
    checks = (_unsigned, _pid, to, *((_any,) if flags & _TOKEN else ()))
    return _Op("exit2" if flags & _IS_EXIT else "send", checks, (2, 3), payload=True)


class Signal:
    """A signal that came: its kind and arguments, and the message or the reason behind it, not yet decoded.

    The arguments of each kind: ``link`` and ``old_unlink`` from, to; ``unlink`` and ``unlink_ack`` id, from, to;
    ``exit`` and ``exit2`` from, to (and the reason if it is no payload); ``send`` from, to (a pid, a name or an alias)
    and ``anonymous`` to; ``monitor`` and ``demonitor`` from, target, reference; ``down`` target, to, reference (and the
    reason); ``spawn`` reference, from, {M, F, arity}, options. ``skipped`` is the size of a payload over the limit, of
    which only the beginning is there.
    """

    __slots__ = ("args", "data", "has_version", "kind", "skipped", "start")

    def __init__(self, kind: str, args: tuple[Any, ...], data: bytes, start: int, has_version: bool) -> None:
        self.kind = kind
        self.args = args
        self.data = data
        self.start = start
        self.has_version = has_version
        self.skipped = 0

    @property
    def sender(self) -> Pid | None:
        """Who sends; None where that is not told."""
        return None if self.kind == "anonymous" else self.args[0]

    def payload(self, limits: etf.Limits = etf.DEFAULT, atoms: set[Atom] | None = None) -> Any:
        """The message or the reason. Raises :class:`erl_bridge.etf.DecodeError`."""
        term, end = etf.decode_prefix(self.data, self.start, version=self.has_version, limits=limits, atoms=atoms)
        if end != len(self.data):
            raise etf.DecodeError(end, "the end of the frame", f"{len(self.data) - end} more bytes")
        return term


class _Unfinished:
    """A message of which fragments are still to come."""

    __slots__ = ("next_id", "parts", "signal", "size")

    def __init__(self, signal: Signal, next_id: int) -> None:
        self.signal = signal
        self.next_id = next_id
        self.parts: list[bytes | memoryview] = []
        self.size = 0


class Receiver:
    """Makes signals of the frames of one connection.

    ``peer`` is the other node's name, ``flags`` those in force, ``max_message`` the bytes of the largest message; of
    messages in fragments four times as many may be under way at once.
    """

    def __init__(self, peer: Atom, flags: int, max_message: int, limits: etf.Limits = etf.DEFAULT) -> None:
        self._peer = peer
        self._has_header = bool(flags & capabilities.FRAGMENTS)
        self._max_message = max_message
        self._limits = limits
        self._unfinished: dict[int, _Unfinished] = {}
        self._held = 0

    def receive(self, frame: bytes) -> Signal | None:
        """The signal that ``frame`` completes, if it completes one. Raises :class:`DistError`."""
        try:
            if not self._has_header:
                if frame[0] != PASS_THROUGH:
                    raise DistError(f"a frame that begins with {frame[0]}, where {PASS_THROUGH} does")
                return self._signal(frame, 1, True)
            if frame[0] != VERSION:
                raise DistError(f"a frame that begins with {frame[0]}, where {VERSION} does")
            kind = frame[1]
            if kind == HEADER:
                if frame[2]:
                    raise DistError("a header with atoms, though there is no atom cache")
                return self._signal(frame, 3, False)
            if kind == _FIRST:
                return self._begin(frame)
            if kind == _NEXT:
                return self._continue(frame)
        except IndexError:
            raise DistError("a frame that is cut") from None
        raise DistError(f"a frame with a header of kind {kind}")

    def _signal(self, frame: bytes, start: int, has_version: bool, in_fragments: bool = False) -> Signal:
        try:
            control, end = etf.decode_prefix(frame, start, version=has_version, limits=self._limits)
        except etf.DecodeError as error:
            raise DistError(f"a control term that is none: {error.message}") from None
        op = OPS.get(control[0]) if type(control) is tuple and control and type(control[0]) is int else None
        if op is None:
            if type(control) is not tuple or not control or control[0] != _ALTACT:
                raise DistError(f"a control term that is none: {control!r:.200}")
            op = _altact(control)
        op.check(control)
        if op.first_is_peers and control[1].node is not self._peer:
            raise DistError(f"a {op.kind} signal of {self._peer} for a process of {control[1].node}")
        if op.payload != (in_fragments or end < len(frame)):
            raise DistError(f"a {op.kind} signal with {len(frame) - end} bytes behind it")
        return Signal(op.kind, tuple([control[at] for at in op.picks]), frame, end, has_version)

    # -- fragments -----------------------------------------------------------------------------------------------

    def _begin(self, frame: bytes) -> Signal | None:
        if len(frame) < 19 or frame[18]:
            raise DistError("a first fragment that is cut, or with atoms, though there is no atom cache")
        sequence, number = _fragment.unpack_from(frame, 2)
        if not number or sequence in self._unfinished:
            raise DistError(f"a first fragment {number} of the message {sequence}, which has begun or has none")
        if len(self._unfinished) >= MAX_UNFINISHED:
            raise DistError(f"more than {MAX_UNFINISHED} messages in fragments at once")
        signal = self._signal(frame, 19, False, in_fragments=True)
        if number == 1:
            return signal
        unfinished = self._unfinished[sequence] = _Unfinished(signal, number - 1)
        self._hold(unfinished, memoryview(frame)[signal.start :])
        return None

    def _continue(self, frame: bytes) -> Signal | None:
        if len(frame) < 18:
            raise DistError("a fragment that is cut")
        sequence, number = _fragment.unpack_from(frame, 2)
        unfinished = self._unfinished.get(sequence)
        if unfinished is None or unfinished.next_id != number:
            raise DistError(f"a fragment {number} of the message {sequence}, which is not its next one")
        self._hold(unfinished, memoryview(frame)[18:])
        unfinished.next_id -= 1
        if number > 1:
            return None
        del self._unfinished[sequence]
        signal = unfinished.signal
        if not signal.skipped:
            self._held -= unfinished.size
        else:
            signal.skipped = unfinished.size
        signal.data, signal.start = b"".join(unfinished.parts), 0
        return signal

    def _hold(self, unfinished: _Unfinished, part: memoryview) -> None:
        """Keep a part of a message, unless it has become too much: then only the beginning is kept."""
        unfinished.size += len(part)
        signal = unfinished.signal
        if signal.skipped:
            return
        unfinished.parts.append(part)
        self._held += len(part)
        if unfinished.size > self._max_message or self._held > 4 * self._max_message:
            self._held -= unfinished.size
            unfinished.parts[:] = [bytes(unfinished.parts[0][:HEAD])]
            signal.skipped = unfinished.size


# -- signals that go -------------------------------------------------------------------------------------------


def control(flags: int, kind: str, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool] | None:
    """The control term for a signal, and whether its last argument goes behind it as a payload.

    None when the other node, whose ``flags`` these are, does not know such signals. The kinds are those of
    :class:`Signal`, and ``send_name`` from, name; ``send_alias`` from, alias, the pid that it stands for. What is sent
    is not among the arguments; a reason is the last one.

    >>> control(0, "exit", ("me", "you", "why"))
    ((3, 'me', 'you', 'why'), False)
    >>> control(capabilities.OURS, "exit", ("me", "you", "why"))
    ((24, 'me', 'you'), True)
    """
    return _CONTROLS[kind](flags, *args)  # type: ignore[no-any-return]


def _send_control(flags: int, sender: Any, to: Any) -> Any:
    return ((22, sender, to) if flags & capabilities.SEND_SENDER else (2, NOTHING, to)), False


def _alias_control(flags: int, sender: Any, alias: Any, to: Any) -> Any:
    if flags & capabilities.ALTACT_SIG:
        return (_ALTACT, _TO_ALIAS, sender, alias), False
    if flags & capabilities.ALIAS:
        return (33, sender, alias), False
    return _send_control(flags, sender, to)


def _with_reason(with_payload: int, without: int) -> Callable[..., Any]:
    def build(flags: int, *args: Any) -> Any:
        if flags & capabilities.EXIT_PAYLOAD:
            return (with_payload, *args[:-1]), True
        return (without, *args), False

    return build


def _monitors(op: int) -> Callable[..., Any]:
    def build(flags: int, *args: Any) -> Any:
        return ((op, *args), False) if flags & capabilities.MONITORS == capabilities.MONITORS else None

    return build


def _unlink(flags: int, number: int, sender: Any, to: Any) -> Any:
    return ((35, number, sender, to) if flags & capabilities.UNLINK_ID else (4, sender, to)), False


_CONTROLS: dict[str, Callable[..., Any]] = {
    "link": lambda flags, *args: ((1, *args), False),
    "unlink": _unlink,
    "unlink_ack": lambda flags, *args: ((36, *args), False),
    "exit": _with_reason(24, 3),
    "exit2": _with_reason(26, 8),
    "send": _send_control,
    "send_name": lambda flags, sender, name: ((6, sender, NOTHING, name), False),
    "send_alias": _alias_control,
    "monitor": _monitors(19),
    "demonitor": _monitors(20),
    "down": _with_reason(28, 21),
    "spawn_reply": lambda flags, *args: ((31, *args), False),
}


def frames(flags: int, control: bytes, payload: bytes, sequence: int) -> Iterable[bytes | memoryview]:
    """A signal as it goes over the wire: parts that make whole frames, each behind its length.

    ``flags`` are those in force; ``control`` and ``payload`` are external terms with their version bytes, the payload
    empty where there is none; ``sequence`` is a number that no other unfinished message of this connection has.

    >>> b"".join(frames(0, b"\\x83j", b"\\x83a\\x07", 1)).hex(" ")
    '00 00 00 06 70 83 6a 83 61 07'
    >>> b"".join(frames(capabilities.FRAGMENTS, b"\\x83j", b"\\x83a\\x07", 1)).hex(" ")
    '00 00 00 06 83 44 00 6a 61 07'
    """
    if flags & capabilities.FRAGMENTS:
        if len(payload) > FRAGMENT:
            return _fragments(control, payload, sequence)
        size = 2 + len(control) + max(0, len(payload) - 1)
        return (b"".join((_frame_head(size, VERSION, HEADER, 0), control[1:], payload[1:])),)
    size = 1 + len(control) + len(payload)
    if len(payload) <= FRAGMENT:
        return (b"".join((_length(size), b"p", control, payload)),)
    return b"".join((_length(size), b"p", control)), memoryview(payload)  # not copied once more


def _fragments(control: bytes, payload: bytes, sequence: int) -> Iterator[bytes | memoryview]:
    view = memoryview(payload)[1:]
    number = -(-len(view) // FRAGMENT)
    first = view[:FRAGMENT]
    yield _first_head(18 + len(control) + len(first), VERSION, _FIRST, sequence, number, 0) + control[1:]
    yield first
    for start in range(FRAGMENT, len(view), FRAGMENT):
        number -= 1
        part = view[start : start + FRAGMENT]
        yield _next_head(18 + len(part), VERSION, _NEXT, sequence, number)
        yield part
