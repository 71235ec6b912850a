"""A backend made of another library: what is to be known of the library, and the checks around each call of it.

Rule of this file: the library is asked only what it answers right and without harm, and its answer is compared with
that of the pure-Python backend (by :func:`~erl_bridge.terms.identity`). So each call does the work of the pure-Python
backend as well, twice when encoding.
"""

from __future__ import annotations

from ...terms import Atom, TermMap, identity
from ...values import Value
from .. import decoder, encoder, tags
from ..decoder import _inflate
from ..encoder import _NO_LIMITS, _compressed
from ..errors import DecodeError, EncodeError
from ..limits import DEFAULT, Limits
from ..maps import BadMap, make_map
from ..structs import STRUCT, from_fields
from .rebuild import NotCarried, dict_of, open_dict, open_sequence, rebuilt
from .scan import refuse_unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Unpack

    from typing_extensions import Buffer

    from .rebuild import Make, Open

_VERSION = bytes((tags.VERSION,))


class Library(Value):
    """Another library, as a backend sees it.

    ``pack`` and ``unpack`` are the library's functions; whatever they raise is a refusal. ``to_leaf`` makes the
    library's value of one of ours that is no container, ``from_leaf`` the other way round; both raise ``NotCarried``.
    Every ``bytes`` of the library is a binary. ``reads`` are the tags that it may be given, and ``max_depth`` says how
    many containers within one another it can take.
    """

    __slots__ = ("name", "pack", "unpack", "to_leaf", "from_leaf", "reads", "max_depth")

    name: str
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]
    to_leaf: Callable[[Any], Any]
    from_leaf: Callable[[Any], Any]
    reads: frozenset[int]
    max_depth: int

    def __init__(
        self,
        name: str,
        pack: Callable[[Any], bytes],
        unpack: Callable[[bytes], Any],
        to_leaf: Callable[[Any], Any],
        from_leaf: Callable[[Any], Any],
        reads: frozenset[int],
        max_depth: int,
    ) -> None:
        self._set(
            name=name,
            pack=pack,
            unpack=unpack,
            to_leaf=to_leaf,
            from_leaf=from_leaf,
            reads=reads,
            max_depth=max_depth,
        )

    def encode(
        self,
        term: Any,
        *,
        compressed: bool | int = False,
        atoms: encoder.Atoms = None,
        default: encoder.Default = None,
        root: str = "term",
        max_depth: int = DEFAULT.max_depth,
    ) -> bytes:
        """As :func:`erl_bridge.etf.encode`; it raises EncodeError also for what the library does not carry."""
        ours = encoder.encode(term, atoms=atoms, default=default, root=root, max_depth=max_depth)
        plain = decoder.decode(ours, limits=_NO_LIMITS, structs=False)  # only the types of the library's tables
        try:
            theirs = self.pack(rebuilt(plain, self.to_leaf, _TO_CONTAINERS, self.max_depth, root))
            same = identity(decoder.decode(theirs, limits=_NO_LIMITS)) == identity(plain)
        except NotCarried as refused:
            raise EncodeError(
                refused.what, refused.path, f"the backend {self.name} refuses it: {refused.reason}"
            ) from None
        except MemoryError:
            raise
        except Exception as error:
            raise EncodeError("the term", root, f"the backend {self.name} fails: {_told(error)}") from error
        if not same:
            raise EncodeError("the term", root, f"the backend {self.name} makes another term of it")
        return _compressed(theirs, compressed) if compressed else theirs

    def encode_into(self, term: Any, buffer: bytearray, offset: int = 0, **options: Unpack[encoder.Options]) -> int:
        """As :func:`erl_bridge.etf.encode_into`, with what ``encode`` refuses besides."""
        return encoder.write_into(buffer, offset, lambda: self.encode(term, **options))

    def decode(
        self,
        data: Buffer,
        *,
        limits: Limits = DEFAULT,
        binaries: decoder.Binaries = "auto",
        structs: bool = True,
        atoms: set[Atom] | None = None,
    ) -> Any:
        """As :func:`erl_bridge.etf.decode`; it raises DecodeError also for what the library does not read.

        The library makes ``bytes`` of its own, so ``binaries`` is never ``"memoryview"``: that raises ValueError.
        """
        if binaries == "memoryview":
            raise ValueError(f"binaries is 'auto' or 'bytes' for the backend {self.name}, not 'memoryview'")
        found: set[Atom] = set()
        whole = data if type(data) is bytes else memoryview(data).tobytes()
        expected = decoder.decode(whole, limits=limits, binaries=binaries, structs=False, atoms=found)
        body, start = whole, 1
        if whole[1] == tags.COMPRESSED:
            body, start = _inflate(whole, limits)[0], 0
        refuse_unreadable(body, start, self.reads, self.max_depth, self.name)
        term = self._read(body if start else _VERSION + body, start, limits, binaries == "auto", structs)
        if identity(term) != identity(expected):
            raise self._refused(start, "it reads another")
        if atoms is not None:
            atoms.update(found)
        return term

    def decode_prefix(
        self,
        data: Buffer,
        offset: int = 0,
        *,
        version: bool = True,
        limits: Limits = DEFAULT,
        **options: Any,
    ) -> tuple[Any, int]:
        """As :func:`erl_bridge.etf.decode_prefix`; the offset of what only the library refuses is that in the term."""
        _, end = decoder.decode_prefix(data, offset, version=version, limits=limits)
        term = memoryview(data).cast("B")[offset:end].tobytes()
        return self.decode(term if version else _VERSION + term, limits=limits, **options), end

    def _read(self, data: bytes, start: int, limits: Limits, texts: bool, structs: bool) -> Any:
        """The library's answer in our terms. ``data`` has nothing in it that the library does not read."""
        try:
            theirs = self.unpack(data)
            return rebuilt(theirs, self._our_leaf(texts), _our_containers(limits, structs), self.max_depth)
        except NotCarried as refused:
            raise self._refused(start, f"{refused.what}: {refused.reason}") from None
        except MemoryError:
            raise
        except Exception as error:
            raise self._refused(start, _told(error)) from error

    def _our_leaf(self, texts: bool) -> Callable[[Any], Any]:
        def leaf(value: Any) -> Any:
            if type(value) is bytes:
                return decoder._text(value) if texts else value
            return self.from_leaf(value)

        return leaf

    def _refused(self, start: int, got: str) -> DecodeError:
        return DecodeError(start, f"a term that the backend {self.name} can read", got, inflated=start == 0)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


# -- containers, both ways -------------------------------------------------------------------------------------


def _open_term_map(_: Any) -> Any:
    raise NotCarried("a TermMap", "its keys are distinct for the BEAM, but a dict merges them or cannot hold them")


_TO_CONTAINERS: dict[type, Open] = {
    list: open_sequence(list),
    tuple: open_sequence(tuple),
    dict: open_dict(dict_of),
    TermMap: _open_term_map,
}


def _our_containers(limits: Limits, structs: bool) -> dict[type, Open]:
    return {list: open_sequence(list), tuple: open_sequence(tuple), dict: open_dict(_map_maker(limits, structs))}


def _map_maker(limits: Limits, structs: bool) -> Make:
    def make(terms: list[Any]) -> Any:
        try:
            made = make_map(terms, limits.max_collisions, plain=False)
        except BadMap as bad:
            raise NotCarried("a map", f"expected {bad.expected}, got {bad.got}") from None
        return from_fields(made) if structs and type(made) is dict and STRUCT in made else made

    return make
