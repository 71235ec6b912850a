"""What docs/erlang-node.md shows can be pasted: its handlers, and its Elixir, block by block."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from node_support import COOKIE, ELIXIR, EPMD, Beam, Epmd, Node, unique
from support import ROOT

GUIDE = (ROOT / "docs/erlang-node.md").read_text()
NAME = "py1@127.0.0.1"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.skipif(not (ELIXIR and EPMD), reason="needs Elixir and epmd")
def test_the_code_of_the_guide_runs(tmp_path: Path) -> None:
    [handlers] = blocks("python")
    (tmp_path / "shop.py").write_text(handlers)
    cookie = tmp_path / "cookie"
    cookie.write_text(COOKIE)
    cookie.chmod(0o400)
    name, epmd = unique("py"), Epmd()
    node = Node(epmd.port, cookie, "--name", name, app="shop:app", path=tmp_path)
    beam = Beam(unique("ex"), epmd.port)
    try:
        assert node.ready()[0] == name
        for block in blocks("elixir"):
            result = beam.eval(block.replace(NAME, name))
            assert not result.startswith("**"), result
        assert beam.eval("{:ok, %{}} = GenServer.call(bridge, %{request_type: :shutdown}); :ended") == ":ended"
        assert node.process.wait(30) == 0
    finally:
        node.kill()
        beam.kill()
        epmd.stop()


def test_the_options_of_the_guide_are_there() -> None:
    done = subprocess.run([sys.executable, "-m", "erl_bridge", "node", "--help"], capture_output=True, text=True)
    known = set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE))
    commands = re.findall(r"^    python -m erl_bridge node ((?:.*\\\n)*.*)$", GUIDE, re.MULTILINE)
    rows = re.findall(r"^\| `(--.*?)`", GUIDE, re.MULTILINE)
    assert (len(commands), len(rows)) == (3, 5)
    assert set(re.findall(r"--[a-z-]+", " ".join(commands + rows))) <= known
