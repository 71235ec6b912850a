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

__all__ = ["DEFAULT", "DecodeError", "EncodeError", "Limits", "backend", "decode", "encode"]

_chosen = chosen()
backend = _chosen.name

TYPE_CHECKING = False
if TYPE_CHECKING:  # every backend has the functions of this one
    from .decoder import decode
    from .encoder import encode
else:
    encode, decode = _chosen.encode, _chosen.decode
