"""Completions, through the `openai` client as it is, and what they add: sessions and states."""

from __future__ import annotations

import base64
import threading

import openai
import pytest
import torch

from throughtime.cli import main
from throughtime.errors import SessionError
from throughtime.runtime import load
from throughtime.serve import Limits, running
from throughtime.serve.hub import Hub
from throughtime.serve.sampling import Pieces, Token

ASKED = {"model": "book", "prompt": "the quick ", "max_tokens": 25, "seed": 5}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def text_of(answer):
    return answer.choices[0].text


def test_models_and_a_completion(client, trained):
    assert {each.id for each in client.models.list()} == {"book", "words", "frames"}
    answer = client.completions.create(**ASKED)
    assert answer.object == "text_completion" and answer.model == "book" and answer.id.startswith("cmpl-")
    assert len(text_of(answer)) == 25 and answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        10,
        25,
        35,
    )
    # What the library draws symbol by symbol with this seed.
    assert text_of(answer) == "".join(trained.generate("the quick ", length=25, seed=5, backend="reference"))
    assert answer.choices[0].logprobs is None


def test_greedy_and_options_of_sampling(client, trained):
    greedy = {"temperature": 0}
    text = text_of(client.completions.create(**ASKED, **greedy))
    assert text == "".join(trained.generate("the quick ", length=25, temperature=0))
    assert text == text_of(client.completions.create(**ASKED, extra_body={"top_k": 1}))
    assert text == text_of(client.completions.create(**ASKED, top_p=1e-9))
    assert text != text_of(client.completions.create(**ASKED))
    without = {name: value for name, value in ASKED.items() if name != "seed"}
    drawn = client.completions.create(**without)
    assert text_of(client.completions.create(**without, seed=drawn.seed)) == text_of(drawn)


def test_streaming_gives_the_same_text(client):
    events = list(client.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].text for each in events if each.choices) == text_of(
        client.completions.create(**ASKED)
    )
    reasons = [each.choices[0].finish_reason for each in events if each.choices]
    assert reasons[-1] == "length" and not any(reasons[:-1])
    assert events[-1].choices == [] and events[-1].usage.completion_tokens == 25
    assert len({each.id for each in events}) == 1


