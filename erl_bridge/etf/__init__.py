"""The codec: terms of the BEAM as Python values, and back.

>>> from erl_bridge import Atom, etf
>>> etf.decode(etf.encode({Atom("ok"): [1, "two", b"\\xff", None]}))
{Atom('ok'): [1, 'two', b'\\xff', None]}

How terms and Python values correspond is a table in ``docs/protocol.md``. ``backend`` is the name of the implementation
in use; see ``backends``. What is wrong with a value or with bytes is an :class:`EncodeError` or a :class:`DecodeError`.
"""

from __future__ import annotations

from .backends import chosen
from .errors import DecodeError, EncodeError
from .limits import DEFAULT, Limits

__all__ = [
    "DEFAULT",
    "DecodeError",
    "EncodeError",
    "Limits",
    "backend",
    "decode",
    "decode_prefix",
    "encode",
    "encode_into",
    "register",
]

_chosen = chosen()
backend = _chosen.name

TYPE_CHECKING = False
if TYPE_CHECKING:  # every backend has the functions of this one
    from collections.abc import Callable
    from typing import Any, TypeVar

    from .decoder import decode, decode_prefix
    from .encoder import encode, encode_into

    T = TypeVar("T")
else:
    encode, encode_into = _chosen.encode, _chosen.encode_into
    decode, decode_prefix = _chosen.decode, _chosen.decode_prefix


def register(kind: type[T] | str, to_term: Callable[[T], Any]) -> None:
    """Let ``encode`` send ``to_term(value)`` in the place of every value of that type or of one derived from it.

    ``kind`` is the type or, where importing it would cost too much, the name of its top-level package and its own,
    ``"numpy.ndarray"``. A registered type counts before what the codec would send by itself, and the type nearest to
    that of the value before its bases.

    ``to_term`` gives anything that can be sent. Where it raises ValueError, the value is refused with that reason and
    the path to it; where it returns ``NotImplemented``, the value is taken as if the type were not registered. It is
    called once for each place where the value is, but again for a key of a map or a member of a set, which are compared
    before they are sent.

    Raises ValueError for a type that is registered already or that has a term of its own.

    >>> class Money:
    ...     cents = 250
    >>> register(Money, lambda money: {"cents": money.cents})
    >>> decode(encode([Money()]))
    [{'cents': 250}]
    >>> register(Money, repr)
    Traceback (most recent call last):
    ValueError: erl_bridge.etf.Money is registered already
    """
    from .objects import register as register_type  # loaded with the first object that is no term

    register_type(kind, to_term)
