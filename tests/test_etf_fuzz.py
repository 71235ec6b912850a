"""What the fuzz target checks, on the vectors of a real Erlang, changed in many ways.

What `make fuzz` finds is added to FOUND, as a name and the bytes in hex.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_codec import assert_same, check
from test_etf_roundtrip import TAGS
from test_etf_vectors import REFUSED, TERMS

from erl_bridge.etf import backends

pytestmark = pytest.mark.skipif("compiled" not in backends.names(), reason="the compiled backend is not built")

FOUND: dict[str, str] = {}
KNOWN = {name: data for name, (data, _) in TERMS.items()} | REFUSED


@pytest.mark.parametrize("data", [*KNOWN.values(), *map(bytes.fromhex, FOUND.values())])
def test_it_holds_for_known_bytes(data: bytes) -> None:
    for length in range(len(data)) if len(data) < 100 else range(0, len(data), 97):
        check(data[:length])
    check(data)
    chance = random.Random(data)
    for _ in range(10):
        changed = bytearray(data or b"\x83")
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(changed))] = chance.choice(
                [0, 255, chance.randrange(256), chance.choice(TAGS)]
            )
        check(bytes(changed))


@pytest.mark.parametrize(("left", "right"), [(1, 1.0), (1, True), ([1], (1,)), (0.0, -0.0), ({"a": 1}, {"a": 2})])
def test_it_tells_terms_apart(left: object, right: object) -> None:
    with pytest.raises(AssertionError):
        assert_same([left], [right])


def has_sanitizers() -> bool:
    if not shutil.which("gcc"):
        return False
    names = [["gcc", f"-print-file-name={name}"] for name in ("libasan.so", "libubsan.so")]
    return all(Path(subprocess.check_output(name, text=True).strip()).is_absolute() for name in names)


@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="runs with a sanitizer already")
@pytest.mark.skipif(not has_sanitizers(), reason="there is no gcc with libasan and libubsan")
def test_the_sanitizers_have_nothing_to_report(tmp_path: Path) -> None:
    tests = [f"tests/test_etf_{name}.py" for name in ("vectors", "fuzz")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "sanitize"), *tests],
        env={**os.environ, "SANITIZE_FOLDER": str(tmp_path / "build")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


ROOT = Path(__file__).parent.parent