def test_events_end_with_done(http):
    with http.stream("POST", "/v1/completions", json={**ASKED, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"


def test_several_choices_and_prompts_are_those_of_one_alone(client):
    three = client.completions.create(**ASKED, n=3)
    assert [each.index for each in three.choices] == [0, 1, 2]
    assert [each.text for each in three.choices] == [
        text_of(client.completions.create(**{**ASKED, "seed": 5 + n})) for n in range(3)
    ]
    assert three.usage.completion_tokens == 75 and three.usage.prompt_tokens == 10
    both = client.completions.create(**{**ASKED, "prompt": ["dog", "the quick "]}, n=2)
    assert [each.text for each in both.choices][2:] == [each.text for each in three.choices][:2]
    largest = client.completions.create(**{**ASKED, "seed": 2**64 - 1}, n=2)
    assert largest.choices[1].text == text_of(client.completions.create(**{**ASKED, "seed": 0}))
    events = client.completions.create(**ASKED, n=3, stream=True)
    found = {0: "", 1: "", 2: ""}
    for each in events:
        found[each.choices[0].index] += each.choices[0].text
    assert list(found.values()) == [each.text for each in three.choices]


def test_a_prompt_of_symbols(client, trained):
    ids = trained.assets.vocabulary.encode("the quick ").tolist()
    expected = text_of(client.completions.create(**ASKED))
    assert text_of(client.completions.create(**{**ASKED, "prompt": ids})) == expected
    both = client.completions.create(**{**ASKED, "prompt": [ids, ids]})
    assert [each.text for each in both.choices] == [expected] * 2
    assert len(text_of(client.completions.create(**{**ASKED, "prompt": ""}))) == 25


def test_stop_ends_before_the_first_place(client):
    text = text_of(client.completions.create(**ASKED))
    for stops in ([text[7:10]], [text[20:22], text[7:10]], [text[9], "never there"]):
        expected = text[: min(text.index(each) for each in stops if each in text)]
        answer = client.completions.create(**ASKED, stop=stops)
        assert (text_of(answer), answer.choices[0].finish_reason) == (expected, "stop")
        assert answer.usage.completion_tokens < 25
        events = list(client.completions.create(**ASKED, stop=stops, stream=True))
        assert "".join(each.choices[0].text for each in events) == expected
        assert events[-1].choices[0].finish_reason == "stop"
    held = client.completions.create(
        **ASKED, stop=text[-2:] + "never", stream=True
    )  # its beginning is the end of the text
    assert "".join(each.choices[0].text for each in held) == text


def test_logprobs_and_echo(client, trained):
    answer = client.completions.create(**ASKED, logprobs=2)
    found, text = answer.choices[0].logprobs, text_of(answer)
    assert "".join(found.tokens) == text and found.text_offset == list(range(25))
    stream = trained.session()
    logits = stream.feed("the quick ")
    for token, score, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        scores = logits.log_softmax(-1)
        number = int(trained.assets.vocabulary.encode(token)[0])
        assert score == pytest.approx(float(scores[number]), abs=1e-4)
        assert len(top) == 2 and max(top.values()) == pytest.approx(float(scores.max()), abs=1e-4)
        logits = stream.feed(token)
    echoed = client.completions.create(**ASKED, logprobs=0, echo=True)
    assert text_of(echoed) == "the quick " + text
    both = echoed.choices[0].logprobs
    assert "".join(both.tokens) == text_of(echoed) and both.text_offset == list(range(35))
    assert both.token_logprobs[0] is None and both.token_logprobs[10:] == found.token_logprobs
    logits, _ = trained.model(trained.assets.vocabulary.encode("the quick ")[:, None], None)
    with torch.no_grad():
        expected = logits[:-1, 0].log_softmax(-1)[
            torch.arange(9), trained.assets.vocabulary.encode("he quick ")
        ]
    assert both.token_logprobs[1:10] == pytest.approx(expected.tolist(), abs=1e-4)
    stopped = client.completions.create(**ASKED, logprobs=1, stop=text[7:10]).choices[0]
    assert "".join(stopped.logprobs.tokens) == text[: text.index(text[7:10])]
    events = client.completions.create(**ASKED, logprobs=2, stream=True)
    assert [token for each in events for token in each.choices[0].logprobs.tokens] == found.tokens


def test_a_session_goes_on_after_a_completion(client, http, trained):
    id = http.post("/v1/sessions", json={"model": "book"}).json()["id"]
    http.post(f"/v1/sessions/{id}/chunks", json={"seq": 1, "data": "the "})
    asked = {**ASKED, "prompt": "quick "}
    answer = client.completions.create(**asked, extra_body={"session_id": id, "return_state": True})
    assert text_of(answer) == text_of(client.completions.create(**ASKED))
    assert answer.session == {"id": id, "seq": 2}
    stream = trained.stream()
    stream.feed("the ")
    stream.feed("quick " + text_of(answer))
    expected = stream.feed("x")
    again = load(trained.path).stream()
    again.restore(base64.b64decode(answer.state))
    assert again.feed("x") == expected
    assert http.post(f"/v1/sessions/{id}/chunks", json={"seq": 3, "data": "x"}).json()["answer"] == expected
    # Without a prompt it goes on from what was read.
    more = client.completions.create(**{**ASKED, "prompt": ""}, extra_body={"session_id": id})
    whole = "the quick " + text_of(answer) + "x"
    assert text_of(more) == text_of(client.completions.create(**{**ASKED, "prompt": whole}))
    without = client.completions.create(**ASKED, extra_body={"return_state": True})
    assert without.state and not hasattr(without, "session")
    stopped = client.completions.create(**ASKED, stop=text_of(answer)[3], extra_body={"return_state": True})
    again.restore(base64.b64decode(stopped.state))
    stream = trained.stream()
    stream.feed("the quick " + text_of(stopped))
    assert again.feed("x") == stream.feed("x")


def test_words_are_continued_after_their_end(client, http):
    id = http.post("/v1/sessions", json={"model": "words"}).json()["id"]
    http.post(f"/v1/sessions/{id}/chunks", json={"seq": 1, "data": "the quick br"})  # the last word may go on
    asked = {**ASKED, "model": "words", "prompt": "own fox", "max_tokens": 6}
    text = text_of(client.completions.create(**asked, extra_body={"session_id": id}))
    assert text == text_of(client.completions.create(**{**asked, "prompt": "the quick brown fox"}))


def test_the_same_seed_gives_the_same_text_in_any_company(client):
    alone = [text_of(client.completions.create(**{**ASKED, "seed": n})) for n in range(8)]
    found = [""] * 8

    def run(n: int) -> None:
        found[n] = text_of(client.completions.create(**{**ASKED, "seed": n}))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert found == alone and len(set(alone)) > 1


@pytest.mark.parametrize(
    ("asked", "error", "named"),
    [
        ({"model": "boook"}, openai.NotFoundError, "Did you mean"),
        ({"model": "frames"}, openai.BadRequestError, "frames"),
        ({"max_tokens": 301}, openai.BadRequestError, "at most 300"),
        ({"max_tokens": -1}, openai.BadRequestError, "max_tokens"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"temperature": "hot"}, openai.BadRequestError, "temperature"),
        ({"top_p": 0}, openai.BadRequestError, "top_p"),
        ({"n": 0}, openai.BadRequestError, "n must"),
        ({"n": 1000}, openai.BadRequestError, "128"),
        ({"best_of": 3}, openai.BadRequestError, "best_of"),
        ({"stop": [""]}, openai.BadRequestError, "stop"),
        ({"seed": 2**70}, openai.BadRequestError, "seed"),
        ({"logprobs": 99}, openai.BadRequestError, "logprobs"),
        ({"prompt": [[]]}, openai.BadRequestError, "prompt"),
        ({"prompt": [10**6]}, openai.BadRequestError, "numbers"),
        ({"extra_body": {"session_id": "none"}}, openai.NotFoundError, "none"),
        ({"n": 2, "extra_body": {"session_id": "none"}}, openai.BadRequestError, "n = 1"),
        ({"extra_body": {"style": "formal"}}, openai.BadRequestError, "style"),
        ({"extra_body": {"promt": "x"}}, openai.BadRequestError, "unknown field 'promt'"),
        ({"suffix": "x"}, openai.BadRequestError, "suffix"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_asked_for_is_refused(client, asked, error, named, stream):
    with pytest.raises(error, match=named) as caught:
        client.completions.create(**{**ASKED, **asked}, stream=stream)
    assert caught.value.body["code"] in ("input", "unknown", "not_found")


def test_a_session_is_busy_while_a_completion_is_written(book):
    hub = Hub([load(book)], Limits())
    try:
        hub.open(None, "a", None, "")
        hub.claim("a")
        for refused in (lambda: hub.claim("a"), lambda: hub.submit("a", 1, "x")):
            with pytest.raises(SessionError, match="being written") as caught:
                refused()
            assert caught.value.cause == "busy"
        hub.release("a")
        assert hub.submit("a", 1, "x").result(20)["symbols"] == ["x"]
        hub.claim("a")
    finally:
        assert hub.close() == 1


def test_pieces_hold_back_what_may_become_a_stop():
    pieces = Pieces(("END", "ND!"))
    given = [pieces.add(each, Token(each, 0, 0.0, None)) for each in "aEENxENDz"[:8]]
    assert [each.new for each in given] == ["a", "", "E", "", "ENx", "", "", ""]
    assert given[-1].finish == "stop" and [t.offset for each in given for t in each.tokens] == [0, 1, 2, 3, 4]
    pieces = Pieces(("abc",))
    assert pieces.add("xab", None).new == "x" and pieces.end("").new == "ab"


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A model that writes whole texts in a style; it has no sessions."""
    folder = tmp_path_factory.mktemp("serve")
    for name, text in {"polite": "would you please open the {}, dear", "blunt": "open the {} now"}.items():
        lines = [text.format(thing) for thing in ("door", "box", "book", "map", "bag", "jar", "bin", "lid")]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    data = ["--data", str(folder / "polite.txt"), "--data", str(folder / "blunt.txt")]
    options = ["--hidden", "13", "--steps", "20", "--batch", "4", "--device", "cpu", "--no-baselines"]
    assert main(["train", "write", *data, *options, "--out", str(folder / "letters")]) == 0
    return folder / "letters"


def test_a_text_in_a_style(letters):
    trained = load(letters)
    with (
        running([letters]) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        asked = {"model": "letters", "prompt": "open", "max_tokens": 40, "seed": 3}
        for style in (None, "polite", "blunt"):
            answer = client.completions.create(
                **asked, n=2, extra_body={} if style is None else {"style": style}
            )
            for each in answer.choices:
                seed = 3 + each.index
                assert each.text == "".join(
                    trained.generate("open", style=style, length=40, seed=seed, backend="reference")
                )
        assert {each.finish_reason for each in answer.choices} <= {"stop", "length"}
        assert client.completions.create(**{**asked, "prompt": ""}).choices[0].text
        for extra, named in (({"style": "rude"}, "style"), ({"return_state": True}, "no sessions")):
            with pytest.raises(openai.BadRequestError, match=named):
                client.completions.create(**asked, extra_body=extra)
        about = client.models.retrieve("letters")
        assert about.sessions is False and about.reason
