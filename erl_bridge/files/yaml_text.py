"""YAML as Python values: the safe types of PyYAML, with what it would take silently refused.

Rule of this file: nothing in the text names a Python object, no text makes the process use more than its share (depth,
aliases that unfold), and keys are strings.
"""

from __future__ import annotations

import math

import yaml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_DEPTH = 100
_MAX_NODES = 10_000_000
_MERGE = "tag:yaml.org,2002:merge"
_STRING = "tag:yaml.org,2002:str"


class YamlError(Exception):
    """``what`` is wrong at ``line`` and ``column``, counted from 1, or nobody knows where."""

    def __init__(self, what: str, mark: Any = None) -> None:
        super().__init__(what)
        self.what = what
        self.line = None if mark is None else mark.line + 1
        self.column = None if mark is None else mark.column + 1


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, compiled where it is."""


def _float(loader: Any, node: Any) -> float:
    value = yaml.constructor.SafeConstructor.construct_yaml_float(loader, node)
    if not math.isfinite(value):
        raise YamlError(f"{node.value} is no number that Elixir has; use null", node.start_mark)
    return float(value)


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse(text: str) -> Any:
    """The one document that ``text`` is; None when it is empty. Raises :class:`YamlError`.

    >>> parse("name: demo\\nsteps: [{n: 1}]")
    {'name': 'demo', 'steps': [{'n': 1}]}
    >>> parse("a: 1\\na: 2")
    Traceback (most recent call last):
    erl_bridge.files.yaml_text.YamlError: the key "a" is there twice, first at line 1
    """
    try:
        _check_depth(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None
            _check(root, {}, set())
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise YamlError(f"not valid YAML: {error.problem or error.context}", error.problem_mark) from None
    except yaml.YAMLError as error:
        raise YamlError(f"not valid YAML: {str(error).splitlines()[0]}") from None
    except ValueError as error:  # a date such as 2024-13-45, or an integer of too many digits
        raise YamlError(f"not valid YAML: {error}") from None


_DEEPER = {"MappingStartEvent": 1, "SequenceStartEvent": 1, "MappingEndEvent": -1, "SequenceEndEvent": -1}


def _check_depth(text: str) -> None:
    """Before anything recurses: PyYAML's compiled composer ends the process by overflowing the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += _DEEPER.get(type(event).__name__, 0)
        if depth > _MAX_DEPTH:
            raise YamlError(f"lists and maps are nested more than {_MAX_DEPTH} deep", event.start_mark)


def _check(node: Any, sizes: dict[int, int], above: set[int]) -> int:
    """How many nodes ``node`` is with its aliases unfolded, as a term has them. Each node is looked at once."""
    if id(node) in sizes:
        return sizes[id(node)]
    if id(node) in above:
        raise YamlError("the alias stands within what it is an alias of", node.start_mark)
    above.add(id(node))
    size = 1
    for child in _children(node):
        size += _check(child, sizes, above)
    if size > _MAX_NODES:
        raise YamlError(f"its aliases unfold to more than {_MAX_NODES} values", node.start_mark)
    above.remove(id(node))
    sizes[id(node)] = size
    return size


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: Any) -> None:
    seen: dict[str, Any] = {}
    for key, _ in node.value:
        if key.tag not in (_STRING, _MERGE):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or a map"
            raise YamlError(f"expected a string as the key, got {shown}; put it in quotes", key.start_mark)
        if key.value in seen:
            first = seen[key.value].start_mark.line + 1
            raise YamlError(f'the key "{key.value}" is there twice, first at line {first}', key.start_mark)
        seen[key.value] = key
