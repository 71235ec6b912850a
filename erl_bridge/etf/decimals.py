"""Elixir's ``Decimal`` struct (of the package ``decimal``, version 2) and Python's ``decimal.Decimal``.

Rule: see ``structs``. Numbers beyond Python's default context (exponents over 999,999, more than some 4,000 digits)
stay structs: Python would be slow with them, or refuse them.
"""

from __future__ import annotations

from decimal import Decimal

from ..terms import Atom
from .structs import STRUCT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .structs import Fields, Reader

DECIMAL = Atom("Elixir.Decimal")
SIGN, COEF, EXP = Atom("sign"), Atom("coef"), Atom("exp")
INFINITE, NAN = Atom("inf"), Atom("NaN")

_FIELDS = {STRUCT, SIGN, COEF, EXP}
_SPECIAL: dict[Any, Decimal] = {INFINITE: Decimal("Infinity"), NAN: Decimal("NaN")}
_MAX_EXPONENT = 999_999
_MAX_BITS = 13_000


def _read(fields: Fields) -> Decimal | None:
    if fields.keys() != _FIELDS:
        return None
    sign, coef, exp = fields[SIGN], fields[COEF], fields[EXP]
    if type(sign) is not int or type(exp) is not int or sign not in (1, -1) or abs(exp) > _MAX_EXPONENT:
        return None
    if type(coef) is Atom and coef in _SPECIAL:
        return _SPECIAL[coef].copy_sign(Decimal(sign)) if exp == 0 else None
    if type(coef) is not int or coef < 0 or coef.bit_length() > _MAX_BITS:
        return None
    return Decimal((int(sign < 0), Decimal(coef).as_tuple().digits, exp))


def _fields_of(value: Decimal) -> Fields:
    sign, digits, exp = value.as_tuple()
    coef: int | Atom
    if exp == "F":
        coef, exp = INFINITE, 0
    elif exp == "n" and not digits:
        coef, exp = NAN, 0
    elif isinstance(exp, str):
        raise ValueError("Elixir's NaN is quiet and carries no digits")
    else:
        coef = int(Decimal((0, digits, 0)))
    return {STRUCT: DECIMAL, SIGN: -1 if sign else 1, COEF: coef, EXP: exp}


READERS: dict[Atom, Reader] = {DECIMAL: _read}
STAND_INS: dict[type, Callable[[Any], Fields]] = {Decimal: _fields_of}
