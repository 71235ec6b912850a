"""What holds for any bytes at all: `make fuzz` looks for bytes for which it does not, test_etf_fuzz.py tries some.

Run as a program it is a target of libFuzzer, which sees the compiled core and the Python files of the codec.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import Any
from zlib import crc32

from erl_bridge.terms import CONSTANTS, Atom, ImproperList, TermMap, identity

_LEAST = 10  # of the limits that are chosen to be reached


def check(data: bytes) -> None:
    """Both cores decode the bytes to the same or refuse them alike; what they decode they write alike and read again.

    Raises AssertionError where that is not so, and whatever leaves a core besides DecodeError and EncodeError.
    """
    from erl_bridge.etf import Limits

    exact = memoryview(array("B", data)[:]).toreadonly()  # a slice has no room behind it, as bytes and arrays have
    most = Limits(max_terms=10_000, max_inflated=100_000)
    chosen = _LEAST + crc32(data) % 50
    few = Limits(1000, chosen, chosen // 3, chosen, chosen // 4, chosen // 5)
    for options in (
        {"limits": most},
        {"limits": few},
        {"limits": most, "binaries": "bytes", "structs": False},
        {"limits": most, "binaries": "memoryview"},
    ):
        atoms: set[Atom] = set()
        decoded = _agreed("decode", exact, atoms=atoms, **options)
        if not decoded:
            continue
        (term,) = decoded
        written = _agreed("encode", term)
        assert written, f"{term!r:.500} is decoded but not encoded"
        assert_written_into(term, written[0], chosen)
        (again,) = _agreed("decode", written[0], **{**options, "limits": most})
        assert_same(again, term)
        _agreed("encode", term, max_depth=chosen % 3)
        _agreed("encode", term, atoms=set(sorted(atoms, key=str)[1:]))
    check_scan(data)


def check_scan(data: bytes) -> None:
    """Where the bytes are taken for a batch of rows without decoding them, they are one, with these atoms in it.

    But for what the decoder alone sees: names that are no UTF-8, and keys that come twice.
    """
    from erl_bridge.datasets._scan import scan

    found = scan(data)
    atoms: set[Atom] = set()
    decoded = found and _outcome(_cores()[1].decode, data, {"atoms": atoms})
    if isinstance(decoded, Exception):
        assert "distinct" in str(decoded) or "UTF-8" in str(decoded), f"a batch that is none: {decoded}"
    elif found:
        assert all(isinstance(row, (dict, TermMap)) for row in decoded)
        names = {name.decode() for name in found[1]}
        assert (len(decoded), {str(atom) for atom in atoms}) == (found[0], names - CONSTANTS.keys())


def _agreed(name: str, value: Any, **options: Any) -> list[Any]:
    """What both cores make of a value, in a list; an empty one where both refuse it with the same error."""
    expected, got = (_outcome(getattr(core, name), value, options) for core in _cores())
    assert type(expected) is type(got), f"{name}: {expected!r:.500} in Python, {got!r:.500} in C"
    if isinstance(expected, Exception):
        assert str(expected) == str(got)
        return []
    assert_same(got, expected)
    return [got]


def assert_written_into(term: Any, data: bytes, length: int) -> None:
    """Both cores write the term in the middle of a buffer as they do for itself."""
    for core in _cores():
        buffer, offset = bytearray(b"\x55" * length), length // 2
        end = core.encode_into(term, buffer, offset)
        assert buffer[:end] == b"\x55" * offset + data
        assert len(buffer) == max(length, end)


def _cores() -> tuple[Any, Any]:
    from erl_bridge.etf import backends

    return backends.load("python"), backends.load("compiled")


def _outcome(function: Callable[..., Any], value: Any, options: dict[str, Any]) -> Any:
    from erl_bridge.etf import DecodeError, EncodeError

    try:
        return function(value, **options)
    except (DecodeError, EncodeError) as error:
        return error


def assert_same(left: Any, right: Any) -> None:
    """The two terms are of the same types everywhere, in the same order; does not recurse, so it may be any term."""
    stack = [(left, right)]
    while stack:
        one, other = stack.pop()
        assert type(one) is type(other), f"{one!r:.500} is not {other!r:.500}"
        parts = _PARTS.get(type(one))
        if parts is None:
            assert repr(one) == repr(other)
            assert identity(one) == identity(other)
            continue
        ones, others = parts(one), parts(other)
        assert len(ones) == len(others), f"{one!r:.500} is not {other!r:.500}"
        stack += zip(ones, others, strict=True)


def _of_map(value: Any) -> list[Any]:
    return [half for pair in value.items() for half in pair]


_PARTS: dict[type, Callable[[Any], Any]] = {
    list: list,
    tuple: list,
    memoryview: lambda value: [value.tobytes(), value.readonly],
    ImproperList: lambda value: [*value.items, value.tail],
    dict: _of_map,
    TermMap: _of_map,
    set: lambda value: sorted(map(identity, value)),
}


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["erl_bridge.etf"]):
        _cores()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
