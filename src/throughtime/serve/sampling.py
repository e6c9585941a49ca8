"""A completion: a prompt read, symbols drawn one by one, and what a client is told of each piece of the text.

Each completion has an engine and a random generator of its own, so the same seed gives the same text whatever else is served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.data.text import END
from throughtime.data.vocabulary import Vocabulary
from throughtime.decoding.sampling import draw
from throughtime.errors import InputError
from throughtime.kernels.native.generation.generator import State
from throughtime.models.styled import Styled
from throughtime.runtime.generate import first_symbol
from throughtime.runtime.session import Session
from throughtime.serve.hub import Served
from throughtime.serve.refusals import Refused
from throughtime.sessions.engine import Engine
from throughtime.sessions.processor import floats_from_text
from throughtime.sessions.snapshot import Snapshot

_CHUNK = 1024  # steps of a prompt in one call


@dataclass(frozen=True)
class Sampling:
    """How symbols are drawn; names are those of the request."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False


@dataclass
class Token:
    """A symbol, where it begins in the text, its log-probability, and the likeliest symbols in its place."""

    text: str
    offset: int
    logprob: float | None
    top: dict[str, float] | None


@dataclass
class Piece:
    """What was added to a completion."""

    new: str
    text: str  # the same, or the echoed prompt
    count: int  # symbols that were drawn for it
    finish: str | None  # "stop" or "length" with the last piece
    tokens: list[Token]  # where they were asked for


class Prompt:
    """A prompt that was read once: any number of completions begin after it.

    Args: prompt, a text or symbols' numbers; style, of a run of write; snapshot, of a session that is continued; keep, whether
    the logits before each symbol of the prompt are kept too.
    Attributes: text, what was read, as text; ids; logits [V] of what follows; before, [t - 1, V] of all symbols but the first.
    Raises: InputError for a run that is no language model, or a prompt that it cannot read.
    """

    def __init__(
        self,
        served: Served,
        prompt: str | list[int],
        style: str | None,
        snapshot: Snapshot | None,
        keep: bool = False,
    ) -> None:
        self._served, self._style = served, style
        first = served.trained.session(style)  # which says why a run cannot generate, or has no such style
        self.vocabulary: Vocabulary = first.vocabulary
        self.model = served.trained.model
        self.before: Tensor | None = None
        self._by_session = served.pool is None or isinstance(self.model, Styled)
        carried = {} if snapshot is None else snapshot.carried
        logits = first.logits if "next" not in carried else floats_from_text(carried["next"])
        ids = self._ids(prompt, carried)
        if not ids and logits is None:
            ids = [first_symbol(first)]
        self.ids, self.text = (
            ids,
            prompt if isinstance(prompt, str) and prompt else self.vocabulary.decode(ids),
        )
        self._state: Any = (
            first.snapshot() if self._by_session else None if snapshot is None else snapshot.state
        )
        if ids:
            read = self.reader()
            every = [read(part) for part in torch.split(torch.tensor(ids), _CHUNK)]
            logits = every[-1][-1]
            self.before = torch.cat(every)[:-1] if keep and not self._by_session else None
            self._state = read.state()
        assert logits is not None
        self.logits: Tensor = logits

    def reader(self) -> _EngineReader | _SessionReader:
        """What reads further symbols [t], from after the prompt: logits [t, V], or those of the last, [1, V]."""
        if self._by_session:
            return _SessionReader(self._served.trained.session(self._style), self._state)
        return _EngineReader(self._served.sessions().new_engine(), self._state)

    def _ids(self, prompt: str | list[int], carried: dict[str, Any]) -> list[int]:
        """The symbols of a prompt, after what a session still holds of its text."""
        if isinstance(prompt, list):
            if any(type(each) is not int or not 0 <= each < len(self.vocabulary) for each in prompt):
                raise InputError(
                    f"a prompt of numbers has symbols from 0 to {len(self.vocabulary) - 1}, got others"
                )
            if carried.get("text") or carried.get("raw"):
                raise InputError(
                    "the session holds text whose last word has not ended: continue it with a prompt that is text"
                )
            return prompt
        if self._by_session:
            return self.vocabulary.encode(prompt).tolist() if prompt else []
        processor = self._served.sessions().processor
        assert processor is not None
        first, carried = processor.read(prompt, carried)
        rest, _ = processor.flush(carried)
        return [*first.tolist(), *rest.tolist()]


class _EngineReader:
    """Reads symbols with the weights of a pool."""

    def __init__(self, engine: Engine, state: dict[str, Tensor] | None) -> None:
        self._engine = engine
        engine.grow(1)
        engine.write(0, state or None)

    def __call__(self, ids: Tensor) -> Tensor:
        return self._engine.run([0], [ids])[0]

    def state(self) -> dict[str, Tensor]:
        return self._engine.read(0)


