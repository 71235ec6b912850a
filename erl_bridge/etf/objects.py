"""What is sent for objects that are no terms themselves: records, numpy's values, and whatever another layer registers.

The encoder asks here when a type is in none of its tables. A converter makes of an object what is sent for it, and
only of the object itself: what is in its fields has a turn of its own, so that the path to what is refused is right. By
ValueError a converter says what is wrong with an object, by ``NotImplemented`` that it is not for that one.

Rule of this file: it imports no other package, so that the codec costs nothing more. A type of another package is known
by its name, and what is needed of that package is loaded already where there is an object of it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    Converter: TypeAlias = Callable[[Any], Any]


def register(kind: type | str, to_term: Converter) -> None:
    """See :func:`erl_bridge.etf.register`."""
    from .encoder import forget_ways

    if isinstance(kind, str):
        if kind.count(".") != 1:
            raise ValueError(f"expected the names of a package and of a type, as in 'numpy.ndarray', got {kind!r}")
        _add(_BY_NAME, kind, to_term, kind)
    elif isinstance(kind, type):
        if _has_term(kind):
            raise ValueError(f"{full_name(kind)} has a term of its own")
        _add(_REGISTERED, kind, to_term, full_name(kind))
    else:
        raise TypeError(f"expected a type or its name, got {kind!r}")
    forget_ways()


def _has_term(kind: type) -> bool:
    from .encoder import is_term_type
    from .structs import stand_in_of

    return is_term_type(kind) or stand_in_of(kind) is not None


def _add(table: dict[Any, Converter], key: type | str, to_term: Converter, name: str) -> None:
    if key in table:
        raise ValueError(f"{name} is registered already")
    table[key] = to_term


def converter_of(base: type) -> Converter | None:
    """What is registered or built in for a type or one of its bases."""
    return _REGISTERED.get(base) or _BY_NAME.get(f"{f'{base.__module__}'.partition('.')[0]}.{base.__name__}")


def full_name(kind: type) -> str:
    """As it is shown in errors."""
    return f"{kind.__module__}.{kind.__qualname__}"


def why_not(value: Any) -> str:
    """The reason why a value that nothing stands for cannot be sent, with what to do about it where that is known."""
    kind = type(value)
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return "an iterator can be read only once; send a list of what it gives"
    if hasattr(kind, "__await__"):
        return "it was not awaited"
    if kind in _VIEWS:
        return "it is a view of a dict; send a list of it"
    if kind.__module__ == "numpy" and hasattr(value, "dtype"):
        return f"no Erlang term stands for its dtype {value.dtype}"
    return "no Erlang term stands for that type"


_VIEWS = {type({}.keys()), type({}.values()), type({}.items())}


# -- records ---------------------------------------------------------------------------------------------------


def _from_dataclass(value: Any) -> Any:
    if not hasattr(type(value), "__dataclass_fields__"):
        return NotImplemented
    return _fields(value, [field.name for field in sys.modules["dataclasses"].fields(value)])


def _from_struct(value: Any) -> dict[str, Any]:
    """Under the names that the fields have in Python. Fields that are UNSET are left out."""
    unset = sys.modules["msgspec"].UNSET
    return {name: item for name, item in _fields(value, type(value).__struct_fields__).items() if item is not unset}


def _fields(value: Any, names: Iterable[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        try:
            found[name] = getattr(value, name)
        except AttributeError:
            raise ValueError(f"its field {name} has no value") from None
    return found


def _from_model(value: Any) -> Any:
    """What pydantic's ``model_dump()`` has: extra and computed fields too, but none that are excluded."""
    kind = type(value)
    fields = getattr(kind, "model_fields", None)
    if fields is None:
        return NotImplemented  # a model of pydantic 1
    if _has_serializers(kind, fields):
        return value.model_dump(by_alias=False, warnings=False)
    found = {name: item for name, item in value.__dict__.items() if name in fields and not fields[name].exclude}
    found.update(value.model_extra or {})
    found.update((name, getattr(value, name)) for name in kind.model_computed_fields)
    return found


def _has_serializers(kind: Any, fields: dict[str, Any]) -> bool:
    """Whether the model itself says what is to be written of it: that may be there to hide something."""
    decorators = kind.__pydantic_decorators__
    return bool(decorators.model_serializers or decorators.field_serializers) or any(
        getattr(field, "exclude_if", None) is not None
        or any(map(_is_serializer, field.metadata))
        or _is_serialized_within(field.annotation)
        for field in fields.values()
    )


def _is_serializer(extra: Any) -> bool:
    return type(extra).__module__ == "pydantic.functional_serializers"


def _is_serialized_within(annotation: Any) -> bool:
    """Whether a serializer is in the arguments of a type, as in ``list[Annotated[str, PlainSerializer(mask)]]``."""
    if type(annotation) is type:
        return False
    get_args = sys.modules["typing"].get_args
    left, seen = [annotation], {}
    while left:
        kind = left.pop()
        if _is_serializer(kind):
            return True
        if id(kind) not in seen:  # an alias may name itself
            seen[id(kind)] = kind
            left += get_args(kind)
            left += [kind.__value__] if hasattr(kind, "__value__") else []
    return False


# -- numpy -----------------------------------------------------------------------------------------------------

_PLAIN_KINDS = frozenset("biufOSUT")  # booleans, integers, floats, objects, bytes and the two kinds of text
_LONG_DOUBLE = "g"  # Python's floats do not hold it


def _from_numpy(value: Any) -> Any:
    """An array as nested lists, a scalar as Python's own. Numbers alone are no dates, and tuples no records."""
    dtype = value.dtype
    return value.tolist() if dtype.kind in _PLAIN_KINDS and dtype.char != _LONG_DOUBLE else NotImplemented


# -- the tables ------------------------------------------------------------------------------------------------


def _data(value: Any) -> Any:
    return value.data


# By the top-level package and the name of the type. Types derived from these are known by their bases, and dataclasses,
# which need no base, by a field of theirs when it is the turn of ``object``, the last one.
_BY_NAME: dict[str, Converter] = {
    "builtins.mappingproxy": dict,
    "builtins.object": _from_dataclass,
    "collections.ChainMap": dict,
    "collections.UserDict": _data,
    "collections.UserList": _data,
    "collections.UserString": _data,
    "collections.deque": list,
    "enum.Enum": lambda value: value.value,
    "msgspec.Struct": _from_struct,
    "numpy.generic": _from_numpy,
    "numpy.ndarray": _from_numpy,
    "pathlib.PurePath": str,
    "pydantic.BaseModel": _from_model,
    "pydantic.RootModel": lambda value: value.root,
    "uuid.UUID": str,
}

_REGISTERED: dict[type, Converter] = {}
