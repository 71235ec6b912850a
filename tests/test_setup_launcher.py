"""The launcher that a Port executes: which Python it becomes, where its stderr goes, and that no shell stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parent.parent / "priv" / "erl_bridge"

# Stands for the interpreter: says who it is and what it was given.
STAND_IN = '#!/bin/sh\necho "$0" "$$" "$@"\necho complaint >&2\n'


def stand_in(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with the launcher in it, in a path with a space."""
    priv = tmp_path / "a repository" / "priv"
    priv.mkdir(parents=True)
    shutil.copy(LAUNCHER, priv)
    (priv.parent / "elixir_client").mkdir()
    (priv.parent / "elixir_client" / "priv").symlink_to("../priv")
    return priv.parent


def launch(
    launcher: Path | str, *arguments: str, cwd: Path | None = None, **environment: str
) -> tuple[int, list[str], str]:
    """Runs the launcher; returns its status, what the interpreter said of itself, and stderr."""
    environment = {"PATH": "/usr/bin:/bin", **environment}
    with subprocess.Popen(
        [launcher, *arguments], env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        output, complaints = process.communicate()
    # The process that was started is the interpreter, not a shell that waits for it.
    said = output.replace(f" {process.pid} ", "|", 1).rstrip("\n").split("|")
    return process.returncode, said, complaints


def test_the_interpreter_that_the_environment_names_comes_first(place: Path, tmp_path: Path) -> None:
    stand_in(place / ".venv/bin/python")
    named = stand_in(tmp_path / "my python")
    launched = launch(place / "priv/erl_bridge", "port", "--fds", "3,4", "a b", ERL_BRIDGE_PYTHON=str(named))
    assert launched == (0, [str(named), "-m erl_bridge port --fds 3,4 a b"], "complaint\n")


@pytest.mark.parametrize("way", ["priv", "elixir_client/priv", "elixir_client/_build/dev/lib/erl_bridge/priv"])
def test_the_environment_of_the_repository_is_found_through_symlinks(place: Path, way: str) -> None:
    python = stand_in(place / ".venv/bin/python")
    build = place / "elixir_client/_build/dev/lib/erl_bridge"
    build.mkdir(parents=True)
    (build / "priv").symlink_to("../../../../priv")
    # Without `..` in the path: Python would not see that it is in an environment.
    assert launch(place / way / "erl_bridge", "port")[1] == [str(python), "-m erl_bridge port"]


def test_the_environment_of_a_mix_project_comes_before_that_of_the_repository(place: Path, tmp_path: Path) -> None:
    stand_in(place / ".venv/bin/python")
    library = tmp_path / "host/_build/prod/lib/erl_bridge"
    library.mkdir(parents=True)
    (library / "priv").symlink_to(place / "priv")
    python = stand_in(tmp_path / "host/_build/erl_bridge/venv/bin/python")
    assert launch(library / "priv/erl_bridge", "port")[1] == [str(python), "-m erl_bridge port"]


def test_the_environment_in_a_release_comes_first(place: Path, tmp_path: Path) -> None:
    priv = tmp_path / "release/lib/erl_bridge-0.1.0/priv"
    priv.mkdir(parents=True)
    shutil.copy(LAUNCHER, priv)
    python = stand_in(priv / "venv/bin/python")
    (priv / "venv/pyvenv.cfg").touch()
    assert launch(priv / "erl_bridge")[1][0] == str(python)
    # The Python that it was made with is not on this machine: no other will do.
    python.unlink()
    status, _, complaints = launch(priv / "erl_bridge")
    assert (status, f"{python} is not an executable file" in complaints) == (127, True)


def test_a_relative_path_and_a_symlink_to_the_launcher_itself(place: Path, tmp_path: Path) -> None:
    python = stand_in(place / ".venv/bin/python")
    (tmp_path / "bridge").symlink_to(place / "priv/erl_bridge")
    for launcher in ("./bridge", "a repository/priv/erl_bridge"):
        assert launch(launcher, cwd=tmp_path)[1][0] == str(python)


def test_an_installed_package_uses_the_python_of_its_environment(tmp_path: Path) -> None:
    priv = tmp_path / "env/lib/python3.12/site-packages/erl_bridge/priv"
    priv.mkdir(parents=True)
    shutil.copy(LAUNCHER, priv)
    (tmp_path / "env/pyvenv.cfg").touch()
    python = stand_in(tmp_path / "env/bin/python")
    assert launch(priv / "erl_bridge")[1][0] == str(python)


def test_a_copy_in_a_release_falls_through_to_the_path(place: Path, tmp_path: Path) -> None:
    priv = tmp_path / "release/lib/erl_bridge-0.1.0/priv"
    priv.mkdir(parents=True)
    shutil.copy(LAUNCHER, priv)
    python = stand_in(tmp_path / "bin/python3")
    assert launch(priv / "erl_bridge", PATH=f"{tmp_path}/bin:/usr/bin:/bin")[1][0] == str(python)


@pytest.mark.parametrize("named", ["", "/no/such/python"])
def test_without_a_python_it_says_what_to_do(place: Path, tmp_path: Path, named: str) -> None:
    # A PATH with a shell and no python3.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/bin/sh")
    status, _, complaints = launch(place / "priv/erl_bridge", PATH=str(tmp_path / "bin"), ERL_BRIDGE_PYTHON=named)
    assert status == 127
    assert complaints == (
        f"erl_bridge: there is no Python to run: {named or 'python3'} is not an executable file. "
        "Run `mix erl_bridge.setup`, or set ERL_BRIDGE_PYTHON to the Python that has erl_bridge.\n"
    )


def test_the_launcher_is_executable_and_the_client_sees_it() -> None:
    assert os.access(LAUNCHER, os.X_OK)
    assert (LAUNCHER.parent.parent / "elixir_client/priv/erl_bridge").samefile(LAUNCHER)
