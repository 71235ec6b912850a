"""The optimizers and the modules for people and for clients, from their tables: ``docs/optimizers.md``,
``priv/optimizers.eterm`` and ``priv/modules.eterm``.

Rule of this file: it says nothing of its own. ``python -m erl_bridge.handlers.dspy.reference`` writes the files anew;
a test holds them to the tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import NODEFAULT, inspect

from .metrics import METRICS
from .modules import KINDS, Kind, added, default
from .optimizer_options import Options
from .optimizers import ALIASES, OPTIMIZERS, Optimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

_Metadata = inspect.Metadata
ROOT = Path(__file__).resolve().parents[3]

_KINDS = {
    "metric": "metric",
    "vectorizer": "vectorizer",
    "programs": "list of programs",
    "steps": "map of configurations",
    "member": "configuration",
    "train_kwargs": "map",
}
_LANGUAGE_MODEL = "language model"


def markdown() -> str:
    """``docs/optimizers.md``."""
    shared = _rows(_struct(Options), but=("optimizer",))
    names = "\n".join(f"- [`:{one.name}`](#{one.name})" for one in OPTIMIZERS)
    parts = [
        "# The optimizers\n\n"
        "Made from the table in `erl_bridge/handlers/dspy/optimizers.py` by\n"
        "`python -m erl_bridge.handlers.dspy.reference`.\n\n"
        "`config: %{optimizer: name, ...}` of `:optimize_signature` names one of these, `:bootstrap_few_shot` unless\n"
        f"told:\n\n{names}\n\n"
        "Scores are over the validation rows, or over the training rows where there are none. Where an option is a\n"
        "language model it takes what `lm` takes. With the same `seed`, rows and answers of the model a run gives the\n"
        f"same program.\n\nDSPy's own names are taken too, where an optimizer has the option: {_aliases()}.\n\n"
        f"All take:\n\n{_table(shared)}",
        *map(_section, OPTIMIZERS),
        "## Metrics\n\n"
        + _table(
            [("metric", "the score of a row, 0.0 to 1.0")] + [(f"`:{name}`", m.about) for name, m in METRICS.items()]
        )
        + "\n[protocol.md](protocol.md#dspy) has those that are written as maps.\n",
    ]
    return "\n".join(parts)


def _aliases() -> str:
    return ", ".join(f"`{theirs}` for `{ours}`" for theirs, ours in ALIASES.items())


def _section(optimizer: Optimizer) -> str:
    also = f"Also `{'`, `'.join(f':{alias}' for alias in optimizer.aliases)}`. " if optimizer.aliases else ""
    needs = f"Needs the Python package `{optimizer.package}`. " if optimizer.package else ""
    notes = f"{also}{needs}".strip()
    rows = _rows(_struct(optimizer.options), but=Options.__struct_fields__)
    about = optimizer.about[0].upper() + optimizer.about[1:]
    return (
        f"## {optimizer.name}\n\n{about}.\n" + (f"\n{notes}\n" if notes else "") + (f"\n{_table(rows)}" if rows else "")
    )


def _struct(options: type[Options]) -> Any:
    return inspect.type_info(options)


def _rows(struct: Any, but: tuple[str, ...]) -> Sequence[tuple[str, ...]]:
    options = [_option(field) for field in struct.fields if field.name not in but]
    rows = [(f"`{name}`", kind, f"`{default}`" if default else "", about) for name, kind, default, about in options]
    return [("option", "type", "default", ""), *rows] if rows else []


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head, *others = rows
    lines = [head, tuple("---" for _ in head), *others]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def eterm() -> str:
    """``priv/optimizers.eterm``: a map for each optimizer, in a list."""
    entries = ",\n".join(_entry(optimizer) for optimizer in OPTIMIZERS)
    return f"%% The optimizers and their options, from erl_bridge/handlers/dspy/optimizers.py.\n[\n{entries}\n].\n"


def _entry(optimizer: Optimizer) -> str:
    fields = [_option(field) for field in _struct(optimizer.options).fields if field.name != "optimizer"]
    options = ",\n   ".join(
        f"#{{name => {name}, type => {_binary(kind)}, default => {_binary(default)}, doc => {_binary(about)}}}"
        for name, kind, default, about in fields
    )
    return (
        f" #{{name => {optimizer.name}, aliases => [{', '.join(optimizer.aliases)}],\n"
        f"  doc => {_binary(optimizer.about)},\n  options => [\n   {options}]}}"
    )


def modules_eterm() -> str:
    """``priv/modules.eterm``: a map for each module, in a list."""
    entries = ",\n".join(_module(kind) for kind in KINDS.values())
    return f"%% The modules and their options, from erl_bridge/handlers/dspy/modules.py.\n[\n{entries}\n].\n"


def _module(kind: Kind) -> str:
    names = added(kind)
    adds = "module" if names is None else f"[{', '.join(map(_binary, names))}]"
    options = ",\n   ".join(
        f"#{{name => {name}, type => {_term(option.type)}, required => {str(option.required).lower()}, "
        f"default => {_binary(default(option))}, doc => {_binary(option.doc)}}}"
        for name, option in kind.options.items()
    )
    return f" #{{name => {kind.name}, adds => {adds},\n  doc => {_binary(kind.doc)},\n  options => [{options}]}}"


def _term(kind: range | str) -> str:
    return f"{{integer, {kind.start}, {kind.stop - 1}}}" if isinstance(kind, range) else kind


def _binary(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'<<"{escaped}"/utf8>>'


def _option(field: Any) -> tuple[str, str, str, str]:
    """Name, type, default and description of an option."""
    about = (field.type.extra_json_schema or {}).get("description", "") if isinstance(field.type, _Metadata) else ""
    kind = _LANGUAGE_MODEL if field.name in _MODELS else _KINDS.get(field.name) or _kind(field.type)
    default = "" if field.default in (None, NODEFAULT) else _written(field.default)
    return field.name, kind, default, about


_MODELS = ("prompt_model", "reflection_lm", "teacher")


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f":{value}" if isinstance(value, str) and value.isidentifier() else repr(value).replace("'", '"')


def _kind(info: Any) -> str:
    if isinstance(info, _Metadata):
        return _kind(info.type)
    if isinstance(info, inspect.UnionType):
        return " or ".join(_kind(member) for member in info.types if not isinstance(member, inspect.NoneType))
    if isinstance(info, inspect.LiteralType):
        return ", ".join(f"`:{value}`" for value in info.values)
    if isinstance(info, inspect.BoolType):
        return "boolean"
    if isinstance(info, inspect.StrType):
        return "string"
    return f"{'integer' if isinstance(info, inspect.IntType) else 'number'}{_bounds(info)}"


def _bounds(info: Any) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge} to {info.le}"
    return "" if info.ge is None else f", {info.ge} or more"


FILES = {
    "docs/optimizers.md": markdown,
    "priv/optimizers.eterm": eterm,
    "priv/modules.eterm": modules_eterm,
}

if __name__ == "__main__":
    for path, make in FILES.items():
        (ROOT / path).write_text(make(), encoding="utf-8")
