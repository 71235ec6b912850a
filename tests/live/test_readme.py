"""The programs of the README run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, BridgeProcess, a

EBIN = sorted((ROOT / "elixir_client/_build").glob("*/lib/erl_bridge/ebin"))
needs_elixir = pytest.mark.skipif(not (shutil.which("elixir") and EBIN), reason="the Elixir client is not compiled")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def elixir(code: str, cwd: Path) -> str:
    process = subprocess.run(
        ["elixir", "-pa", str(EBIN[0]), "-e", f"Application.ensure_all_started(:erl_bridge)\n{code}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "ERL_BRIDGE_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join([str(cwd), str(ROOT)])},
    )
    assert process.returncode == 0, process.stderr + process.stdout
    return process.stdout


@needs_elixir
def test_the_optimization_of_the_readme_finds_the_right_queue(tmp_path: Path) -> None:
    assert elixir(f'{blocks("elixir")[0]}\nIO.write("done")', tmp_path).endswith("done")


@needs_elixir
def test_the_handler_of_the_readme_answers_elixir(tmp_path: Path) -> None:
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage/mymodule.py").write_text(blocks("python")[0])
    assert elixir(f"{blocks('elixir')[1]}\nIO.inspect(vectors)", tmp_path).endswith("[[5.0, 5.0]]\n")


def test_the_handler_of_the_readme_reports_progress(tmp_path: Path) -> None:
    (tmp_path / "readme_app.py").write_text(blocks("python")[0])
    with BridgeProcess("--no-dspy", "--app", "readme_app:app", cwd=tmp_path) as bridge:
        reply, events = bridge.receive_for(bridge.send("embed", {"texts": ["hello world", "hi"]}))
        assert reply[2] == {"vectors": [[5.0, 5.0], [2.0]]}
        assert [event[2][a("done")] for event in events] == [1, 2]
