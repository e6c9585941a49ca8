"""The load under faults of benchmarks/faults.py, for seconds instead of minutes; and that it would see what it looks for."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'throughtime[serve]'")
pytest.importorskip("websockets", reason="websockets is not installed: pip install 'throughtime[serve]'")

from benchmarks.faults import Plan, measure, text, train
from benchmarks.faults_clients import Client
from benchmarks.faults_connection import Crowd, Lost, Remote

import throughtime as tt


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("faults") / "run", 13, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("store", "servers"), [("sqlite", 1), ("valkey", 2)])
def test_no_session_is_lost_or_mixed(run, tmp_path, store, servers):
    """200 sessions of which 120 fit into memory; a server is killed under load and comes back."""
    if store == "valkey" and not (shutil.which("valkey-server") or shutil.which("redis-server")):
        pytest.skip("neither valkey-server nor redis-server is installed (Debian has both): nothing to test")
    plan = Plan(run, tmp_path, 200, 5.0, 16, servers, store, kill_s=1.0, expire_s=8.0, max_live=120)
    result = asyncio.run(asyncio.wait_for(measure(plan), 120))
    report = text(result)
    assert result.good, report
    did = result.report.did
    assert did["server killed"] >= 1, report
    assert did["expired"] == 20, report
    assert result.report.chunks > 100, report
    for what in ("socket killed", "chunk sent twice", "chunk left out", "half a request", "restore"):
        assert did[what] > 0, report


def test_a_wrong_answer_is_seen(run):
    fresh = tt.load(run).stream()
    crowd = Crowd([1], fresh, "abc", 60.0)
    client, session, other = Client(crowd, 0), crowd.new(), crowd.new()
    for each in (session, other):
        client.prepare(each)
    right = {"session": session.name, "seq": 1, "answer": session.expected}
    client.check(session, right)
    assert not crowd.report.mixed
    nearly = [[symbol, value * (1 + 1e-7)] for symbol, value in session.expected["next"]]
    for wrong in (
        {"answer": {**session.expected, "next": nearly}},
        {"answer": {**session.expected, "symbols": ["x"]}},
        {"session": other.name},
        {"seq": 2},
    ):
        client.check(session, {**right, **wrong})
    assert len(crowd.report.mixed) == 4
    with pytest.raises(Lost, match="unknown"):
        client.check(session, {"cause": "unknown", "message": "there is no such session"})
    assert isinstance(session, Remote)
