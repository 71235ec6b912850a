"""Maps, from the terms that are between their brackets: a ``dict`` where nothing is lost, else a ``TermMap``.

Rule of this file: no key is merged with another, none comes twice, and a peer cannot make Python slow or crash it with
keys: colliding hashes are counted before a ``dict`` is made, and nested keys are walked without recursion. It knows
nothing of bytes, so every backend can use it.
"""

from __future__ import annotations

from itertools import groupby

from ..terms import Atom, BitString, Export, ImproperList, Pid, Port, Reference, TermMap, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class BadMap(Exception):
    """What is wrong with a map: what was expected and what came."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got


def make_map(terms: Sequence[Any], max_collisions: int, *, plain: bool) -> dict[Any, Any] | TermMap:
    """The map of ``terms``, which are its keys and values by turns.

    ``plain`` says that all keys are simple terms or tuples of such (see :func:`is_plain_key`): they can be hashed, and
    those that Python holds apart are apart for the BEAM as well. Raises :class:`BadMap`.

    >>> make_map(["a", 1, "b", 2], 100, plain=True), make_map([1, "a", 1.0, "b"], 100, plain=True)
    ({'a': 1, 'b': 2}, TermMap([(1, 'a'), (1.0, 'b')]))
    """
    if plain:
        try:
            if len(terms) > 2 * max_collisions:
                _check_collisions(terms[::2], max_collisions)
            halves = iter(terms)
            made = dict(zip(halves, halves))  # noqa: B905 - their number is even, and to look costs a third more
        except TypeError:  # a key is a byte list, which is read as a leaf
            return _make_carefully(terms, max_collisions)
        if 2 * len(made) == len(terms):
            return made
    return _make_carefully(terms, max_collisions)


def _make_carefully(terms: Sequence[Any], max_collisions: int) -> dict[Any, Any] | TermMap:
    keys = terms[::2]
    try:
        identities = dict.fromkeys(map(identity, keys))
    except ValueError as error:
        raise BadMap("a map with keys that can be compared", str(error)) from None
    if len(identities) != len(keys):
        raise BadMap("a map with distinct keys", f"one of {len(keys)} pairs with {len(identities)} distinct")
    if all(map(_can_be_hashed, keys)):
        _check_collisions(keys, max_collisions)
        made = dict(zip(keys, terms[1::2], strict=True))
        if len(made) == len(keys):
            return made
    return TermMap.of_distinct(identities, zip(keys, terms[1::2], strict=True))


_SIMPLE = {int, float, str, bytes, bool, type(None), Atom, BitString, Pid, Port, Reference, Export}


def is_plain_key(key: Any) -> bool:
    """Whether a container that is a key is a tuple of simple terms."""
    return type(key) is tuple and _SIMPLE.issuperset(map(type, key))


_MAX_NESTED_KEY = 32  # hash() of nested tuples recurses on the C stack


def _can_be_hashed(key: Any) -> bool:
    level = [key]
    for _ in range(_MAX_NESTED_KEY):
        below: list[Any] = []
        for term in level:
            if type(term) is tuple:
                below.extend(term)
            elif type(term).__hash__ is None or type(term) is ImproperList:
                return False
        if not below:
            return True
        level = below
    return False


def _check_collisions(keys: Sequence[Any], most: int) -> None:
    """Numbers, and what holds them, can be chosen to collide. A text's hash is salted, and an atom's is an address."""
    if {str, bytes, Atom}.issuperset(map(type, keys)):
        return
    hashes = list(map(hash, keys))
    if len(set(hashes)) == len(hashes):
        return
    for _, same in groupby(sorted(hashes)):
        count = sum(1 for _ in same)
        if count > most:
            raise BadMap(f"a map with at most {most} keys of one hash (max_collisions)", f"one with {count}")
