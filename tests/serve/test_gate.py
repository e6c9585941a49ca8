"""Who may call: tokens, origins, hosts; and what a server refuses to begin with."""

from __future__ import annotations

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from throughtime.errors import InputError
from throughtime.serve import Limits, running, serve
from throughtime.serve.gate import check_token, is_loopback

TOKEN = "long-and-secret"


@pytest.fixture(scope="module")
def guarded(book):
    with running([book], token=TOKEN, limits=Limits(origin=("https://example.org",))) as url:
        yield url


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong-token"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer {TOKEN}", "host": "any.example.org"}, 200),
        ({"authorization": f"Bearer {TOKEN}", "origin": "https://example.org"}, 200),
        ({"authorization": f"Bearer {TOKEN}", "origin": "https://evil.example"}, 403),
        ({"authorization": f"Bearer {TOKEN}", "origin": "null"}, 403),
    ],
)
def test_every_path_asks_for_the_token_and_looks_at_the_origin(guarded, headers, status, connect):
    for path in ("/v1/models", "/metrics", "/v1/nothing-there"):
        answer = httpx.get(guarded + path, headers=headers)
        if status == 200:
            assert answer.status_code == (404 if "nothing" in path else 200)
        else:
            assert code(answer) == (status, "token" if status == 401 else "origin")
            assert ("www-authenticate" in answer.headers) == (status == 401)
    if status != 200:
        with pytest.raises(InvalidStatus) as caught:
            connect(guarded, additional_headers=headers)
        assert caught.value.response.status_code == status
    elif "host" not in headers:
        with connect(guarded, additional_headers=headers) as socket:
            assert socket.open()


def test_what_needs_no_token(guarded, connect):
    assert httpx.get(f"{guarded}/healthz").json() == {"status": "ok"}
    page = httpx.get(guarded)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    asked = {"model": "book", "text": "the quick"}
    assert httpx.post(f"{guarded}/v1/inspect/trace", json=asked).status_code == 401
    found = httpx.post(
        f"{guarded}/v1/inspect/trace", json=asked, headers={"authorization": f"Bearer {TOKEN}"}
    )
    assert found.json()["names"] == list("the quick")
    # A page cannot set headers of a WebSocket: it names the token among the protocols.
    with connect(guarded, subprotocols=["throughtime", f"bearer.{TOKEN}"]) as socket:
        assert socket.socket.subprotocol == "throughtime"
        assert socket.open()
    with pytest.raises(InvalidStatus):
        connect(guarded, subprotocols=["throughtime", "bearer.other-token"])


def test_browsers_are_told_which_origins_may_call(guarded):
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    may = httpx.options(f"{guarded}/v1/sessions", headers={"origin": "https://example.org", **asked})
    assert (may.status_code, may.headers["access-control-allow-origin"]) == (200, "https://example.org")
    assert (
        httpx.options(
            f"{guarded}/v1/sessions", headers={"origin": "https://evil.example", **asked}
        ).status_code
        == 400
    )
    headers = {"origin": "https://example.org", "authorization": f"Bearer {TOKEN}"}
    found = httpx.get(f"{guarded}/v1/models", headers=headers)
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "https://example.org")
    refused = httpx.get(
        f"{guarded}/v1/models", headers={"origin": "https://evil.example", "authorization": f"Bearer {TOKEN}"}
    )
    assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "127.0.0.1:1", "origin": "http://127.0.0.1:1"}, 200),
        ({"host": "127.0.0.1:1", "origin": "http://127.0.0.1:2"}, 403),
        ({"origin": "https://example.org"}, 403),
        ({"host": "evil.example"}, 403),  # a name that somebody else's DNS points to this machine
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
    ],
)
def test_without_a_token_only_this_machine_is_served(server, headers, status):
    assert httpx.get(f"{server}/v1/models", headers=headers).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_an_address_that_others_reach_needs_a_token(host, book):
    with pytest.raises(InputError, match="needs a token"):
        serve([book], host=host)
    assert not is_loopback(host)
    check_token(host, TOKEN)


@pytest.mark.parametrize("token", ["short", "with space inside", "ümlaut-token-1", ""])
def test_a_token_that_a_header_cannot_carry_is_refused(token):
    with pytest.raises(InputError, match="8 ASCII characters"):
        check_token("127.0.0.1", token)


def test_an_address_in_use_is_said(server, book):
    with pytest.raises(InputError, match="cannot listen on 127"):
        serve([book], port=int(server.rpartition(":")[2]))
