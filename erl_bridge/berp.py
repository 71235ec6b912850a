"""One conversation of BERT-RPC: bytes to what is asked, answers to bytes. Framing, codec and dialect, and no I/O.

Rule of this file: nothing that a peer sends raises anything but :class:`PacketError`, which is what to answer it with.
"""

from __future__ import annotations

import hmac

from . import etf
from .error_map import error_map, from_exception
from .errors import SerializationError
from .framing import FrameBuffer, Oversized, header
from .messages import Call, Failure, Reply, Request
from .refusals import invalid, show
from .terms import Atom, TermMap
from .values import Value
from .vocabulary import VOCABULARY
from .wire import bert, bert_rpc
from .wire.bert_rpc import NO_DATA, NO_HEADER, PacketError
from .wire.port import MAX_TIMEOUT_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Set
    from typing import Any

    from .wire.bert_rpc import Exposed

MAX_AUTH_FRAME = 4096  # bytes of a frame from a client that has not shown its token
MAX_STREAM = 64 * 1024 * 1024
ACCEPTS = {"events", "errors", "streams", "calls"}


class Rules(Value):
    """What all conversations of a server have in common.

    ``exposed``: modules and their functions. ``token``: what a client must show first, if anything. ``max_timeout_ms``:
    how long a request may take, 0 for as long as it likes.
    """

    __slots__ = ("exposed", "token", "max_frame", "max_stream", "max_timeout_ms")
    exposed: Mapping[str, Mapping[str, Exposed]]
    token: bytes
    max_frame: int
    max_stream: int
    max_timeout_ms: int

    def __init__(
        self,
        exposed: Mapping[str, Mapping[str, Exposed]],
        *,
        token: bytes,
        max_frame: int,
        max_stream: int = MAX_STREAM,
        max_timeout_ms: int = 0,
    ) -> None:
        self._set(
            exposed=exposed, token=token, max_frame=max_frame, max_stream=max_stream, max_timeout_ms=max_timeout_ms
        )


class Callback(Value):
    """Where the result of a cast goes: ``{cast, Module, Function, Args ++ [Result]}`` to a service, ``host:port``."""

    __slots__ = ("service", "mfa")
    service: str
    mfa: tuple[Atom, Atom, list[Any]]

    def __init__(self, service: str, mfa: tuple[Atom, Atom, list[Any]]) -> None:
        self._set(service=service, mfa=mfa)


class Asked:
    """A call or a cast, with what the info packets before it said of it. It turns what comes of it into bytes.

    One thread at a time sends for a request, so it needs no lock of its own.
    """

    def __init__(self, request: Request, exposed: Exposed, cast: bool, accepts: Set[str], info: Info) -> None:
        self.request = request
        self.cast = cast
        self.callback = info.callback
        self.streaming = False
        self._cache = exposed.cache
        self._validation = info.validation
        self._accepts = accepts

    def event(self, event: Mapping[Any, Any], atoms: Set[Atom]) -> bytes:
        """The frames for an event; empty for one that this client does not take. Raises as :func:`bert.encode`."""
        if self.cast:
            return b""
        if "streams" in self._accepts and (chunk := _chunk_of(event)):
            opening = b"" if self.streaming else _framed(bert_rpc.INFO_STREAM) + _framed(bert_rpc.reply(None, ()))
            self.streaming = True
            return opening + _framed(chunk)
        if "events" in self._accepts and not self.streaming:
            return _framed(bert_rpc.event(event, bert.Either(VOCABULARY, atoms)))
        return b""

    @property
    def takes_calls(self) -> bool:
        """Whether the client runs functions for this request, and so is listened to while it is under way."""
        return "calls" in self._accepts and not self.cast

    def call(self, message: Call, atoms: Set[Atom]) -> bytes:
        """The frame that asks the client to run a function. Raises as :func:`bert.encode`."""
        return _framed(bert_rpc.call(message.call_id, message.name, message.args, bert.Either(VOCABULARY, atoms)))

    def final(self, message: Reply | Failure, atoms: Set[Atom]) -> bytes | None:
        """The frames for the answer. None where it can only be told by closing: a stream that has begun and failed."""
        if self.streaming:
            return _END_OF_STREAM if isinstance(message, Reply) else None
        allowed = bert.Either(VOCABULARY, atoms)
        if isinstance(message, Reply):
            try:
                return self._good(bert_rpc.reply(message.result, allowed))
            except SerializationError as error:
                message = _instead(message, error)
        return self._bad(message, allowed)

    def callback_frame(self, message: Reply | Failure, atoms: Set[Atom]) -> bytes:
        """The frame for the service that hears of a cast."""
        callback, allowed = self.callback, bert.Either(VOCABULARY, atoms)
        assert callback is not None
        try:
            return _framed(bert_rpc.callback_cast(*callback.mfa, _told(message), allowed))
        except SerializationError as error:
            return _framed(bert_rpc.callback_cast(*callback.mfa, _told(_instead(message, error)), allowed))

    def _good(self, packet: bytes) -> bytes:
        if self._cache is None and self._validation is None:
            return _framed(packet)
        if self._cache != "validate" and self._validation is None:
            return _framed(bert_rpc.cache_info(("expiration", self._cache))) + _framed(packet)
        from hashlib import sha256  # several ms to import

        token = sha256(packet).digest()[:16]
        if token == self._validation:
            return _framed(bert_rpc.INFO_VALID) + _framed(bert_rpc.NO_REPLY)
        return _framed(bert_rpc.cache_info(("validation", token))) + _framed(packet)

    def _bad(self, message: Failure, atoms: Container[Atom]) -> bytes:
        if "errors" not in self._accepts:
            return _framed(bert_rpc.error_packet(message.error))
        try:
            return _framed(bert_rpc.error_reply(message.error, atoms))
        except SerializationError as error:
            return _framed(bert_rpc.error_reply(_instead(message, error).error, atoms))


