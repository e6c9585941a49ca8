"""examples/replicas: two servers behind nginx, each killed under load; as a reader would start it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.faults import train

EXAMPLE = Path(__file__).parents[2] / "examples" / "replicas" / "replicas.py"


def missing() -> str:
    """What is not installed."""
    for names in (("nginx",), ("valkey-server", "redis-server")):
        if not any(
            shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin") for name in names
        ):
            return " or ".join(names)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(missing() != "", reason=f"{missing()} is not installed: nothing to test")
def test_a_server_is_killed_and_no_session_is_lost(tmp_path):
    for package in ("starlette", "uvicorn", "websockets", "valkey"):
        pytest.importorskip(
            package, reason=f"{package} is not installed: pip install 'throughtime[serve,valkey]'"
        )
    run = train(tmp_path / "run", 13, 1)
    words = [sys.executable, EXAMPLE, run, "--seconds", "6", "--sessions", "40"]
    done = subprocess.run(
        [str(each) for each in words], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed") == 2, done.stdout
    assert "sessions lost: 0\n" in done.stdout
    assert "nobody disturbed: 0\n" in done.stdout
    assert int(re.search(r"([\d,]+) answers", done.stdout)[1].replace(",", "")) > 40