class _SessionReader:
    """Reads symbols of a run without sessions, and of one that begins from a style."""

    def __init__(self, session: Session, state: State) -> None:
        self._session = session
        session.restore(state)

    def __call__(self, ids: Tensor) -> Tensor:
        return self._session.feed(ids)[None]

    def state(self) -> State:
        return self._session.snapshot()


def choice(prompt: Prompt, how: Sampling, seed: int, stopped: Callable[[], bool]) -> Iterator[Piece]:
    """A completion, piece by piece; the last piece says why it ended.

    Args: stopped, asked before each symbol; True ends it.
    Raises: InputError for a value out of range; Refused "closed" where it was stopped.
    """
    vocabulary, logits, read = prompt.vocabulary, prompt.logits, prompt.reader()
    random = torch.Generator().manual_seed(seed)
    stops = (*how.stop, END) if isinstance(prompt.model, Styled) else how.stop
    text = Pieces(stops)
    if how.echo:
        yield text.echo(prompt.text, [] if how.logprobs is None else _echoed(prompt, how.logprobs))
    decoder = vocabulary.decoder(new_line=prompt.text.endswith("\n"))
    for _ in range(how.max_tokens):
        if stopped():
            raise Refused("closed", "the completion was stopped")
        allowed = logits
        if vocabulary.unknown is not None:
            allowed = logits.clone()
            allowed[vocabulary.unknown] = -math.inf
        number = draw(
            allowed, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p, generator=random
        )
        token = None if how.logprobs is None else _token(vocabulary, logits, int(number), how.logprobs)
        piece = text.add(decoder.feed(int(number)), token)
        yield piece
        if piece.finish:
            return
        logits = read(number.reshape(1).long())[-1]
    yield text.end(decoder.finish())


class Pieces:
    """New text on its way to the client: what could be the beginning of a stop is held back."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._text = ""  # all of it
        self._given = 0  # characters given out
        self._tokens: list[Token] = []  # of what is held back
        self._shift = 0  # characters before it, of an echoed prompt

    def echo(self, prompt: str, tokens: list[Token]) -> Piece:
        """The prompt as the first piece."""
        self._shift = len(prompt)
        return Piece("", prompt, 0, None, tokens)

    def add(self, new: str, token: Token | None) -> Piece:
        """One more symbol; what may be given out, the last piece where a stop is complete."""
        before = len(self._text)
        self._text += new
        if token is not None:
            token.offset = before
            self._tokens.append(token)
        longest = max((len(each) for each in self._stops), default=0)
        places = [self._text.find(each, max(0, before - longest + 1)) for each in self._stops]
        if found := [place for place in places if place >= 0]:
            self._text = self._text[: min(found)]
            return self._give(len(self._text), 1, "stop")
        held = max((_overlap(self._text, each) for each in self._stops), default=0)
        return self._give(len(self._text) - held, 1, None)

    def end(self, rest: str) -> Piece:
        """The last piece where no stop came."""
        self._text += rest
        return self._give(len(self._text), 0, "length")

    def _give(self, end: int, count: int, finish: str | None) -> Piece:
        new, self._given = self._text[self._given : end], max(self._given, end)
        ready = sum(each.offset < end or finish == "length" for each in self._tokens)
        tokens, self._tokens = self._tokens[:ready], self._tokens[ready:]
        for each in tokens:
            each.offset += self._shift
        return Piece(new, new, count, finish, tokens)


def _overlap(text: str, stop: str) -> int:
    """The longest end of a text that is the beginning of a stop."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _token(vocabulary: Vocabulary, logits: Tensor, number: int, top: int) -> Token:
    """A symbol with its log-probability, as the model has it, before temperature."""
    scores = logits.float().cpu().log_softmax(-1)
    best = scores.topk(min(top, len(scores)))
    likeliest = {
        _shown(vocabulary, n): v for v, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    }
    return Token(_shown(vocabulary, number), 0, float(scores[number]), likeliest)


def _echoed(prompt: Prompt, top: int) -> list[Token]:
    """The symbols of a prompt; nothing is known of the first one's probability."""
    found, offset = [], 0
    for place, number in enumerate(prompt.ids):
        token = Token(_shown(prompt.vocabulary, number), offset, None, None)
        if place and prompt.before is not None:
            token = _token(prompt.vocabulary, prompt.before[place - 1], number, top)
            token.offset = offset
        offset += len(token.text)
        found.append(token)
    return found


def _shown(vocabulary: Vocabulary, number: int) -> str:
    return vocabulary.symbol(number).decode("utf-8", "replace")
