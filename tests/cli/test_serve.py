"""`throughtime serve`: what it refuses before it listens; tests/serve has the server."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--host", "0.0.0.0"], "needs a token: set THROUGHTIME_TOKEN"),
        (["--token", "short"], "at least 8 ASCII characters"),
        (["--inbound", "0"], "--inbound must be at least 1"),
        (["--idle-s", "soon"], "--idle-s must be a number, got 'soon'"),
        (["--port", "70000"], "70000"),
        (["--store", "memcached://x"], "must be a path or begin with"),
        (["--stor", "x"], "Did you mean '--store'"),
    ],
)
def test_options_that_cannot_be_used(fails, trained, monkeypatch, options, named):
    monkeypatch.delenv("THROUGHTIME_TOKEN", raising=False)
    assert named in fails("serve", trained, *options)


def test_runs_that_cannot_be_served(fails, trained, tmp_path):
    assert "no such run" in fails("serve", tmp_path / "none")
    assert "'text' twice" in fails("serve", trained, trained)
    assert "RUN" in fails("serve")


def test_the_token_is_read_from_the_environment(fails, trained, monkeypatch):
    monkeypatch.setenv("THROUGHTIME_TOKEN", "short")
    assert "at least 8 ASCII characters" in fails("serve", trained, "--host", "0.0.0.0")
