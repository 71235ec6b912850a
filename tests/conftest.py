"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from certificates import Certificates
from openai_server import OpenAIServer
from support import BridgeProcess

# To look for examples in it pytest would import it, and so change how long jobs have for all tests.
collect_ignore = ["patient_app.py"]

# Property tests take the same examples each time, and as long as the machine needs for them.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

# What the bridge keeps, it keeps apart from what the user has.
os.environ["ERL_BRIDGE_HOME"] = tempfile.mkdtemp(prefix="erl_bridge_tests_")


@pytest.fixture(scope="session", autouse=True)
def _home() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["ERL_BRIDGE_HOME"], ignore_errors=True)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A provider of language models on loopback. Connections to it are closed after the test."""
    with OpenAIServer() as running:
        yield running
    if calls := sys.modules.get("erl_bridge.handlers.dspy.lm_calls"):
        for engine in calls._connections.values():
            engine.close()
        calls._connections.clear()


@pytest.fixture
def bridge() -> Iterator[BridgeProcess]:
    """A bridge process with DSPy, whose template starts with the first job."""
    with BridgeProcess() as process:
        yield process


@pytest.fixture(scope="module")
def app_bridge() -> Iterator[BridgeProcess]:
    """A bridge process with the handlers of ``tests/handlers_app.py`` and without DSPy."""
    with BridgeProcess("--no-dspy", "--app", "handlers_app:app", cwd=Path(__file__).parent) as process:
        yield process


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, a server's certificate for localhost and a client's."""
    return Certificates(tmp_path_factory.mktemp("certificates"))
