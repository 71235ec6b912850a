"""The ceilings for what a peer may make the decoder do."""

from __future__ import annotations

from ..values import Value

_MIB = 1 << 20


class Limits(Value):
    """How large a term may be that is decoded; what exceeds one of these is a :class:`~erl_bridge.etf.DecodeError`.

    ``max_size``: bytes of the external form, as it comes.
    ``max_inflated``: bytes of a compressed term when it is inflated; checked before and while inflating.
    ``max_depth``: containers within containers; empty ones and byte lists (STRING_EXT) are not counted.
    ``max_terms``: terms in all: elements, keys, values and the term itself. It bounds the memory, which is some 100
    bytes for each, twice that for what is in a ``TermMap``.
    ``max_atoms``: different atoms; one takes some 400 bytes.
    ``max_collisions``: keys of one map that have the same ``hash`` in Python; without it a peer could send integers
    that make a ``dict`` take quadratic time.

    Raises ValueError for a limit that is not a positive integer.

    >>> Limits(max_depth=100).replace(max_terms=5)
    Limits(max_size=67108864, max_inflated=67108864, max_depth=100, max_terms=5, max_atoms=100000, max_collisions=100)
    """

    __slots__ = ("max_size", "max_inflated", "max_depth", "max_terms", "max_atoms", "max_collisions")

    max_size: int
    max_inflated: int
    max_depth: int
    max_terms: int
    max_atoms: int
    max_collisions: int

    def __init__(
        self,
        max_size: int = 64 * _MIB,
        max_inflated: int = 64 * _MIB,
        max_depth: int = 10_000,
        max_terms: int = 10_000_000,
        max_atoms: int = 100_000,
        max_collisions: int = 100,
    ) -> None:
        self._set(
            max_size=max_size,
            max_inflated=max_inflated,
            max_depth=max_depth,
            max_terms=max_terms,
            max_atoms=max_atoms,
            max_collisions=max_collisions,
        )
        for name, limit in zip(self.__slots__, self._fields(), strict=True):
            if type(limit) is not int or limit < 1:
                raise ValueError(f"{name} is a positive integer, not {limit!r}")


DEFAULT = Limits()