def _instead(message: Reply | Failure, error: SerializationError) -> Failure:
    """What is told in the place of an answer that cannot be sent: why not, or less of an error."""
    if isinstance(message, Failure):
        kind = type(message.error)
        return Failure(None, kind(message.error.message, recovery_strategy=message.error.recovery_strategy))
    return Failure(None, error)


def _told(message: Reply | Failure) -> tuple[Atom, Any]:
    return (_OK, message.result) if isinstance(message, Reply) else (_ERROR, error_map(message.error))


_OK, _ERROR = Atom("ok"), Atom("error")
_KIND, _STREAM, _CHUNKS = Atom("kind"), Atom("stream"), (Atom("chunk"), Atom("text"))
_END_OF_STREAM = bytes(4)
NO_REPLY = header(bert_rpc.NO_REPLY) + bert_rpc.NO_REPLY


def _framed(packet: bytes) -> bytes:
    return header(packet) + packet


def packet_error(error: PacketError) -> bytes:
    """The frame that answers what is wrong."""
    return _framed(error.external())


def _chunk_of(event: Mapping[Any, Any]) -> bytes:
    """The bytes that an event of a stream brings, if it brings any."""
    if event.get(_KIND) is not _STREAM:
        return b""
    chunk = next((event[name] for name in _CHUNKS if name in event), b"")
    return chunk.encode("utf-8", "replace") if isinstance(chunk, str) else chunk if isinstance(chunk, bytes) else b""


class Info:
    """What the info packets since the last request said."""

    def __init__(self) -> None:
        self.callback: Callback | None = None
        self.validation: bytes | None = None
        self.stream = False
        self.message_id: Any = None
        self.metadata: dict[Any, Any] = {}
        self.atoms: set[Atom] = set()
        self.wrong: PacketError | None = None


