"""The house rules that the code itself can show: imports go downwards, and nothing slow comes before hello."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import erl_bridge

PACKAGE = Path(erl_bridge.__file__).parent

# Each layer may import those before it, and modules of its own layer.
LAYERS = [
    ["values", "errors", "version", "home"],
    ["terms"],
    ["etf", "vocabulary", "refusals", "framing", "timers", "lanes", "logs"],
    ["validation", "error_map", "messages", "arguments"],
    ["datasets"],
    ["context"],
    ["app", "wire", "files"],
    ["session", "berp", "dispatch", "node_state"],
    ["handlers", "transports", "info"],
    ["jobs", "node"],
    ["service"],
    ["__init__", "cli"],
    ["__main__"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
PURE = ["values", "errors", "terms", "etf", "framing", "messages", "wire", "session", "error_map", "refusals"]
PURE += ["berp", "node_state", "datasets/compression", "datasets/stream", "datasets/reassembler"]
DOING = {"socket", "select", "selectors", "asyncio", "threading", "subprocess", "signal"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "priv" not in path.relative_to(PACKAGE).parts)


def imports(path: Path) -> list[str]:
    """What a module imports when it runs: absolute names of our own modules and names of others."""
    found: list[str] = []

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.Import):
                found.extend(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.extend(resolve(path, node))
            for field in ("body", "orelse", "finalbody"):
                visit(getattr(node, field, []))

    visit(ast.parse(path.read_text()).body)
    return found


def resolve(path: Path, node: ast.ImportFrom) -> list[str]:
    if node.level == 0:
        return [node.module or ""]
    package = path.parent.relative_to(PACKAGE.parent).parts
    base = ".".join(package[: len(package) - node.level + 1])
    module = f"{base}.{node.module}" if node.module else base
    return [f"{module}.{alias.name}" for alias in node.names]


def layer_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("erl_bridge"):
            other = layer_of(name)
            assert other == own or RANK[other] < RANK[own], f"{path.name} imports {name}, which is above it"


@pytest.mark.parametrize("layer", PURE)
def test_the_core_does_no_io(layer: str) -> None:
    paths = [PACKAGE / f"{layer}.py"] if (PACKAGE / f"{layer}.py").exists() else list((PACKAGE / layer).rglob("*.py"))
    for path in paths:
        assert not DOING & {name.split(".")[0] for name in imports(path)}, path


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(output.stdout.split())


def test_nothing_slow_is_imported_before_hello() -> None:
    loaded = loaded_after(
        "import erl_bridge.cli, erl_bridge.handlers, erl_bridge.jobs.runner, erl_bridge.transports.base"
    )
    slow = {
        "dataclasses",
        "typing",
        "inspect",
        "logging",
        "msgspec",
        "asyncio",
        "decimal",
        "datetime",
        "subprocess",
        "enum",
    }
    assert loaded & {*slow, "dspy", "concurrent.futures", "pydantic"} == set()


def test_the_public_names_are_those_of_all_and_all_are_there() -> None:
    assert sorted(erl_bridge.__all__) == erl_bridge.__all__
    assert all(hasattr(erl_bridge, name) for name in erl_bridge.__all__)
