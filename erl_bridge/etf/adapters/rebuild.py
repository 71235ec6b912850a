"""A term made anew out of other values: ours out of a library's, or a library's out of ours.

Rule of this file: it does not recurse, so no value is too deep for it; what cannot be carried over is
:class:`NotCarried`, with the path to it.
"""

from __future__ import annotations

from ..encoder import _path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    Make: TypeAlias = Callable[[list[Any]], Any]  # from what was made of a container's children to the new container
    Open: TypeAlias = Callable[[Any], tuple[Sequence[Any], Make]]
    Leaf: TypeAlias = Callable[[Any], Any]


class NotCarried(Exception):
    """What is not carried over and why; ``path`` says where it is."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason
        self.path = ""


def rebuilt(term: Any, leaf: Leaf, containers: Mapping[type, Open], max_depth: int, root: str = "term") -> Any:
    """What ``leaf`` and ``containers`` make of ``term``, from the innermost values outwards. Raises NotCarried.

    >>> rebuilt([1, [2, 3]], leaf=str, containers={list: lambda value: (value, tuple)}, max_depth=9)
    ('1', ('2', '3'))
    """
    only = (term,)
    frames: list[Any] = [(None, only, iter(only), b"")]  # as the encoder has them, for the path
    made: list[list[Any]] = [[]]
    makes: list[Make] = [list]
    try:
        while True:
            for value in frames[-1][2]:
                open_container = containers.get(type(value))
                if open_container is None:
                    made[-1].append(leaf(value))
                    continue
                children, make = open_container(value)
                if children and len(frames) > max_depth:
                    raise NotCarried("a container", f"it is nested more than {max_depth} deep")
                frames.append((value, children, iter(children), b""))
                made.append([])
                makes.append(make)
                break
            else:
                if len(frames) == 1:
                    return made[0][0]
                frames.pop()
                finished = makes.pop()(made.pop())
                made[-1].append(finished)
    except NotCarried as refused:
        refused.path = _path(root, frames)
        raise


def open_sequence(make: Make) -> Open:
    """How a list or a tuple is opened that becomes what ``make`` makes."""
    return lambda value: (value, make)


def open_dict(make: Make) -> Open:
    """How a dict is opened; ``make`` gets keys and values by turns."""
    return lambda value: ([part for pair in value.items() for part in pair], make)


def dict_of(terms: list[Any]) -> dict[Any, Any]:
    """The dict of keys and values by turns."""
    halves = iter(terms)
    return dict(zip(halves, halves, strict=True))
