"""Text sampled from a model, symbol by symbol."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

from throughtime.errors import BackendError, InputError, one_of
from throughtime.kernels.native.generation.interface import check_sampling
from throughtime.kernels.native.generation.packing import WEIGHTS
from throughtime.runtime.native import generator_of, refusal
from throughtime.runtime.session import Session
from throughtime.runtime.stream import native_ids, reference_ids


class Generation(Iterator[str]):
    """The new text, chunk by chunk, and what is needed to write it again.

    Attributes:
        backend: "native" or "reference"; one seed gives a different text with each of them.
        reason: why the reference runs; None with native.
        seed: the one given, or the one chosen where none was.
    """

    def __init__(self, chunks: Iterator[str], backend: str, reason: str | None, seed: int) -> None:
        self._chunks = chunks
        self.backend, self.reason, self.seed = backend, reason, seed

    def __next__(self) -> str:
        return next(self._chunks)

    def __repr__(self) -> str:
        reason = "" if self.reason is None else f" ({self.reason})"
        return f"<Generation: {self.backend}{reason}, seed {self.seed}>"


def generate(
    session: Session,
    prompt: str = "",
    *,
    length: int = 500,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | None = None,
    end: str | None = None,
    allow_unknown: bool = False,
    on_unknown: Callable[[list[str]], None] | None = None,
    backend: str | None = None,
    weights: str = "float32",
) -> Generation:
    """Continue a text: feed the prompt, then sample a symbol, feed it, and so on.

    Yields the new text chunk by chunk, without the prompt; a chunk is never part of a character. The session continues from its
    state; whenever a chunk is yielded, its state is the one after the last sampled symbol.
    A new session with an empty prompt reads a newline first, or, where the vocabulary has none, its most frequent symbol; that
    symbol is not part of the text.

    Args:
        session: the model, its vocabulary and its state.
        prompt: text to read first.
        length: symbols to sample (characters, words or byte pairs, as the vocabulary has them).
        temperature: see `throughtime.runtime.draw`, as for `top_k` and `top_p`; 0 is greedy.
        top_k: sample from the k likeliest symbols only.
        top_p: sample from the likeliest symbols that together have this probability.
        seed: the same seed, session and backend give the same text; None: one is chosen, see `Generation.seed`.
        stop: end before the first place where the new text holds this string.
        end: the same for what ends a text of a model that writes whole ones, its symbol `throughtime.data.text.END`.
        allow_unknown: let the unknown symbol be sampled.
        on_unknown: called once, before anything is sampled, with the prompt's unknown symbols if there are any.
        backend: "native": many symbols at a time in C++, for models that `throughtime.runtime.native` can run;
            "reference": symbol by symbol through the session. None: native where it can; `Generation.backend` says which one
            runs. Both sample from the same distribution, but the same seed gives each another text; greedy text is the
            same.
        weights: what native multiplies by, also for the prompt: "float32", the model's own; "bf16" or "int8", quantized (see
            `throughtime.runtime.with_quantized_weights`, which shows what is lost) and read in half or a quarter of
            the time, which pays where they do not fit into the processor's nearer caches: from about 512 hidden units.

    Returns: an iterator of the text, whose `backend`, `reason` and `seed` say how it was sampled.
    Raises: InputError for a value out of range, at the call and not at the first chunk; BackendError with the reason
    if native was asked for by name, or quantized weights, and native cannot run the model.
    Cost: native packs the weights when it runs a model for the first time, and when they have changed since; see
    `throughtime.runtime.native.generator_of`. The text is that of the weights at the call.
    """
    if length < 0:
        raise InputError(f"length must be 0 or more, got {length}")
    if stop == "":
        raise InputError("stop must be a string of at least one character, got an empty one")
    seed = secrets.randbits(32) if seed is None else seed
    check_sampling(temperature, top_k, top_p, seed)
    reason = _reason(session, backend, weights)
    generator = generator_of(session.model, weights) if reason is None else None
    if on_unknown is not None and (unknown := session.vocabulary.unknown_symbols(prompt)):
        on_unknown(unknown)
    start: str | list[int] = prompt or ([first_symbol(session)] if session.logits is None else "")
    if start and generator is not None and weights != "float32":
        session.set_state(generator.feed(session.ids(start).cpu(), session.state))
    elif start:
        session.feed(start)
    banned = () if allow_unknown or session.vocabulary.unknown is None else (session.vocabulary.unknown,)
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    if generator is None:
        ids = reference_ids(session, length, banned=banned, **options)
    else:
        ids = native_ids(session, generator, length, banned=banned, **options)
    chunks = _until(stop, _until(end, _text(session, not prompt or prompt.endswith("\n"), ids)))
    return Generation(chunks, "native" if reason is None else "reference", reason, seed)


def _reason(session: Session, backend: str | None, weights: str) -> str | None:
    """Why the reference runs, or None for native."""
    if backend is not None:
        one_of("backend", backend, ("native", "reference"))
    quantized = one_of("weights", weights, WEIGHTS) != "float32"
    if backend == "reference":
        if quantized:
            raise BackendError(
                f"weights {weights!r} are native's, and backend 'reference' was asked for: leave one out"
            )
        return "asked for by name"
    reason = refusal(session.model)
    if reason is not None and (quantized or backend is not None):
        asked = (
            f"weights {weights!r} were asked for" if quantized else "backend 'native' was asked for by name"
        )
        raise BackendError(f"{asked}: {reason}")
    return reason


def _text(session: Session, new_line: bool, ids: Iterator[int]) -> Iterator[str]:
    """Whole characters, as soon as they are whole."""
    decoder = session.vocabulary.decoder(new_line=new_line)
    for number in ids:
        if chunk := decoder.feed(number):
            yield chunk
    if rest := decoder.finish():
        yield rest


def _until(stop: str | None, chunks: Iterator[str]) -> Iterator[str]:
    """The chunks up to the first `stop`, which may lie across several of them."""
    if stop is None:
        yield from chunks
        return
    held = ""  # the end of the text that could be the start of `stop`
    for chunk in chunks:
        held += chunk
        place = held.find(stop)
        if place >= 0:
            if place:
                yield held[:place]
            return
        keep = next(n for n in range(min(len(stop) - 1, len(held)), -1, -1) if held.endswith(stop[:n]))
        if keep < len(held):
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held


def first_symbol(session: Session) -> int:
    """The id that a new session reads before an empty prompt."""
    vocabulary = session.vocabulary
    if vocabulary.unknown_symbols("\n"):
        # Char and word vocabularies number their symbols by frequency, after the unknown one.
        return min(1, len(vocabulary) - 1)
    return int(vocabulary.encode("\n")[0])
