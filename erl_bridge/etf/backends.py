"""The implementations of the codec, by name, and which of them is in use.

A backend is four functions, ``encode``, ``encode_into``, ``decode`` and ``decode_prefix``, with the arguments of those
of :mod:`erl_bridge.etf`. Everything above the codec works with any of them. The environment variable
``ERL_BRIDGE_ETF`` forces one by its name. Two more names stand for other people's libraries: see ``adapters``.
"""

from __future__ import annotations

import os

from ..values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .adapters.library import Library

VARIABLE = "ERL_BRIDGE_ETF"


class Backend(Value):
    """An implementation of the codec: its name and its functions."""

    __slots__ = ("name", "encode", "encode_into", "decode", "decode_prefix")

    name: str
    encode: Callable[..., bytes]
    encode_into: Callable[..., int]
    decode: Callable[..., Any]
    decode_prefix: Callable[..., tuple[Any, int]]

    def __init__(
        self,
        name: str,
        encode: Callable[..., bytes],
        encode_into: Callable[..., int],
        decode: Callable[..., Any],
        decode_prefix: Callable[..., tuple[Any, int]],
    ) -> None:
        self._set(name=name, encode=encode, encode_into=encode_into, decode=decode, decode_prefix=decode_prefix)


def names() -> list[str]:
    """The names of the backends that can be used here and carry every term, the best one first.

    >>> "python" in names()
    True
    """
    return [name for name in _LOADERS if _is_usable(name)]


def _is_usable(name: str) -> bool:
    try:
        load(name)
    except ImportError:
        return False
    return True


def load(name: str) -> Backend:
    """The backend of that name. Raises ImportError, with the names there are, if there is none or it cannot be used.

    >>> load("python").name
    'python'
    """
    loader = _LOADERS.get(name) or _ADAPTERS.get(name)
    if loader is None:
        there_are = ", ".join((*_LOADERS, *_ADAPTERS))
        raise ImportError(f"there is no backend {name!r} of the codec; there are: {there_are}")
    return loader()


def chosen() -> Backend:
    """The backend that the environment names, or else the best one."""
    name = os.environ.get(VARIABLE)
    if not name:
        return load(names()[0])
    try:
        return load(name)
    except ImportError as error:
        raise ImportError(f"{VARIABLE}={name}: {error}") from None


def _load_compiled() -> Backend:
    from ._core import decode, decode_prefix, encode, encode_into

    return Backend("compiled", encode, encode_into, decode, decode_prefix)


def _load_python() -> Backend:
    from .decoder import decode, decode_prefix
    from .encoder import encode, encode_into

    return Backend("python", encode, encode_into, decode, decode_prefix)


def _load_erlpack() -> Backend:
    from .adapters import erlpack

    return _of_library(erlpack.load())


def _load_pyrlang() -> Backend:
    from .adapters import pyrlang

    return _of_library(pyrlang.load())


def _of_library(library: Library) -> Backend:
    return Backend(library.name, library.encode, library.encode_into, library.decode, library.decode_prefix)


# The best one first. The compiled one is not there where the package was installed without a compiler, and refuses to
# be imported into an interpreter that is not the main one of its process.
_LOADERS: dict[str, Callable[[], Backend]] = {"compiled": _load_compiled, "python": _load_python}

# Other libraries. They carry less than every term, so they are used only where somebody names them.
_ADAPTERS: dict[str, Callable[[], Backend]] = {"erlpack": _load_erlpack, "pyrlang-term": _load_pyrlang}
