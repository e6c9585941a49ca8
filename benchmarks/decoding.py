"""Decoding: greedy and beam search of an encoder-decoder with attention, beside the same model and search in plain torch.nn.

The size is that of a translation model of 50,000 pairs: GRU encoder, both directions, and GRU decoder of 2 x 256, 10,000 symbols.
The peer holds the same weights in torch.nn.GRU, projects the attention's keys once, keeps the hypotheses of the whole batch in
tensors, and gathers states by index: no loop over rows in Python. Nothing ends before `target` symbols, so both sides take as
many steps; the symbols that they write are compared before anything is timed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.plan import Decoding, Plan
from benchmarks.progress import with_progress
from throughtime.bench.table import format_timing
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, worst_error
from throughtime.data.batch import Source
from throughtime.decoding import Limits, beam, greedy
from throughtime.layers.interop import to_torch
from throughtime.models.build import encoder_decoder, sequence_encoder, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.encoder_decoder import EncoderDecoder
from throughtime.models.native_decoder import decoding_step

END, START = 0, 1
WIDTH = 5
LIMIT = 1e-4  # of the logits after a few symbols, float32 on both sides
STEPS = 4  # symbols after which logits are compared


class State(NamedTuple):
    """The peer's, of N rows."""

    hidden: Tensor  # [L, N, H]
    outputs: Tensor  # [N, S, M]
    keys: Tensor  # [N, S, H]


class Peer(nn.Module):
    """The model in torch.nn alone, with the weights of ours."""

    def __init__(self, ours: EncoderDecoder) -> None:
        super().__init__()
        parts: Any = ours
        self.reads, self.writes = parts.encoder.embedding, parts.embedding
        self.encoder, self.decoder = (to_torch(each.layers, ()) for each in (parts.encoder, parts))
        self.initial, self.attention = parts.initial.maps[0], parts.attention
        self.combine, self.head = parts.combine, parts.head

    def begin(self, source: Tensor) -> State:
        """Encode ids [N, S]."""
        y, final = self.encoder(self.reads(source.t()))
        rows = source.shape[0]
        summary = torch.cat([final[-2], final[-1]], dim=1)
        hidden = self.initial(summary).tanh().view(rows, self.decoder.num_layers, -1).transpose(0, 1)
        outputs = y.transpose(0, 1).contiguous()
        return State(hidden.contiguous(), outputs, self.attention.key(outputs))

    def step(self, state: State, symbols: Tensor) -> tuple[Tensor, State]:
        """Logits [N, V] after symbols [N]."""
        y, hidden = self.decoder(self.writes(symbols)[None], state.hidden)
        query = y[0]
        if self.attention.kind == "additive":
            mixed = (self.attention.query(query)[:, None] + state.keys).tanh()
            scores = (mixed @ self.attention.score.weight[0])[:, None]
        else:
            scores = torch.bmm(query[:, None], state.keys.transpose(1, 2))
        found = torch.bmm(scores.softmax(-1), state.outputs)[:, 0]
        vector = self.combine(torch.cat([found, query], dim=1)).tanh()
        return self.head(vector), state._replace(hidden=hidden)

    def greedy(self, source: Tensor, length: int) -> Tensor:
        """The likeliest symbols [N, length], the end never among them."""
        state, symbols, written = self.begin(source), source.new_full((len(source),), START), []
        for _ in range(length):
            logits, state = self.step(state, symbols)
            logits[:, END] = -torch.inf
            symbols = logits.argmax(-1)
            written.append(symbols)
        return torch.stack(written, dim=1)

    def beam(self, source: Tensor, length: int, width: int) -> Tensor:
        """The best symbols [N, length] that a search with `width` hypotheses finds, the end after them and not before."""
        rows = len(source)
        state, symbols = self.begin(source), source.new_full((rows,), START)
        logits, state = self.step(state, symbols)
        sums = logits.logsumexp(-1, keepdim=True)
        logits[:, END] = -torch.inf
        values, chosen = logits.topk(width, dim=1)
        scores = values - sums  # [N, K]
        written = chosen.unsqueeze(2)  # [N, K, t]
        first = torch.arange(rows).repeat_interleave(width)
        state = State(state.hidden[:, first], state.outputs[first], state.keys[first])
        base = (torch.arange(rows) * width)[:, None]
        for _ in range(length - 1):
            logits, state = self.step(state, chosen.flatten())
            sums = logits.logsumexp(-1, keepdim=True)
            logits[:, END] = -torch.inf
            # The best K of all extensions are among the best K of each hypothesis.
            values, places = logits.topk(width, dim=1)
            total = scores.unsqueeze(2) + (values - sums).view(rows, width, width)
            scores, at = total.flatten(1).topk(width, dim=1)
            parents = at // width
            chosen = places.view(rows, -1).gather(1, at)
            written = torch.cat(
                [
                    written.gather(1, parents.unsqueeze(2).expand(-1, -1, written.shape[2])),
                    chosen.unsqueeze(2),
                ],
                dim=2,
            )
            # The memory is the same for all hypotheses of a row: states alone are gathered.
            state = state._replace(hidden=state.hidden[:, (base + parents).flatten()])
        logits, _ = self.step(state, chosen.flatten())
        scores = scores + logits.log_softmax(-1)[:, END].view(rows, width)
        return written[torch.arange(rows), scores.argmax(1)]


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Greedy and beam search, both kinds of attention, every batch."""
    cases = [
        (attention, batch, width)
        for attention in ("general", "additive")
        for batch in plan.decoded.batches
        for width in (1, WIDTH)
    ]
    return [_compare(plan, *case) for case in with_progress("decoding", cases)]


def model(size: Decoding, attention: str) -> EncoderDecoder:
    """Random weights; the head's are large, so that no two hypotheses are equally good up to rounding."""
    torch.manual_seed(1)
    config = ModelConfig(
        cell="gru", hidden=size.hidden, layers=size.layers, embedding=size.hidden, bidirectional=True
    )
    encoder = sequence_encoder(config, symbol_embedding(config, size.symbols))
    made = encoder_decoder(
        config, encoder, symbol_embedding(config, size.symbols), size.symbols, attention=attention
    )
    with torch.no_grad():
        made.head.weight.mul_(8)
    return made.eval()