class Conversation:
    """What comes from one client: :meth:`feed` bytes, then take :meth:`next` until it is None.

    ``new_id`` gives ids for requests that name none. A request is taken only when the one before is answered, so
    frames wait here until then.
    """

    def __init__(self, rules: Rules, new_id: Callable[[], int]) -> None:
        self._rules = rules
        self._new_id = new_id
        self._buffer = FrameBuffer()
        self._held: bytes | None = None  # the next frame, which waits for the end of a request
        self._authorized = not rules.token
        self._accepts: Set[str] = frozenset()
        self._info = Info()
        self._collecting: Asked | PacketError | None = None  # what the chunks that come now belong to
        self._collected = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        self._buffer.feed(data)

    @property
    def pending(self) -> int:
        """Bytes that wait to become part of a request."""
        return len(self._buffer) + (len(self._held) if self._held else 0)

    @property
    def authorized(self) -> bool:
        """Whether the client may ask for anything."""
        return self._authorized

    @property
    def begun(self) -> bool:
        """Whether a request has begun to come, so that the rest of it is due."""
        return bool(self.pending) or self._collecting is not None

    @property
    def holds_next(self) -> bool:
        """Whether what comes next is known to be nothing for :meth:`next_meanwhile`."""
        return self._held is not None

    def next(self) -> Asked | None:
        """The next request, if all of it is there. Raises :class:`PacketError`."""
        while (frame := self._take()) is not None:
            asked = self._read(frame) if self._collecting is None else self._collect(frame)
            if asked is not None:
                return asked
        return None

    def next_meanwhile(self) -> Request | None:
        """What the client says while a request is under way: the answer to a call of it, as a ``callback_result``, or
        that it is to end, as a ``cancel``.

        All else waits until :meth:`next`, and so does what is behind it. Raises :class:`PacketError`.
        """
        frame = None if self._held is not None else self._take()
        if frame is None:
            return None
        term, atoms = self._decode(frame)
        if isinstance(term, tuple) and len(term) == 3 and term[0] is _INFO and term[1] in _MEANWHILE:
            return Request((bert.BERT, self._new_id()), _MEANWHILE[term[1]], term[2], atoms=atoms)
        self._held = frame
        return None

    def _take(self) -> bytes | None:
        frame: bytes | Oversized | None
        if self._held is not None:
            frame, self._held = self._held, None
            return frame
        frame = self._buffer.take(self._rules.max_frame if self._authorized else MAX_AUTH_FRAME)
        if isinstance(frame, Oversized):
            raise self._too_large(frame)
        return frame

    def _too_large(self, frame: Oversized) -> PacketError:
        if not self._authorized:
            return _not_authorized(_FIRST)
        detail = f"a frame of {frame.length} bytes is over the limit of {frame.limit} bytes (--max-frame)"
        return PacketError("protocol", NO_HEADER, detail, name="frame_too_large", fatal=True)

    def _decode(self, frame: bytes) -> tuple[Any, set[Atom]]:
        """The term of a frame and the atoms in it."""
        atoms: set[Atom] = set()
        try:
            return bert.understood(etf.decode(frame, limits=bert.LIMITS, atoms=atoms), atoms), atoms
        except (etf.DecodeError, bert.BadBert) as error:
            detail = error.message if isinstance(error, etf.DecodeError) else str(error)
            raise PacketError("protocol", NO_DATA, detail, name="bad_data", fatal=True) from None
        except Exception as error:  # out of memory, or a fault of ours: neither may cost other connections
            detail = from_exception(error).message
            raise PacketError("server", 0, detail, name="server_error", fatal=True) from error

    def _read(self, frame: bytes) -> Asked | None:
        term, atoms = self._decode(frame)
        tag = term[0] if isinstance(term, (tuple, list)) and term else None
        if tag is _INFO and len(term) == 3:
            self._take_info(term[1], term[2], atoms)
            return None
        if not self._authorized:
            raise _not_authorized(_FIRST)
        if (tag is _CALL or tag is _CAST) and isinstance(term, tuple) and len(term) == 4:
            return self._begin(tag is _CAST, term, atoms)
        expected = "{call, Module, Function, Args}, {cast, Module, Function, Args} or {info, Command, Options}"
        raise PacketError("protocol", 0, f"expected {expected}, got {show(term)}")

    def _begin(self, cast: bool, term: tuple[Any, ...], atoms: set[Atom]) -> Asked | None:
        info, self._info = self._info, Info()
        if not info.stream:
            return self._asked(cast, term, atoms, info)
        try:
            self._collecting = self._asked(cast, term, atoms, info)
        except PacketError as error:  # told when the stream is over: until then what comes is no packet
            self._collecting = error
        return None

    def _asked(self, cast: bool, term: tuple[Any, ...], atoms: set[Atom], info: Info) -> Asked:
        if info.wrong is not None:
            raise info.wrong
        _, module, function, args = term
        exposed = bert_rpc.find(self._rules.exposed, module, function)
        message_id, metadata = info.message_id, info.metadata
        request = Request(
            (bert.BERT, self._new_id()) if message_id is None else message_id,
            exposed.request_type,
            _payload(args),
            metadata=metadata,
            timeout_ms=_timeout(metadata.get("timeout_ms"), self._rules.max_timeout_ms),
            atoms=atoms | info.atoms if info.atoms else atoms,
        )
        return Asked(request, exposed, cast, self._accepts, info)

    # -- streams -------------------------------------------------------------------------------------------------

    def _collect(self, chunk: bytes) -> Asked | None:
        if len(self._collected) + len(chunk) > self._rules.max_stream:
            detail = f"a stream of more than {self._rules.max_stream} bytes is over the limit (--max-stream)"
            raise PacketError("protocol", 0, detail, name="stream_too_long", fatal=True)
        if chunk:
            self._collected += chunk
            return None
        asked, self._collecting = self._collecting, None
        data, self._collected = bytes(self._collected), bytearray()
        if isinstance(asked, PacketError):
            raise asked
        assert asked is not None
        payload = asked.request.payload
        if not isinstance(payload, dict) or "stream" in map(str, payload):
            raise PacketError("protocol", 0, 'a payload that goes with a stream must be a map without the key "stream"')
        asked.request = asked.request.replace(payload={**payload, "stream": data})
        return asked

    # -- info ----------------------------------------------------------------------------------------------------

    def _take_info(self, command: Any, given: Any, atoms: set[Atom]) -> None:
        taker = _INFOS.get(str(command))
        if not self._authorized and taker is not Conversation._take_auth:
            raise _not_authorized(_FIRST)
        try:
            if taker is None:
                raise _bad_info(f"expected one of {', '.join(_INFOS)}, got {show(command)}")
            taker(self, given)
            self._info.atoms |= atoms
        except PacketError as error:
            if error.fatal:
                raise
            self._info.wrong = self._info.wrong or error

    def _take_auth(self, given: Any) -> None:
        token = bert_rpc.options(given, "auth").get("token")
        shown = token.encode() if isinstance(token, str) else token if isinstance(token, bytes) else b""
        if self._rules.token and not hmac.compare_digest(shown, self._rules.token):
            raise _not_authorized("that is not the token")
        self._authorized = True

    def _take_accept(self, given: Any) -> None:
        names = {str(name) for name in given} if isinstance(given, list) else {""}
        if not names <= ACCEPTS:
            raise _bad_info(f"accept: expected some of {', '.join(sorted(ACCEPTS))}, got {show(given)}")
        self._accepts = names

    def _take_callback(self, given: Any) -> None:
        options = bert_rpc.options(given, "callback")
        service, mfa = options.get("service"), options.get("mfa")
        if isinstance(service, str) and isinstance(mfa, (tuple, list)) and len(mfa) == 3:
            module, function, args = mfa
            if isinstance(module, Atom) and isinstance(function, Atom) and isinstance(args, (list, type(None))):
                self._info.callback = Callback(service, (module, function, args or []))
                return
        expected = '[{service, <<"host:port">>}, {mfa, Module, Function, Args}]'
        raise _bad_info(f"callback: expected {expected}, got {show(given)}")

    def _take_cache(self, given: Any) -> None:
        token = bert_rpc.options(given, "cache").get("validation")
        if isinstance(token, Atom):  # as bertrpc for Python sends it
            token = token.name.encode("latin-1", "replace")
        self._info.validation = token.encode() if isinstance(token, str) else token

    def _take_stream(self, given: Any) -> None:
        self._info.stream = True

    def _take_metadata(self, given: Any) -> None:
        found = given if isinstance(given, dict) else bert_rpc.options(given, "metadata")
        metadata = {str(name): value for name, value in found.items()}
        self._info.message_id = metadata.pop("message_id", None)
        timeout = metadata.get("timeout_ms")
        if timeout is not None and not (type(timeout) is int and 0 < timeout <= MAX_TIMEOUT_MS):
            raise _bad_info(invalid("metadata.timeout_ms", f"an integer from 1 to {MAX_TIMEOUT_MS}", timeout).message)
        self._info.metadata = metadata

    def _take_late(self, given: Any) -> None:
        """An answer or a cancel that comes when its request is over: nobody waits for it."""

    def _take_priority(self, given: Any) -> None:
        """Ernie's: it may come, and makes no difference."""


