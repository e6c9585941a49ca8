"""The page as a file, what it embeds, and what a server answers."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading

import numpy as np
import pytest
import torch

from throughtime.errors import InputError
from throughtime.page import Inspector, sources, write_page
from throughtime.page.payload import influences, payload, quantised
from throughtime.page.write import page_html

httpx = pytest.importorskip("httpx")
HOSTILE = "x</script><script>alert(1)</script><!--\u2028\u2029\0\ud800\u202e\U0001f642{{script}}&quot;\"'\\"


def embedded(html: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(found)


def decoded(kept: dict) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(kept["data"]), np.int8).reshape(-1, kept["size"])
    return data / 127 * kept["scale"]


def test_values_are_sent_with_eight_bits():
    values = torch.randn(9, 5) * 3
    kept = quantised(values)
    off = np.abs(decoded(kept) - values.numpy()).max()
    assert 0 < off <= kept["scale"] / 254 + 1e-6
    assert decoded(quantised(torch.zeros(2, 3))).tolist() == [[0, 0, 0]] * 2


def test_a_file_holds_the_inspection(runs, tmp_path):
    trained = runs("text")
    reading = sources.of_text(trained, "a fox (the dog) sleeps")
    size = write_page(trained, reading, tmp_path / "page.html", source="a test")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert size == (tmp_path / "page.html").stat().st_size
    page, found = embedded(text)["page"], Inspector(trained).read(reading)
    h = page["payload"]["layers"][0]["parts"]["h"]
    np.testing.assert_allclose(decoded(h), found.parts["l0"]["h"].numpy(), atol=h["scale"] / 250)
    top = page["payload"]["top"]
    ids = np.frombuffer(base64.b64decode(top["ids"]), np.uint16).reshape(-1, top["k"])
    assert ids.tolist() == found.top.tolist()
    assert page["payload"]["names"] == list(reading.names)
    _, wanted = Inspector(trained).influence(reading, 8, last=100)
    rows = np.frombuffer(base64.b64decode(page["influence"]["data"]), np.uint8).reshape(-1, 100)
    shown = rows[8, :8][::-1] / 255 * page["influence"]["scales"][8]
    np.testing.assert_allclose(shown, wanted.numpy(), atol=float(wanted.max()) / 250)


def test_a_file_without_a_folder_leaves_nothing(runs, tmp_path):
    with pytest.raises(Exception, match="cannot write"):
        write_page(
            runs("text"), sources.of_text(runs("text"), "a fox"), tmp_path / "no" / "page.html", source=""
        )
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_fetched_from_elsewhere():
    text = page_html(None).decode()
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(", text)
    assert not re.findall(r"<(?:link|script|img|iframe)\b[^>]*\b(?:src|href)=\"(?!data:,\")", text)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "connect-src 'none'" in page_html({"name": "x"}).decode()


def test_hostile_text_cannot_leave_its_element(runs, tmp_path):
    trained = runs("text")
    reading = sources.of_text(trained, HOSTILE)
    write_page(trained, reading, tmp_path / "page.html", source="</script><b>" + HOSTILE)
    text = (tmp_path / "page.html").read_bytes().decode()
    clean = page_html(None).decode()
    assert text.count("</script") == clean.count("</script") and text.count("<script") == clean.count(
        "<script"
    )
    assert "\u2028" not in text and "\0" not in text
    page = embedded(text)["page"]
    assert page["payload"]["names"] == list(HOSTILE) and page["source"].endswith(HOSTILE)


def test_influences_of_a_file_have_the_nearest_step_first(runs):
    trained = runs("frames")
    inspector = Inspector(trained)
    found = inspector.read(sources.of_run(trained))
    kept = influences(inspector, found, 4, 6)
    rows = np.frombuffer(base64.b64decode(kept["data"]), np.uint8).reshape(4, 6)
    assert kept["first"] == len(found.reading) - 4
    _, values = inspector.influence(found.reading, kept["first"] + 1, last=6)
    wanted = values.flip(0).numpy()
    np.testing.assert_allclose(rows[1] / 255 * kept["scales"][1], wanted, atol=wanted.max() / 250)


def test_gates_are_left_out_before_states_are_refused(runs, monkeypatch):
    trained = runs("text")
    inspector = Inspector(trained)
    found = inspector.read(sources.of_text(trained, "a fox"))
    monkeypatch.setattr("throughtime.page.payload.NUMBERS", 5 * 24 * 2)
    result = payload(inspector, found)
    assert [list(each["parts"]) for each in result["layers"]] == [["h", "c"], ["h", "c"]]
    assert result["without_gates"]
    monkeypatch.setattr("throughtime.page.payload.NUMBERS", 10)
    with pytest.raises(InputError, match="240 numbers, and the page takes 10"):
        payload(inspector, found)


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served, timeout=60) as found:
        yield found


def post(client, path, **body):
    answer = client.post(f"/v1/inspect/{path}", json=body)
    return answer.status_code, answer.json()


def test_a_server_answers_what_an_inspector_finds(client, runs):
    assert client.get("/v1/inspect/models").json() == {"models": ["text", "frames", "transcribe"]}
    about = client.get("/v1/inspect/about", params={"model": "text"}).json()
    assert about["sizes"] == [13, 11] and about["generates"]
    trained, text = runs("text"), "a fox (the dog)"
    inspector = Inspector(trained)
    reading = sources.of_text(trained, text)
    status, found = post(client, "trace", model="text", text=text)
    assert status == 200
    assert found == json.loads(json.dumps(payload(inspector, inspector.read(reading))))
    status, near = post(client, "influence", model="text", text=text, position=7)
    np.testing.assert_allclose(near["values"], inspector.influence(reading, 7)[1].numpy(), rtol=1e-4)
    ids = found["ids"]
    status, more = post(client, "continue", model="text", ids=ids, steps=5, seed=9)
    wanted = inspector.extend(ids, 5, seed=9).reading.inputs[:, 0].tolist()
    assert (status, more["ids"], more["first"]) == (200, wanted, len(ids))
    edit = {"layer": "l0", "part": "h", "unit": 2, "step": 4, "value": 0.5, "hold": True}
    status, edited = post(client, "trace", model="text", ids=ids, edits=[edit], first=4)
    assert edited["first"] == 4
    np.testing.assert_allclose(decoded(edited["layers"][0]["parts"]["h"])[:, 2], 0.5, atol=0.01)


def test_numbers_and_examples_are_read(client, runs):
    width = sources.of_run(runs("frames")).inputs.shape[2]
    status, found = post(client, "trace", model="frames", values=[[0.5] * width] * 3)
    assert status == 200 and len(found["names"]) == 3 and found["input"]["size"] == width
    status, found = post(client, "trace", model="frames", example=2)
    assert status == 200 and found["truth"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("trace", {"model": "none", "text": "a"}, 404, "there is no model 'none'"),
        ("trace", {"model": ["text"], "text": "a"}, 404, "there is no model"),
        ("trace", {"model": "text"}, 400, "give one of text, ids, values, samples and example"),
        ("trace", {"model": "text", "text": ""}, 400, "got none"),
        ("trace", {"model": "text", "text": "abc", "first": 3}, 400, "first must be a whole number between 0 and 2, got 3"),
        ("trace", {"model": "text", "text": "a" * 20_001}, 400, "at most 20,000 steps"),
        ("trace", {"model": "text", "ids": [1, -1]}, 400, "ids must be whole numbers"),
        ("trace", {"model": "text", "ids": [True]}, 400, "ids must be whole numbers"),
        ("trace", {"model": "text", "example": 10**6}, 400, "has no example 1000000"),
        ("trace", {"model": "frames", "text": "/etc/passwd"}, 400, "reads numbers, not text"),
        ("trace", {"model": "frames", "values": [[1, None]]}, 400, "must be a list of steps"),
        ("trace", {"model": "frames", "samples": "AAA=", "rate": 8000}, 400, "reads numbers, not sound"),
        ("trace", {"model": "frames", "samples": "?", "rate": 8000}, 400, "in base64"),
        ("trace", {"model": "text", "text": "abc", "edits": [{"value": "1"}]}, 400, "an edit must have"),
        ("trace", {"model": "text", "text": "abc", "edits": 5}, 400, "edits must be a list"),
        ("influence", {"model": "text", "text": "abc", "position": 3}, 400, "position must lie between 0 and 2, got 3"),
        ("influence", {"model": "text", "text": "abc"}, 400, "position must be a whole number"),
        ("continue", {"model": "text", "ids": [], "steps": 3}, 400, "ids must be a list of one or more"),
        ("continue", {"model": "text", "ids": [1], "steps": 10**9}, 400, "steps must be a whole number between 1 and 1,000"),
        ("continue", {"model": "text", "ids": [1], "steps": 1, "temperature": -1}, 400, "temperature"),
        ("continue", {"model": "text", "ids": [1], "steps": 1, "temperature": "hot"}, 400, "temperature must be a number"),
        ("continue", {"model": "frames", "ids": [1], "steps": 1}, 400, "only models of the next symbol"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(client, path, body, status, words):
    found, answer = post(client, path, **body)
    message = answer["error"]["message"]
    assert (found, words in message, "\n" in message) == (status, True, False), answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_bodies_that_are_no_json_or_too_large(client):
    for data in (b"", b"[1]", b"{", b"\xff", b"[" * 10**5):
        answer = client.post("/v1/inspect/trace", content=data)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            400,
            "the body must be a JSON object",
        )
    answer = client.post("/v1/inspect/trace", content=b" " * (4 * 2**20 + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "large")


def test_text_of_any_kind_comes_back(client):
    answer = client.post("/v1/inspect/trace", content=json.dumps({"model": "text", "text": HOSTILE}).encode())
    assert answer.status_code == 200 and answer.json()["names"] == list(HOSTILE)


def test_requests_at_a_time_wait_for_each_other(client, served):
    found = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=served, timeout=60) as own:
            found.append(post(own, "trace", model="text", text="a fox " * (1 + number % 3))[0])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [200] * 8


def test_a_client_that_leaves_does_no_harm(client, served):
    host, port = served.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as gone:
        gone.sendall(b"POST /v1/inspect/trace HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert post(client, "trace", model="text", text="a")[0] == 200


def test_without_starlette_it_says_what_to_install(monkeypatch):
    import sys

    import throughtime.page

    for name in [name for name in sys.modules if name.partition(".")[0] == "starlette"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.delitem(sys.modules, "throughtime.page.endpoints", raising=False)
    with pytest.raises(InputError, match=r"pip install 'throughtime\[serve\]'"):
        throughtime.page.routes  # noqa: B018


def test_the_command_writes_a_page(runs, tmp_path, capsys):
    from throughtime.cli import main

    run = str(runs("text").path)
    (tmp_path / "a.txt").write_text("a fox sleeps, and then the dog. " * 9, encoding="utf-8")
    out = tmp_path / "a.html"
    assert main(["page", run, "--data", str(tmp_path / "a.txt"), "--steps", "50", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("50 steps of a.txt (the first 50 steps). Written: ")
    assert len(embedded(out.read_text(encoding="utf-8"))["page"]["payload"]["names"]) == 50
    assert main(["page", str(runs("frames").path), "--example", "2", "--out", str(out)]) == 0
    assert embedded(out.read_text(encoding="utf-8"))["page"]["about"]["draw"] == "image"
    capsys.readouterr()
    for arguments, words in (
        (["--out", str(tmp_path / "a.png")], "--out must be a page"),
        (["--data", str(tmp_path / "none.txt")], "none.txt"),
        (["--example", "100000", "--out", str(out)], "has no example 100000"),
    ):
        assert main(["page", run, *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
