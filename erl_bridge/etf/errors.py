"""The two exceptions of the codec. Nothing else leaves it for bad input, whichever backend is at work."""

from __future__ import annotations

from ..errors import SerializationError
from ..terms import Atom

_PATH, _EXPECTED, _GOT = Atom("path"), Atom("expected"), Atom("got")


class EncodeError(SerializationError):
    """A value that is no term. ``path`` says where it is in what was to be encoded: ``result.metrics[3].score``.

    >>> print(EncodeError("float nan", "result.score", "floats of the BEAM are finite"))
    cannot encode float nan at result.score: floats of the BEAM are finite
    """

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(f"cannot encode {what} at {path}: {reason}", context={_PATH: path, _GOT: what})
        self.path = path
        self._arguments = what, path, reason

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), self._arguments


class DecodeError(SerializationError):
    """Bytes that are no term, or one past a limit. ``offset`` is the byte at which the part that does not fit begins.

    Where the term came compressed, bytes are counted in the inflated data, and the message says so.

    >>> print(DecodeError(7, "a tag of the external term format", "200"))
    cannot decode byte 7: expected a tag of the external term format, got 200
    """

    def __init__(self, offset: int, expected: str, got: str, *, inflated: bool = False) -> None:
        where = f"byte {offset} of the inflated data" if inflated else f"byte {offset}"
        context = {_EXPECTED: expected, _GOT: got}
        super().__init__(f"cannot decode {where}: expected {expected}, got {got}", context=context)
        self.offset = offset
        self._arguments = offset, expected, got, inflated

    def __reduce__(self) -> tuple[object, tuple[int, str, str, bool]]:
        return _decode_error, self._arguments


def _decode_error(offset: int, expected: str, got: str, inflated: bool) -> DecodeError:
    return DecodeError(offset, expected, got, inflated=inflated)
