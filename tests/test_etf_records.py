"""Native records, which OTP 29 has: what it writes, and what it refuses to read."""

from __future__ import annotations

import pytest

from erl_bridge import Atom, Record
from erl_bridge.etf import DecodeError, EncodeError
from erl_bridge.etf.backends import Backend, load, names

A = Atom
HEAD = b"\x83C\x00\x00\x00"
# term_to_binary(#rec2:p{x = 7, y = 2}) of OTP 29.0, where rec2 exports the record.
WRITTEN = HEAD + b"\x02\x01w\x04rec2w\x01pw\x01xw\x01ya\x07a\x02"
RECORD = Record(A("rec2"), A("p"), ((A("x"), 7), (A("y"), 2)), exported=True)


@pytest.fixture(params=["python", "compiled"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param not in names():
        pytest.skip(f"the backend {request.param} is not built")
    return load(request.param)


def test_a_record_comes_back_as_it_was(backend: Backend) -> None:
    assert backend.decode(WRITTEN) == RECORD
    assert backend.encode(RECORD) == WRITTEN
    within = {"list": [RECORD, {RECORD: (RECORD,)}], "empty": Record(A("m"), A("p"), ())}
    assert backend.decode(backend.encode(within)) == within


def test_the_beam_holds_an_exported_record_apart() -> None:
    assert Record(A("m"), A("p"), ()) != Record(A("m"), A("p"), (), exported=True)


def test_a_value_is_found_by_its_name() -> None:
    assert RECORD.get("y") == 2
    with pytest.raises(KeyError):
        RECORD.get("z")


@pytest.mark.parametrize("size", range(len(WRITTEN)))
def test_a_truncated_record_is_refused(backend: Backend, size: int) -> None:
    with pytest.raises(DecodeError):
        backend.decode(WRITTEN[:size])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (HEAD + b"\x02\x00w\x01mw\x01pw\x01xw\x01xa\x01a\x02", "each field once, got one with a field twice"),
        (HEAD + b"\x00\x02w\x01mw\x01p", r"exported \(1\) or not \(0\), got 2"),
        (HEAD + b"\x00\x00w\x01ma\x01", "names are atoms, got int"),
        (HEAD + b"\x01\x00w\x01mw\x01pa\x01a\x01", "names are atoms, got int"),
        (b"\x83C\xff\xff\xff\xff\x00w\x01mw\x01p", "expected 8589934592 terms in a RECORD_EXT"),
    ],
)
def test_what_the_beam_refuses_is_refused(backend: Backend, data: bytes, expected: str) -> None:
    with pytest.raises(DecodeError, match=expected):
        backend.decode(data)


def test_the_path_names_the_field(backend: Backend) -> None:
    with pytest.raises(EncodeError, match=r"float nan at term\.f: "):
        backend.encode(Record(A("m"), A("p"), ((A("e"), 1), (A("f"), float("nan")))))
    with pytest.raises(EncodeError, match="its names must be atoms, and one is 'p'"):
        backend.encode(Record(A("m"), "p", ()))


def test_atoms_that_may_not_be_sent_are_found(backend: Backend) -> None:
    with pytest.raises(EncodeError):
        backend.encode(RECORD, atoms={A("rec2"), A("p"), A("x")})