_CALL, _CAST, _INFO = Atom("call"), Atom("cast"), Atom("info")
_INFOS: dict[str, Callable[[Conversation, Any], None]] = {
    "auth": Conversation._take_auth,
    "accept": Conversation._take_accept,
    "callback": Conversation._take_callback,
    "cache": Conversation._take_cache,
    "stream": Conversation._take_stream,
    "metadata": Conversation._take_metadata,
    "answer": Conversation._take_late,
    "cancel": Conversation._take_late,
    "priority": Conversation._take_priority,
}
_MEANWHILE = {Atom("answer"): "callback_result", Atom("cancel"): "cancel"}


_FIRST = "the first packet must be {info, auth, [{token, Token}]}"


def _bad_info(why: str) -> PacketError:
    return PacketError("protocol", 0, f"info {why}", name="bad_info")


def _not_authorized(why: str) -> PacketError:
    return PacketError("server", 0, f"this server wants a token: {why}", name="unauthorized", fatal=True)


def _payload(args: Any) -> Any:
    if args == [] or args is None:  # bert.erl makes {bert, nil} of every empty list
        return {}
    if isinstance(args, list) and len(args) == 1 and isinstance(args[0], (dict, TermMap)):
        return args[0]
    raise PacketError(
        "protocol", 0, f"expected the arguments to be [Payload] with a map, got {show(args)}", name="bad_args"
    )


def _timeout(wanted: int | None, most: int) -> int | None:
    if not most:
        return wanted
    return most if wanted is None else min(wanted, most)
