"""Payloads against schemas: what fits becomes a ``msgspec.Struct``, what does not becomes one clear sentence.

Rule of this file: the schema decides. Where it says ``str`` an atom is taken by its name, because Elixir names things
with atoms; what it annotates as ``Any`` (rows, fields, inputs) comes through untouched. ``msgspec`` checks types and
bounds; keys are checked here, because an unknown key must name the keys there are.

``msgspec`` takes 40 ms to import, so this module is imported with the first payload, not before ``:hello``.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from .errors import InvalidRequest
from .refusals import invalid, show, unknown_key
from .terms import Atom

T = TypeVar("T")


def validate(value: object, schema: type[T], path: str = "payload") -> T:
    """``value`` as an instance of ``schema``, a ``msgspec.Struct`` type.

    Raises :class:`InvalidRequest` whose message and context name the path, what was expected and what came.

    >>> class Point(msgspec.Struct):
    ...     x: int
    >>> validate({Atom("x"): 1}, Point)
    Point(x=1)
    >>> validate({"y": 1}, Point)
    Traceback (most recent call last):
    erl_bridge.errors.InvalidRequest: payload: unknown key "y"; the keys are x
    """
    plain = _plain(value, _type_info(schema), path)
    try:
        return msgspec.convert(plain, schema)
    except msgspec.ValidationError as error:
        raise _translate(str(error), plain, path) from None


_type_infos: dict[type, inspect.Type] = {}


def _type_info(schema: type) -> inspect.Type:
    """What msgspec knows of a schema, kept: it takes 0.5 ms to find out."""
    if schema not in _type_infos:
        _type_infos[schema] = inspect.type_info(schema)
    return _type_infos[schema]


# -- atoms to names, guided by the schema ------------------------------------------------------------------------


def _plain(value: Any, info: inspect.Type, path: str) -> Any:
    """The value with atoms as strings wherever the schema does not say ``Any``, and its keys checked."""
    if isinstance(info, inspect.AnyType):
        return value
    if isinstance(info, inspect.Metadata):
        return _plain(value, info.type, path)
    if isinstance(info, inspect.UnionType):
        return _plain(value, _member(value, info), path)
    value = _name(value)
    if isinstance(info, inspect.LiteralType) and value not in info.values:
        raise invalid(path, "one of " + ", ".join(map(show, info.values)), value)
    if isinstance(value, dict):
        return _plain_map(value, info, path)
    if isinstance(value, list) and isinstance(info, inspect.ListType):
        return [_plain(item, info.item_type, f"{path}[{i}]") for i, item in enumerate(value)]
    return value


def _plain_map(value: dict[Any, Any], info: inspect.Type, path: str) -> dict[Any, Any]:
    if isinstance(info, inspect.StructType):
        fields = {field.encode_name: field.type for field in info.fields}
        return {name: _plain(item, fields[name], f"{path}.{name}") for name, item in _keys(value, fields, path)}
    if isinstance(info, inspect.DictType):
        return {_name(key): _plain(item, info.value_type, f"{path}.{key}") for key, item in value.items()}
    return value


def _keys(value: dict[Any, Any], fields: dict[str, inspect.Type], path: str) -> list[tuple[str, Any]]:
    pairs: dict[str, Any] = {}
    for key, item in value.items():
        name = _name(key)
        if name not in fields:
            raise unknown_key(path, key, list(fields))
        if name in pairs:
            raise InvalidRequest(f"{path}: the key {name} is given twice, as an atom and as a string")
        pairs[name] = item
    return list(pairs.items())


def _name(key: Any) -> Any:
    return str(key) if isinstance(key, Atom) else key


def _member(value: Any, info: inspect.UnionType) -> inspect.Type:
    """The member of a union that a value of this shape is meant for; msgspec checks it then."""
    shapes: tuple[type[inspect.Type], ...] = (inspect.AnyType,)
    if isinstance(value, dict):
        shapes = (inspect.AnyType, inspect.StructType, inspect.DictType)
    elif isinstance(value, list):
        shapes = (inspect.AnyType, inspect.ListType)
    elif value is None:
        shapes = (inspect.AnyType, inspect.NoneType)
    return next((member for member in info.types if isinstance(member, shapes)), info.types[0])


# -- msgspec's sentences in our words -----------------------------------------------------------------------------


def _translate(sentence: str, value: Any, path: str) -> InvalidRequest:
    """``Expected `int`, got `str` - at `$.config.seed``` as ``payload.config.seed: expected int, got "x"``."""
    what, _, where = sentence.partition(" - at `$")
    at = path + where.removesuffix("`")
    if what.startswith("Object missing required field"):
        key = what.split("`")[1]
        return InvalidRequest(
            f"{at}: the required key {key} is missing",
            context={Atom("path"): at, Atom("expected"): key},
        )
    expected, _, _ = what.removeprefix("Expected ").partition(", got ")
    for theirs, ours in (("`", ""), ("object", "map"), ("array", "list"), ("null", "nil")):
        expected = expected.replace(theirs, ours)
    return invalid(at, expected, _at(value, where))


def _at(value: Any, where: str) -> Any:
    """The part of ``value`` that msgspec's path ``.a.b[3]`` points at, or as near as it can be found."""
    for step in where.removesuffix("`").replace("[", ".[").split("."):
        if not step:
            continue
        try:
            value = value[int(step[1:-1])] if step.startswith("[") else value[step]
        except (LookupError, ValueError, TypeError):
            break
    return value
