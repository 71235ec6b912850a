"""Compressed streams, inflated piece by piece as they come.

Rule of this file: bytes in, bytes out, and never more than a bounded piece at once, whatever the input claims to be.
"""

from __future__ import annotations

from importlib import import_module

from .errors import broken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    class Inflater(Protocol):
        """One stream. ``at_end`` says whether it may end here."""

        at_end: bool

        def feed(self, data: bytes) -> Iterator[bytes]:
            """What ``data`` inflates to. Raises :class:`TransferError` for what is no such stream."""
            ...


PIECE = 1 << 20  # bytes that are inflated at once
_SLICE = 1024  # bytes that go into a decompressor that has no limit of its own: at most 32 MiB come out
_WINDOW_LOG = 25  # the memory that a zstd frame may ask for, 32 MiB


class _Plain:
    """No compression."""

    at_end = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data


class _Zlib:
    """zlib streams, one after the other."""

    def __init__(self) -> None:
        import zlib  # a shared library, not loaded before hello

        self._new, self._error = zlib.decompressobj, zlib.error
        self._stream = self._new()
        self.at_end = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        pending = bool(data)
        while pending:
            try:
                piece = self._stream.decompress(data, PIECE)
            except self._error as error:
                raise broken(f"the data is not as zlib compresses it: {error}") from None
            self.at_end = self._stream.eof
            if self.at_end:
                data = self._stream.unused_data
                self._stream = self._new()
                pending = bool(data)
            else:
                data = self._stream.unconsumed_tail
                pending = bool(data) or len(piece) == PIECE  # there may be more of what was taken in already
            yield piece


class _Zstd:
    """zstd frames, one after the other, by the standard library of Python 3.14."""

    def __init__(self) -> None:
        zstd = import_module("compression.zstd")
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        self._new: Callable[[], Any] = lambda: zstd.ZstdDecompressor(options=options)
        self._error = zstd.ZstdError
        self._stream = self._new()
        self.at_end = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        pending = bool(data)
        while pending:
            try:
                piece = self._stream.decompress(data, PIECE)
            except self._error as error:
                raise broken(f"the data is not as zstd compresses it: {error}") from None
            self.at_end = self._stream.eof
            if self.at_end:
                data = self._stream.unused_data
                self._stream = self._new()
                pending = bool(data)
            else:
                data = b""
                pending = not self._stream.needs_input
            yield piece


class _ZstdOfPackage:
    """The same by the package ``zstandard``."""

    def __init__(self) -> None:
        zstandard = import_module("zstandard")
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        self._new: Callable[[], Any] = decompressor.decompressobj
        self._error = zstandard.ZstdError
        self._stream = self._new()
        self.at_end = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _SLICE):
            part = data[start : start + _SLICE]
            while part:
                try:
                    piece = self._stream.decompress(part)
                except self._error as error:
                    raise broken(f"the data is not as zstd compresses it: {error}") from None
                self.at_end = self._stream.eof
                part = b""
                if self.at_end:
                    part = self._stream.unused_data
                    self._stream = self._new()
                yield piece


_INFLATERS: dict[str, tuple[type[Inflater], ...]] = {
    "none": (_Plain,),
    "zlib": (_Zlib,),
    "zstd": (_Zstd, _ZstdOfPackage),
}


def inflater(compression: str) -> Inflater:
    """A new stream of that compression. Raises ImportError when nothing that inflates it is installed.

    >>> b"".join(inflater("none").feed(b"as it is"))
    b'as it is'
    """
    for kind in _INFLATERS[compression]:
        try:
            return kind()
        except ImportError:
            continue
    raise ImportError(f"nothing that inflates {compression} is installed")


def usable() -> list[str]:
    """The compressions that can be inflated here.

    >>> usable()[:2]
    ['none', 'zlib']
    """
    return [name for name in _INFLATERS if _is_usable(name)]


def _is_usable(name: str) -> bool:
    try:
        inflater(name)
    except ImportError:
        return False
    return True