def _compare(plan: Plan, attention: str, batch: int, width: int) -> dict[str, Any]:
    size = plan.decoded
    ours = model(size, attention)
    peer = Peer(ours).eval()
    source = torch.randint(2, size.symbols, (batch, size.source), generator=torch.Generator().manual_seed(2))
    context = Source(source, torch.full((batch,), size.source))
    start = torch.full((batch,), START)
    limits = Limits(END, size.target, min_length=size.target)
    step, enter = decoding_step(ours)

    def write() -> list[list[int]]:
        with torch.inference_mode():
            state = enter(ours.begin(context))
            if width == 1:
                return [each.symbols for each in greedy(step, state, start, limits)]
            return [each[0].symbols for each in beam(step, state, start, limits, width=width)]

    def write_peer() -> Tensor:
        with torch.inference_mode():
            return peer.greedy(source, size.target) if width == 1 else peer.beam(source, size.target, width)

    what = f"{attention}, batch {batch}, width {width}"
    errors = {
        "logits": check(f"logits: {what}", _difference(ours, peer, context), LIMIT),
        "symbols": check(f"symbols: {what}", float((torch.tensor(write()) != write_peer()).sum()), 0),
    }
    sides = {"ours": write, "torch.nn": write_peer}
    timings = interleave(sides, seconds=plan.seconds, least=plan.least)
    tokens = batch * size.target
    return {
        "attention": attention,
        "batch": batch,
        "width": width,
        "size": size._asdict(),
        "tokens": tokens,
        "errors": errors,
        "timings": as_json(timings),
        "tokens_per_second": {name: tokens / timing.median for name, timing in timings.items()},
        "ratio": timings["torch.nn"].median / timings["ours"].median,
    }


@torch.inference_mode()
def _difference(ours: EncoderDecoder, peer: Peer, context: Source) -> float:
    """The largest difference of the logits after STEPS symbols, relative to the largest logit."""
    step, enter = decoding_step(ours)
    states: list[Any] = [enter(ours.begin(context)), peer.begin(context.values)]
    for symbol in range(STEPS):
        symbols = torch.full((len(context.values),), START + symbol)
        found = [side(state, symbols) for side, state in zip((step, peer.step), states, strict=True)]
        states = [state for _, state in found]
    return worst_error([found[0][0]], [found[1][0]])


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows, in symbols written for each second by all rows together."""
    head = [
        "attention",
        "search",
        "batch",
        "ours, symbols/s",
        "torch.nn, symbols/s",
        "ours",
        "torch.nn",
        "torch.nn / ours",
    ]
    return head, [
        [
            result["attention"],
            "greedy" if result["width"] == 1 else f"beam {result['width']}",
            str(result["batch"]),
            *(f"{result['tokens_per_second'][name]:,.0f}" for name in ("ours", "torch.nn")),
            *(format_timing(result["timings"][name]) for name in ("ours", "torch.nn")),
            f"{result['ratio']:.2f}",
        ]
        for result in results
    ]


def summary(results: list[dict[str, Any]]) -> str:
    """The ratios in a sentence."""
    by_search = {
        name: [result["ratio"] for result in results if (result["width"] == 1) == (name == "greedy")]
        for name in ("greedy", f"beam {WIDTH}")
    }
    parts = [f"{name} {min(ratios):.2f} to {max(ratios):.2f}" for name, ratios in by_search.items()]
    return f"Time of the peer / ours: {', '.join(parts)}."
