"""What must not do harm, whoever sends it: colliding keys by the million, deep terms on a small stack, objects lost."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import pytest
from test_etf_roundtrip import each_codec
from test_etf_vectors import REFUSED, TERMS

from erl_bridge.etf import DecodeError, EncodeError, Limits, backends
from erl_bridge.terms import Atom, Pid

MERSENNE = 2**61 - 1  # what Python's hash of numbers is counted modulo
MANY = 1_000_000
MOST = 100  # the default of max_collisions


@cache
def in_groups(size: int, *more: int) -> bytes:
    """A map with so many keys of one hash, then so many of another, and so on; at the end, these."""
    keys = [1 + number // size + number % size * MERSENNE for number in range(MANY - len(more))]
    pairs = (b"n\x0b\0" + key.to_bytes(11, "little") + b"j" for key in (*keys, *more))
    return b"\x83t" + MANY.to_bytes(4, "big") + b"".join(pairs)


# Of keys with one hash a dict compares each with all before it: 5 * 10**7 times in all for the first of these, which is
# little. For the second it would be up to 5 * 10**11 times, which takes hours: the test ends because no dict is made.


@each_codec
def test_a_million_keys_with_as_many_collisions_as_may_be(codec: backends.Backend) -> None:
    found = codec.decode(in_groups(MOST))
    assert len(found) == MANY
    assert 1 + (MOST - 1) * MERSENNE in found


@each_codec
def test_a_million_keys_that_collide_are_refused(codec: backends.Backend) -> None:
    with pytest.raises(
        DecodeError, match=rf"at most {MOST} keys of one hash \(max_collisions\) to end here, got one with {MANY}"
    ):
        codec.decode(in_groups(MANY))


@each_codec
def test_one_collision_too_many_among_a_million_keys(codec: backends.Backend) -> None:
    with pytest.raises(DecodeError, match=f"got one with {MOST + 1}"):
        codec.decode(in_groups(MOST, 1 + MOST * MERSENNE))


# -- deep terms ------------------------------------------------------------------------------------------------

DEEP = """
import sys, threading
from erl_bridge.etf import DEFAULT, DecodeError, EncodeError, Limits, backends

codec, most = backends.load({name!r}), DEFAULT.max_depth
openings = [(b"l\\0\\0\\0\\1", b"j"), (b"h\\1", b""), (b"t\\0\\0\\0\\1a\\1", b""), (b"t\\0\\0\\0\\1", b"a\\1")]
codec.decode(codec.encode({{"imports": (1,), ("what", 2): "is rare"}}))
agreed, held = [], []  # Python 3.13 frees deep terms by recursion: that is left to the main thread

def work():
    sys.setrecursionlimit({recursion})
    for opening, closing in openings:
        data = b"\\x83" + opening * most + b"j" + closing * most
        for binaries in ("auto", "memoryview"):
            term = codec.decode(data, binaries=binaries)
            held.append(term)
            assert codec.encode(term) == data
            assert codec.encode_into(term, bytearray(data), 1) == len(data) + 1
            refused(DecodeError, codec.decode, data, limits=Limits(max_depth=most - 1), binaries=binaries)
            refused(EncodeError, codec.encode, term, max_depth=most - 1)
    endless = []
    held.append(endless)
    endless.append({{"a": (endless,)}})
    refused(EncodeError, codec.encode, endless)
    agreed.append(True)

def refused(error, function, *args, **options):
    try:
        function(*args, **options)
    except error:
        return
    raise AssertionError(function)

