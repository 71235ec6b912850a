"""What `make setup` says where something is missing, how `make test` counts, and that the lock fits pyproject.toml."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A repository on a machine with the usual small tools, without Python, Erlang and a package manager."""
    root = tmp_path / "a clone"
    (root / "scripts").mkdir(parents=True)
    (root / "elixir_client").mkdir()
    (root / "erl_bridge").mkdir()
    for name in ("setup", "env.sh"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    (tmp_path / "bin").mkdir()
    for tool in (
        "sh",
        "env",
        "dirname",
        "mktemp",
        "date",
        "uname",
        "tail",
        "tr",
        "cat",
        "cksum",
        "sort",
        "find",
        "rm",
        "id",
        "awk",
    ):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    return root


def set_up(root: Path, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(root.parent / "bin"), "HOME": str(root.parent), "TMPDIR": str(root.parent)}
    return subprocess.run(
        [root / "scripts/setup"], cwd=where, env=environment, capture_output=True, text=True, check=False
    )


def give_elixir(root: Path, mix: str = ":") -> None:
    for name in ("erl", "mix"):
        program(root.parent / "bin" / name, ":")
    program(root.parent / "bin/elixir", mix)


def test_without_elixir_one_sentence_says_what_to_do(machine: Path) -> None:
    result = set_up(machine, where=Path("/"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(r"setup: Elixir 1\.14 on Erlang/OTP 25 or later is needed; (run|install).*\n", result.stderr)


def test_an_elixir_that_is_too_old_is_named(machine: Path) -> None:
    give_elixir(machine, mix="echo 'Elixir 1.14 is needed, here is 1.12'; exit 3")
    result = set_up(machine)
    assert result.returncode == 1
    assert re.fullmatch(r"setup: Elixir 1\.14 is needed, here is 1\.12; (run|install).*\n", result.stderr)


def test_the_output_of_a_step_that_fails_is_shown(machine: Path) -> None:
    give_elixir(machine, mix="echo '** (CompileError) here'; exit 1")
    result = set_up(machine)
    assert result.returncode == 1
    assert result.stdout == "setup: compiling the Elixir client ... failed\n"
    assert result.stderr.startswith(
        "** (CompileError) here\nsetup: the Elixir client does not compile; the whole output is in "
    )
    assert Path(result.stderr.split()[-1]).read_text() == "** (CompileError) here\n"


def test_without_a_python_that_will_do_one_sentence_says_what_to_do(machine: Path) -> None:
    give_elixir(machine)
    program(machine.parent / "bin/python3", "exit 1")
    result = set_up(machine)
    assert result.returncode == 1
    assert re.fullmatch(
        r"setup: Python 3\.11, 3\.12, 3\.13 or 3\.14 with venv is needed; (run|install).*\n", result.stderr
    )


def test_an_environment_without_its_stamp_is_made_anew(machine: Path) -> None:
    give_elixir(machine)
    # Makes an "environment" of itself and installs nothing.
    program(
        machine.parent / "bin/python3",
        'case "$*" in *_base_exec*) echo "$0" ;; *"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;; esac',
    )
    for tool in ("mkdir", "cp"):
        (machine.parent / "bin" / tool).symlink_to(shutil.which(tool) or f"/usr/bin/{tool}")
    made_anew = (
        "making .venv",
        "installing the locked pip",
        "installing the locked packages",
        "installing the project",
    )

    def steps() -> tuple[str, ...]:
        result = set_up(machine)
        assert result.returncode == 0, result.stderr
        return tuple(step for step in made_anew if step in result.stdout)

    (machine / ".venv").mkdir()
    (machine / ".venv/half").touch()
    assert steps() == made_anew
    assert not (machine / ".venv/half").exists()
    assert steps() == ()
    (machine / "erl_bridge/core.c").touch()
    assert steps() == made_anew[-1:]
    with (machine / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert steps() == made_anew
    machine = machine.rename(machine.parent / "moved")
    assert steps() == made_anew


@pytest.fixture(scope="module")
def test_script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("test_script", str(ROOT / "scripts/test"))
    spec = importlib.util.spec_from_loader("test_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


PYTEST = '<testsuites><testsuite errors="{}" failures="{}" skipped="{}" tests="{}"></testsuite></testsuites>'


@pytest.mark.parametrize(
    ("language", "record", "ending", "lines"),
    [
        ("python", PYTEST.format(0, 0, 0, 12), "exit 0", ["12 passed, 0 failed"]),
        ("python", PYTEST.format(1, 2, 3, 12), "exit 1", ["3 skipped", "6 passed, 3 failed"]),
        ("elixir", "7 0 0", "exit 0", ["7 passed, 0 failed"]),
        ("elixir", "7 1 2", "exit 2", ["2 skipped", "7 passed, 1 failed"]),
        # Ended before it had counted, cut off while it wrote, nothing to count, failed after it had counted.
        ("elixir", None, "exit 1", ["status 1", "0 passed, 1 failed"]),
        ("python", "<testsuites><tes", "kill -9 $$", ["status -9", "0 passed, 1 failed"]),
        ("elixir", "0 0 0", "exit 0", ["status 0", "0 passed, 1 failed"]),
        ("elixir", "7 0 0", "exit 1", ["status 1", "7 passed, 1 failed"]),
    ],
)
def test_the_counts_of_each_language(
    test_script: ModuleType, tmp_path: Path, language: str, record: str | None, ending: str, lines: list[str]
) -> None:
    file = tmp_path / "record"
    if record is not None:
        file.write_text(record)
    count = getattr(test_script, {"python": "counted_by_pytest", "elixir": "counted_by_exunit"}[language])
    said = test_script.run(language, ["sh", "-c", ending], tmp_path, file, count)
    crashed = "the runner ended with {} but counted no failure: see above"
    assert said == [f"{language}: {crashed.format(line) if 'status' in line else line}" for line in lines]


def test_the_lock_names_nothing_of_the_machine_it_was_made_on() -> None:
    packages = [line for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]
    assert packages
    for line in packages:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*( ; [^/@]+)? \\", line)
    assert not re.search(
        r"(?m)^\s*-|file:|https?:|(^|\s)/", re.sub(r"(?m)^    --hash=sha256:[0-9a-f]{64}( \\)?$", "", LOCK)
    )


def test_every_dependency_is_locked() -> None:
    wanted = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dspy"],
        *PROJECT["dependency-groups"]["dev"],
    ]
    locked = set(re.findall(r"(?m)^([a-z0-9.-]+)==", LOCK))
    assert {re.split(r"[<>=!~\[; ]", requirement)[0] for requirement in wanted} <= locked


def test_the_wheel_carries_the_shared_files(tmp_path: Path) -> None:
    # From a copy: a build leaves things in the tree.
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "erl_bridge", source / "erl_bridge", symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "priv", source / "priv")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        tmp_path,
        source,
    ]
    subprocess.run(pip, check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    [wheel] = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "unpacked", "zip")
    for name in ("erl_bridge", "vocabulary.eterm"):
        assert (tmp_path / "unpacked/erl_bridge/priv" / name).read_bytes() == (ROOT / "priv" / name).read_bytes()
    assert (tmp_path / "unpacked/erl_bridge/py.typed").exists()
    assert not (tmp_path / "unpacked/erl_bridge/priv/etf_vectors.txt").exists()
