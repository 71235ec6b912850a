"""The project with its compiled core built by a compiler that adds checks, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(into: Path, compiler: str, flags: str) -> Path:
    """Builds into a folder, made anew, and returns what PYTHONPATH is to be. Ends with a sentence if it cannot."""
    if not shutil.which(compiler):
        sys.exit(f"{compiler} is not installed; on Debian or Ubuntu run: sudo apt-get install {PACKAGES[compiler]}")
    shutil.rmtree(into, ignore_errors=True)
    environment = os.environ | {"CC": compiler, "CFLAGS": f"-g {flags}", "LDFLAGS": flags}
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={into}", f"--build-lib={into / 'lib'}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not list((into / "lib").glob("erl_bridge/etf/_core.*.so")):
        sys.exit(f"the compiled core does not build with {compiler} {flags}:\n{done.stdout}{done.stderr}")
    # Not in a wheel, but the tests look for it beside what is installed.
    shutil.copy(ROOT / "priv" / "etf_vectors.txt", into / "lib" / "erl_bridge" / "priv")
    return into / "lib"


PACKAGES = {"gcc": "gcc libc6-dev", "clang": "clang libclang-rt-dev"}