threading.stack_size({stack})
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert agreed
"""
# The frames of code with a sanitizer are several times larger.
STACK = (1024 if "LD_PRELOAD" in os.environ else 64) << 10


@pytest.mark.parametrize("name", backends.names())
def test_deep_terms_need_no_stack(name: str) -> None:
    script = DEEP.format(name=name, stack=STACK, recursion=60)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


# -- objects ---------------------------------------------------------------------------------------------------

ROUNDS = 30


class Odd:
    pass


def outcome(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return function(*args, **options)
    except (DecodeError, EncodeError, TypeError, ValueError, BufferError, ZeroDivisionError):
        return None


def decodings(codec: backends.Backend) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name, data in {**{name: data for name, (data, _) in TERMS.items()}, **REFUSED}.items():
        for binaries in ("auto", "bytes", "memoryview"):
            yield f"{name} {binaries}", partial(outcome, codec.decode, data, binaries=binaries)
        yield f"{name} atoms", lambda data=data: outcome(codec.decode, data, atoms=set(), structs=False)
        yield f"{name} bytearray", partial(outcome, codec.decode, bytearray(data))
        yield f"{name} cut", partial(outcome, codec.decode, memoryview(data)[:-1], binaries="memoryview")
        body = data[1:]
        packed = b"\x83P" + len(body).to_bytes(4, "big") + zlib.compress(body)
        yield f"{name} compressed", partial(outcome, codec.decode, packed, binaries="memoryview")
        for limit in Limits.__slots__:
            yield f"{name} {limit}", partial(outcome, codec.decode, data, limits=Limits(**{limit: 2}))


def encodings(codec: backends.Backend) -> Iterator[tuple[str, Callable[[], Any]]]:
    hooks: dict[str, Any] = {
        "none": None,
        "list": list,
        "map": lambda _: {"t": (Atom("made"), 2**70), b"b": [Pid(Atom("n@h"), 1, 2, 3)]},
        "odd": lambda _: Odd(),
        "failing": lambda _: 1 // 0,
    }
    terms = {name: outcome(codec.decode, data) for name, (data, _) in TERMS.items()}
    terms |= {
        "nan": [1, {"a": float("nan")}],
        "surrogate": {"k": ["\ud800"]},
        "odd": [[Odd()], Odd()],
        "twice": {"a": 1, b"a": Odd()},
        "late": [Odd(), {(1, 2): Odd(), "end": float("inf")}],
    }
    for name, term in terms.items():
        yield f"{name} atoms", partial(outcome, codec.encode, term, atoms=[Atom("ok")])
        yield f"{name} max_depth", partial(outcome, codec.encode, term, max_depth=1)
        yield f"{name} compressed", partial(outcome, codec.encode, term, compressed=True)
        for hook, default in hooks.items():
            yield f"{name} {hook}", partial(outcome, codec.encode, term, default=default)
            yield (
                f"{name} {hook} into",
                lambda t=term, d=default: outcome(codec.encode_into, t, bytearray(3), 3, default=d),
            )
            yield (
                f"{name} {hook} wrong",
                lambda t=term, d=default: outcome(codec.encode_into, t, bytearray(3), 4, default=d),
            )


def grown(call: Callable[[], Any]) -> int:
    """The blocks of memory that stay allocated after ROUNDS calls."""
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(ROUNDS):
        call()
    gc.collect()
    return sys.getallocatedblocks() - before


def loses_objects(call: Callable[[], Any]) -> bool:
    """Whether each call does, however often it is called: caches and Python's lists of free objects fill up once."""
    return all(grown(call) >= ROUNDS for _ in range(6))


@pytest.fixture
def frozen() -> Iterator[None]:
    """Without it each collection would go over all that the tests hold."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@each_codec
@pytest.mark.parametrize("cases", [decodings, encodings])
@pytest.mark.usefixtures("frozen")
def test_no_call_loses_an_object(codec: backends.Backend, cases: Callable[..., Any]) -> None:
    assert [name for name, call in cases(codec) if loses_objects(call)] == []


@pytest.mark.skipif(not sys.getallocatedblocks(), reason="Python's own allocator is not in use")
@pytest.mark.usefixtures("frozen")
def test_lost_objects_are_found() -> None:
    kept: list[Any] = []
    assert loses_objects(lambda: kept.append(object()))
