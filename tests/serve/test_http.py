"""Sessions, predictions and the rest over HTTP: every route, every status."""

from __future__ import annotations

import base64
import json
import random
import threading

import httpx
import numpy as np
import pytest
import torch

import throughtime as tt
from throughtime.errors import SessionError
from throughtime.serve import Limits, running
from throughtime.serve.hub import Hub
from throughtime.serve.refusals import STATUS, refusal_of
from throughtime.serve.wire import pack
from throughtime.sessions import SqliteStore

BINARY = {"content-type": "application/octet-stream"}


def refused(answer, status, code):
    """An error in OpenAI's form, in one line."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code and "\n" not in error["message"] and error["type"]
    assert STATUS[code] == status
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    return error["message"]


def open_one(http, **asked):
    answer = http.post("/v1/sessions", json={"model": "book", **asked})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def feed(http, id, seq, data):
    return http.post(f"/v1/sessions/{id}/chunks", json={"seq": seq, "data": data})


def test_models(http, book):
    listed = {each["id"]: each for each in http.get("/v1/models").json()["data"]}
    assert set(listed) == {"book", "words", "frames"}
    assert listed["book"] == http.get("/v1/models/book").json()
    assert (listed["book"]["task"], listed["book"]["sessions"], listed["book"]["processor"]["kind"]) == (
        "text",
        True,
        "text",
    )
    assert listed["frames"]["processor"]["features"] == 2
    assert "Did you mean 'book'?" in refused(http.get("/v1/models/boook"), 404, "not_found")


def test_a_session_answers_as_a_stream(http, trained):
    stream, id = trained.stream(), open_one(http)
    assert http.get(f"/v1/sessions/{id}").json() == {
        "id": id,
        "object": "session",
        "model": "book",
        "seq": 0,
        "steps": 0,
    }
    for seq, text in enumerate(("the qu", "ick", " b"), start=1):
        answer = feed(http, id, seq, text).json()
        assert answer == {"session": id, "seq": seq, "answer": stream.feed(text)}
    assert feed(http, id, 3, "anything").json()["answer"] == answer["answer"]  # the number was read already
    assert "number 4, got 6" in refused(feed(http, id, 6, "x"), 412, "sequence")
    assert http.get(f"/v1/sessions/{id}").json()["steps"] == 11
    assert http.post(f"/v1/sessions/{id}/flush", json={"seq": 4}).json()["answer"] == stream.flush()
    assert feed(http, id, 5, "the").json()["answer"] == trained.stream().feed("the")
    assert http.post(f"/v1/sessions/{id}/reset").json()["seq"] == 0
    assert http.delete(f"/v1/sessions/{id}").json() == {"id": id, "object": "session", "deleted": True}
    assert "open it first" in refused(feed(http, id, 1, "x"), 404, "unknown")
    refused(http.delete(f"/v1/sessions/{id}"), 404, "unknown")


def test_snapshot_restore_fork(http, trained):
    id = open_one(http)
    feed(http, id, 1, "the quick")
    saved = http.get(f"/v1/sessions/{id}/snapshot")
    assert saved.headers["content-type"] == "application/octet-stream"
    as_json = http.get(f"/v1/sessions/{id}/snapshot", headers={"accept": "application/json"}).json()[
        "snapshot"
    ]
    assert base64.b64decode(as_json) == saved.content
    stream = trained.stream()
    stream.restore(saved.content)  # also outside the server
    expected = stream.feed(" brown")
    fork = http.post(f"/v1/sessions/{id}/fork", json={"id": f"{id}-2"})
    assert (fork.status_code, fork.json()["id"], fork.json()["seq"]) == (201, f"{id}-2", 1)
    opened = open_one(http, snapshot=as_json)
    for each in (id, f"{id}-2", opened):
        assert feed(http, each, 2, " brown").json()["answer"] == expected
    for body in ({"content": saved.content, "headers": BINARY}, {"json": {"snapshot": as_json}}):
        assert http.post(f"/v1/sessions/{id}/restore", **body).json()["seq"] == 1
        assert feed(http, id, 2, " brown").json()["answer"] == expected
    refused(
        http.post(f"/v1/sessions/{id}/restore", content=saved.content[:-3], headers=BINARY), 412, "snapshot"
    )
    refused(http.post(f"/v1/sessions/{id}/restore", json={"snapshot": "?"}), 400, "input")
    other = http.post("/v1/sessions", json={"model": "words", "snapshot": as_json})
    assert "another model" in refused(other, 412, "snapshot")
    refused(http.post(f"/v1/sessions/{id}/fork", json={"id": opened}), 409, "busy")
    refused(http.post("/v1/sessions", json={"model": "words", "id": opened}), 409, "busy")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int16])
def test_numbers_as_bytes(http, frames, dtype):
    x = np.round(np.random.default_rng(1).normal(size=(7, 2)) * 3).astype(dtype)
    id, stream = open_one(http, model="frames"), tt.load(frames).stream()
    answer = http.post(f"/v1/sessions/{id}/chunks", content=pack({"seq": 1}, x), headers=BINARY).json()[
        "answer"
    ]
    assert answer == stream.feed(torch.from_numpy(x.astype(np.float32)))
    assert answer == feed(http, open_one(http, model="frames"), 1, x.tolist()).json()["answer"]
    message = refused(
        http.post(f"/v1/sessions/{id}/chunks", content=pack({"seq": 2}, x[:, :1]), headers=BINARY),
        400,
        "input",
    )
    assert "2" in message and feed(http, id, 2, x[:2].tolist()).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/sessions", "{", 400, "input"),
        ("/v1/sessions", "[1]", 400, "input"),
        ("/v1/sessions", "{}", 400, "input"),  # three models
        ("/v1/sessions", '{"model": "boo"}', 404, "not_found"),
        ("/v1/sessions", '{"model": "book", "id": "a/b"}', 400, "input"),
        ("/v1/sessions", '{"model": "book", "id": 7}', 400, "input"),
        ("/v1/sessions", '{"model": "book", "snapshot": 7}', 400, "input"),
        ("/v1/sessions", '{"model": "book", "snapshot": "aGVsbG8="}', 412, "snapshot"),
        ("/v1/sessions/none/chunks", '{"seq": 1, "data": "x"}', 404, "unknown"),
        ("/v1/sessions/none/chunks", '{"seq": "1", "data": "x"}', 400, "input"),
        ("/v1/sessions/none/chunks", '{"seq": true, "data": "x"}', 400, "input"),
        ("/v1/sessions/none/chunks", '{"data": "x"}', 400, "input"),
        ("/v1/sessions/none/reset", "", 404, "unknown"),
        ("/v1/sessions/none/fork", "", 404, "unknown"),
        ("/v1/predict", "{}", 400, "input"),
        ("/v1/predict", '{"model": "book", "records": "x"}', 400, "input"),
        ("/v1/predict", '{"model": "book", "records": [1]}', 400, "input"),
        ("/v1/predict", '{"model": "book", "records": [{"other": "x"}]}', 400, "input"),
        ("/v1/predict", '{"model": "book", "records": ["1", "2", "3", "4", "5", "6"]}', 400, "input"),
        ("/v1/nothing", "{}", 404, "not_found"),
        ("/v1/models", "{}", 405, "method"),
        ("/v1/predict", "[" * 19_000, 400, "input"),
        ("/v1/predict", "x" * 20_001, 413, "large"),
    ],
)
def test_what_cannot_be_used_is_refused(http, path, body, status, code):
    refused(http.post(path, content=body), status, code)
    assert http.get("/healthz").json() == {"status": "ok"}


def test_a_large_body_of_unknown_length_is_refused(http):
    refused(http.post("/v1/predict", content=iter([b"x" * 15_000] * 3)), 413, "large")


@pytest.mark.parametrize("data", [7, None, ["a"], {"text": "x"}])
def test_data_that_the_model_cannot_read_changes_nothing(http, data):
    id = open_one(http)
    refused(feed(http, id, 1, data), 400, "input")
    assert http.get(f"/v1/sessions/{id}").json()["seq"] == 0


def test_predict(http, trained, frames):
    records = ["the quick", {"text": "sleeps"}]
    found = http.post("/v1/predict", json={"model": "book", "records": records}).json()
    assert found["model"] == "book"
    assert found["data"] == json.loads(json.dumps(list(trained.predict(records))))
    values = [[0.5, 1.0], [-2.0, 0.0]]
    found = http.post("/v1/predict", json={"model": "frames", "records": [{"values": values}]}).json()["data"]
    assert found == [tt.load(frames).predict({"values": values})]
    assert http.post("/v1/predict", json={"model": "book", "records": []}).json()["data"] == []


def test_metrics(http):
    def values():
        lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    before, id = values(), open_one(http)
    feed(http, id, 1, "the quick")
    feed(http, id, 9, "x")
    http.post("/v1/completions", json={"model": "book", "prompt": "the", "max_tokens": 3})
    after = values()
    added = {name: after[name] - before.get(name, 0) for name in after}
    assert added['throughtime_sessions_live{model="book"}'] == 1
    assert added['throughtime_chunks_total{model="book"}'] == 1
    assert added['throughtime_steps_total{model="book"}'] == 9
    assert added['throughtime_batch_chunks_count{model="book"}'] == 1
    assert added['throughtime_wait_seconds_bucket{model="book",le="+Inf"}'] == 1
    assert added['throughtime_compute_seconds_count{model="book"}'] == 1
    assert added['throughtime_refused_total{cause="sequence"}'] == 1
    assert added['throughtime_tokens_total{model="book"}'] == 3
    assert after["throughtime_sessions_spilled"] == before["throughtime_sessions_spilled"]
    text = http.get("/metrics").text
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert text.endswith("\n") and len(types) == len(set(types)) > 10


def test_sessions_spill_come_back_and_expire(book, tmp_path):
    limits = Limits(max_live=2, store=str(tmp_path / "s.db"), idle_s=1000, expire_s=1.5)
    with running([book], limits=limits) as url, httpx.Client(base_url=url, timeout=20) as http:
        ids = [http.post("/v1/sessions").json()["id"] for _ in range(5)]
        for id in ids:
            assert feed(http, id, 1, "the").status_code == 200
        metrics = http.get("/metrics").text
        assert 'throughtime_sessions_live{model="book"} 2\n' in metrics
        assert "throughtime_sessions_spilled 3\n" in metrics
        answers = [feed(http, id, 2, " quick").json()["answer"] for id in ids]
        assert all(each == answers[0] for each in answers)
        threading.Event().wait(1.7)
        refused(feed(http, ids[0], 3, "x"), 410, "expired")


def test_idle_sessions_move_to_memory_outside_the_slab(book):
    with running([book], limits=Limits(idle_s=0.2)) as url, httpx.Client(base_url=url, timeout=20) as http:
        id = http.post("/v1/sessions").json()["id"]
        answer = feed(http, id, 1, "the").json()
        for _ in range(100):
            if 'throughtime_sessions_live{model="book"} 0\n' in http.get("/metrics").text:
                break
            threading.Event().wait(0.1)
        else:
            raise AssertionError("the session stayed in memory")
        assert feed(http, id, 1, "the").json() == answer


def test_quotas(book):
    with (
        running([book], limits=Limits(open_rate=3, jobs=1)) as url,
        httpx.Client(base_url=url, timeout=20) as http,
    ):
        assert [http.post("/v1/sessions").status_code for _ in range(3)] == [201] * 3
        refused(http.post("/v1/sessions"), 429, "quota")


def test_fifty_sessions_get_what_they_get_alone(server, http, trained):
    texts = [f"line {n}: the quick brown fox {'jumps ' * (n % 5)}" for n in range(50)]
    expected = []
    for text in texts:
        stream = trained.stream()
        expected.append([stream.feed(text[place : place + 4]) for place in range(0, len(text), 4)])
    found: list[list[object]] = [[] for _ in texts]

    def run(n: int) -> None:
        with httpx.Client(base_url=server, timeout=20) as own:
            id = open_one(own)
            for seq, place in enumerate(range(0, len(texts[n]), 4), start=1):
                found[n].append(feed(own, id, seq, texts[n][place : place + 4]).json()["answer"])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(50)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert found == expected
    batches = [
        line
        for line in http.get("/metrics").text.splitlines()
        if line.startswith('throughtime_batch_chunks_bucket{model="book"')
    ]
    assert int(batches[-1].rpartition(" ")[2]) > int(batches[0].rpartition(" ")[2])  # some ran together


def test_names_of_runs_must_differ(book):
    with pytest.raises(tt.InputError, match="'book' twice"):
        Hub([tt.load(book), tt.load(book)], Limits())
    with pytest.raises(tt.InputError, match="at least one"):
        Hub([], Limits())


class Away(SqliteStore):
    """A store that can be out of reach."""

    away = False

    def put_many(self, entries, seconds):
        if self.away:
            raise SessionError("store", "the store does not answer")
        return super().put_many(entries, seconds)


def test_a_store_that_is_away_is_said_and_tried_again(book, tmp_path):
    store = Away(tmp_path / "s.db")
    hub = Hub([tt.load(book)], Limits(), store)
    hub.open(None, "a", None, "")
    assert hub.submit("a", 1, "the").result(20)
    store.away = True
    for _ in range(2):
        with pytest.raises(SessionError) as caught:
            hub.submit("a", 2, " quick").result(20)
        assert refusal_of(caught.value).status == 503
    store.away = False
    assert hub.submit("a", 2, " quick").result(20)["symbols"]
    assert hub.close() == 1


def test_sessions_that_cannot_be_saved_are_said(book, tmp_path):
    store = Away(tmp_path / "s.db")
    hub = Hub([tt.load(book)], Limits(save_every=0), store)
    hub.open(None, "a", None, "")
    store.away = True
    with pytest.raises(SessionError, match="does not answer"):
        hub.close()
    store.away = False
    assert hub.close() == hub.close() == 1
    assert set(SqliteStore(tmp_path / "s.db").sessions()) == {"a"}


def test_a_session_of_a_model_that_is_not_served(book, words, frames, tmp_path):
    path = str(tmp_path / "s.db")
    first = Hub([tt.load(book)], Limits(store=path))
    first.open(None, "a", None, "")
    first.close()
    for runs in ([words], [words, frames]):
        second = Hub([tt.load(run) for run in runs], Limits(store=path))
        with pytest.raises(SessionError) as caught:
            second.about("a")
        assert caught.value.cause == "snapshot"
        second.close()


def test_random_requests_are_answered_or_refused(http):
    draws, id = random.Random(5), open_one(http)
    sessions = ["chunks", "flush", "reset", "restore", "fork"]
    paths = [
        "/v1/sessions",
        "/v1/predict",
        "/v1/completions",
        *(f"/v1/sessions/{id}/{each}" for each in sessions),
    ]
    names = "model id snapshot seq data records prompt n stop seed logprobs session_id stream max_tokens temperature top_p top_k"
    names = [*names.split(), "echo", "return_state", "stream_options", "style"]
    values = [
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        2**70,
        0.5,
        1e308,
        "",
        "x",
        "book",
        id,
        [],
        ["x"],
        [1, 2],
        [[]],
        [None],
        {},
        {"a": [1]},
    ]
    for _ in range(250):
        body = {name: draws.choice(values) for name in draws.sample(names, draws.randrange(6))}
        text = json.dumps({"model": "book", **body} if draws.random() < 0.7 else body)
        if draws.random() < 0.2:
            text = text[: draws.randrange(len(text))]
        answer = http.post(draws.choice(paths), content=text, headers=draws.choice([{}, BINARY]))
        assert answer.status_code in (200, 201) or refused(
            answer, answer.status_code, answer.json()["error"]["code"]
        )
        assert answer.status_code < 500, (text, answer.text)
    assert http.get("/healthz").status_code == 200
