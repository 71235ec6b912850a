"""A real Erlang that knows only ``docs/protocol.md``, and what is left when it is killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import DEADLINE, ROOT, wait_gone

pytestmark = pytest.mark.skipif(shutil.which("erl") is None, reason="Erlang is not installed")


def erl(code: str) -> subprocess.Popen[str]:
    """Start an Erlang that evaluates ``code``."""
    environment = {**os.environ, "ERL_BRIDGE_PYTHON": sys.executable}
    return subprocess.Popen(
        ["erl", "-noshell", "-eval", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def snippet() -> str:
    """The program for an Erlang shell in the documentation, as one expression that prints its last value."""
    (code,) = re.findall(r"```erlang\n(.*?)```", (ROOT / "docs/protocol.md").read_text(), re.DOTALL)
    lines = [line.partition("%")[0].rstrip() for line in code.splitlines()]
    expressions = re.sub(r"\.\n", ",\n", "\n".join(line for line in lines if line) + "\n").rstrip().rstrip(",")
    head, _, last = expressions.rpartition(",\n")
    return f'{head},\nio:format("~ts", [{last}]), halt(0).'


def test_an_erlang_shell_that_knows_only_the_protocol_page_gets_its_answers() -> None:
    process = erl(snippet())
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors + output
    assert output.endswith("unknown"), output


OPTIMIZE = """
{ok, _} = file:consult("priv/vocabulary.eterm"),
Port = open_port({spawn_executable, "priv/erl_bridge"}, [{args, ["port"]}, binary, {packet, 4}]),
Receive = fun() -> receive {Port, {data, Bin}} -> binary_to_term(Bin, [safe]) end end,
{hello, #{os_pid := Pid}} = Receive(),
Rows = [#{question => integer_to_binary(N), answer => integer_to_binary(N rem 7)} || N <- lists:seq(1, 400)],
Map = #{message_id => 1, request_type => optimize_signature, payload => #{
    signature => <<"question -> answer">>, training_data => Rows, lm => <<"local/nearest-demo">>,
    config => #{optimizer => random_search, num_candidates => 1000}}},
port_command(Port, term_to_binary(Map)),
{event, 1, #{kind := progress}} = Receive(),
io:format("~b~n", [Pid]),
receive never -> ok end.
"""


def test_no_process_is_left_when_the_beam_is_killed_during_an_optimization() -> None:
    process = erl(OPTIMIZE)
    assert process.stdout is not None
    bridge = int(process.stdout.readline())
    pids = descendants(bridge)
    assert len(pids) == 3, "the bridge, its template and the job"
    process.kill()
    process.communicate(timeout=DEADLINE)
    for pid in pids:
        wait_gone(pid)


def descendants(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found
