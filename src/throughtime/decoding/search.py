"""Sequences of symbols from a model's steps: greedy, sampled, and beam search.

Rows that have come to their end are dropped from the state, so a batch costs the steps that its rows really take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.decoding.sampling import draw
from throughtime.decoding.state import Step, select
from throughtime.errors import InputError

_NEVER = float("-inf")
_BLOCK = 64  # logits whose largest stands for them while the largest of all are looked for


class Hypothesis(NamedTuple):
    """One decoded sequence."""

    symbols: list[int]  # without the start and the end symbol
    score: float  # the sum of the log-probabilities, the end's included; beam search divides it, see `beam`
    ended: bool  # the model chose the end itself; else it was put there after `max_length` symbols


class Limits(NamedTuple):
    """What a sequence may consist of."""

    end: int  # the symbol that ends it
    max_length: int | Sequence[int]  # symbols before the end; one number, or one for each row
    min_length: int = 0  # symbols before the end
    banned: Sequence[int] = ()  # symbols that are never chosen
    allowed: Tensor | None = (
        None  # bool [V] or [N, V]: those that may be chosen, the end symbol always; None: all
    )

    def lengths(self, rows: int) -> Tensor:
        """`max_length` of each row, [rows]. Raises: InputError for values that do not belong together."""
        each = torch.as_tensor(self.max_length).expand(rows) if isinstance(self.max_length, int) else (
            torch.as_tensor(self.max_length)
        )  # fmt: skip
        if tuple(each.shape) != (rows,) or (rows and int(each.min()) < 1):
            raise InputError(
                f"max_length must be at least 1, one number or one for each of {rows} rows, got {self.max_length}"
            )
        if not 0 <= self.min_length <= (int(each.min()) if rows else self.min_length):
            raise InputError(
                f"min_length must lie between 0 and max_length, got {self.min_length} and {int(each.min())}"
            )
        return each

    def mask(self, logits: Tensor, length: int, rows: Tensor, closing: Tensor) -> Tensor:
        """The logits [N, V] with what may not follow `length` symbols at -infinity.

        Args: rows, [N], which of the first call's rows these are; closing, bool [N], those that must end here.
        """
        if self.allowed is None and not self.banned and length >= self.min_length and not bool(closing.any()):
            return logits
        out = torch.zeros_like(logits, dtype=torch.bool)
        if self.allowed is not None:
            out |= ~(self.allowed if self.allowed.dim() == 1 else self.allowed[rows]).to(logits.device)
        out[:, list(self.banned)] = True
        out[closing] = True
        out[:, self.end] = length < self.min_length
        return logits.masked_fill(out, _NEVER)


def greedy(step: Step, state: Any, start: Tensor, limits: Limits) -> list[Hypothesis]:
    """The likeliest symbol at each step; of equal ones the first.

    Args: state, of N rows; start: whole numbers [N], the symbols read first.
    Returns: one hypothesis for each row, which does not depend on the other rows but for rounding.
    Raises: InputError for logits that are not numbers, or where every symbol is excluded.
    Cost: as many steps as the longest row takes.
    """
    return _one_by_one(step, state, start, limits, lambda scores, _: scores.argmax(-1))


def sample(
    step: Step,
    state: Any,
    start: Tensor,
    limits: Limits,
    *,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[Hypothesis]:
    """Symbols drawn with `draw`'s options; row n draws with a generator of its own, seeded by seeds[n].

    The score is the model's own log-probability of what was drawn. Arguments and errors as for `greedy`.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    if len(generators) != len(start):
        raise InputError(f"seeds must be one for each of {len(start)} rows, got {len(generators)}")

    def choose(scores: Tensor, rows: Tensor) -> Tensor:
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        each = zip(scores, rows.tolist(), strict=True)
        drawn = [draw(row, generator=generators[number], **options) for row, number in each]
        return torch.stack(drawn).to(scores.device)

    return _one_by_one(step, state, start, limits, choose)


def _one_by_one(step: Step, state: Any, start: Tensor, limits: Limits, choose: Any) -> list[Hypothesis]:
    count = len(start)
    longest = limits.lengths(count).to(start.device)
    rows = torch.arange(count, device=start.device)  # of the rows still going, their numbers
    written: list[list[int]] = [[] for _ in range(count)]
    totals, ended = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.bool)
    symbols, length = start, 0
    with torch.inference_mode():
        while len(rows):
            logits, state = step(state, symbols)
            logits, sums = _checked(logits)
            closing = longest[rows] <= length
            scores = limits.mask(logits, length, rows, closing)
            symbols = choose(scores, rows)
            gained = scores.gather(1, symbols[:, None])[:, 0] - sums
            _check_choice(gained)
            totals[rows.cpu()] += gained.double().cpu()
            if bool(closing.any()):
                ended[rows[closing].cpu()] = (logits[closing].argmax(-1) == limits.end).cpu()
            going = symbols != limits.end
            for number, symbol in zip(rows[going].tolist(), symbols[going].tolist(), strict=True):
                written[number].append(symbol)
            length += 1
            if not bool(going.all()):
                kept = going.nonzero()[:, 0]
                rows, symbols = rows[kept], symbols[kept]
                state = select(state, kept) if len(kept) else state
    found = zip(written, totals.tolist(), ended.tolist(), strict=True)
    return [Hypothesis(*each) for each in found]


def beam(
    step: Step,
    state: Any,
    start: Tensor,
    limits: Limits,
    *,
    width: int = 5,
    n_best: int = 1,
    length_penalty: float = 1.0,
    coverage_penalty: float = 0.0,
) -> list[list[Hypothesis]]:
    """The best sequences that a search with `width` hypotheses for each row finds, the best first.

        score(y) = log P(y) / ((5 + |y|) / 6)^length_penalty + coverage_penalty sum_s log(min(sum_t a_ts, 1))

    |y| counts the end symbol. At each step the best `width` extensions of a row's hypotheses stay; those that end are put
    aside. A row is done when it has `width` ended hypotheses, or when nothing that still goes on could be better than the
    n_best-th of them. Width 1 is `greedy`, and with a width beyond the number of sequences the search is exhaustive.

    Args: state, start, limits: as of `greedy`. length_penalty: 0 prefers short sequences, larger values longer ones.
    coverage_penalty: for states with a tensor `attention` [N, S], the weights of the last step: lowers the score where parts of
    the source were hardly attended to.
    Returns: for each row up to `n_best` hypotheses, by `score` as above.
    Raises: InputError as `greedy`, and for a width or n_best below 1.
    Cost: a step of N * width rows for each symbol; states of kept hypotheses are gathered, the memory of attention is not copied.
    Source: Wu et al. 2016, arXiv 1609.08144, equation 14 (penalties).
    """
    if not 1 <= n_best <= width:
        raise InputError(f"beam search needs 1 <= n_best <= width, got n_best {n_best} and width {width}")
    if length_penalty < 0 or coverage_penalty < 0:
        raise InputError(
            f"penalties must be 0 or more, got length_penalty {length_penalty} and coverage_penalty {coverage_penalty}"
        )
    search = _Beam(len(start), limits, width, n_best, length_penalty, coverage_penalty)
    with torch.inference_mode():
        search.run(step, state, start)
    return [each[:n_best] for each in search.ended]


class _Beam:
    def __init__(
        self, rows: int, limits: Limits, width: int, n_best: int, length_penalty: float, coverage: float
    ) -> None:
        self.limits, self.width, self.n_best = limits, width, n_best
        self.length_penalty, self.coverage_penalty = length_penalty, coverage
        self.longest = limits.lengths(rows)
        self.ended: list[list[Hypothesis]] = [[] for _ in range(rows)]  # of each row, the best first

    def run(self, step: Step, state: Any, start: Tensor) -> None:
        """Search, for B rows with K hypotheses each; afterwards `ended` holds what was found. Bookkeeping is on the CPU."""
        device, rows, symbols = start.device, torch.arange(len(start)), start
        scores = torch.zeros(len(start), 1, dtype=torch.float64)  # [B, K], of one hypothesis at first
        written = torch.zeros(len(start), 1, 0, dtype=torch.int64)  # [B, K, t]
        covered: Tensor | None = None  # [B, K, S]
        length = 0
        while len(rows):
            count, width = scores.shape
            logits, state = step(state, symbols)
            if self.coverage_penalty:
                seen = _attention_of(state).view(count, width, -1).cpu()
                covered = seen if covered is None else covered + seen
            closing = self.longest[rows] <= length
            values, places, natural = self._extensions(logits, length, rows, closing)
            total = (scores.unsqueeze(-1) + values.view(count, width, -1)).flatten(1)  # [B, K * C]
            best, at = total.topk(min(2 * self.width, total.shape[1]), dim=1)
            parents, chosen = at // values.shape[-1], places.view(count, -1).gather(1, at)
            stops = (chosen == self.limits.end) & (best > _NEVER)
            length += 1
            for row, rank in stops[:, : self.width].nonzero().tolist():
                parent = int(parents[row, rank])
                self._put(
                    int(rows[row]),
                    written[row, parent].tolist(),
                    float(best[row, rank]),
                    None if covered is None else covered[row, parent],
                    not bool(closing[row]) or bool(natural[row * width + parent]),
                )
            # Of the 2 K best at most K end, so K that go on are among them, where there are so many.
            scores, order = best.masked_fill(stops, _NEVER).sort(dim=1, descending=True, stable=True)
            scores, order = scores[:, : self.width], order[:, : self.width]
            parents, chosen = parents.gather(1, order), chosen.gather(1, order)
            kept = self._going(rows, scores[:, 0].tolist(), closing.tolist())
            scores, parents, chosen, rows = scores[kept], parents[kept], chosen[kept], rows[kept]
            each = torch.arange(len(kept))[:, None]
            written = torch.cat([written[kept][each, parents], chosen.unsqueeze(-1)], dim=2)
            covered = None if covered is None else covered[kept][each, parents]
            if len(rows):
                state = select(state, (kept[:, None] * width + parents).flatten().to(device))
                symbols = chosen.flatten().to(device)

    def _extensions(
        self, logits: Tensor, length: int, rows: Tensor, closing: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each hypothesis the best log-probabilities, float64 [N, C], their symbols, and whether the end is the likeliest."""
        repeats = len(logits) // len(rows)
        logits, sums = _checked(logits)
        rows, ending = (each.repeat_interleave(repeats).to(logits.device) for each in (rows, closing))
        masked = self.limits.mask(logits, length, rows, ending)
        values, places = largest(masked, min(2 * self.width, masked.shape[1]))
        _check_choice(values[:, 0])
        natural = logits.argmax(-1) == self.limits.end if bool(closing.any()) else torch.zeros(len(logits))
        return (values - sums[:, None]).double().cpu(), places.cpu(), natural.cpu()

    def _going(self, rows: Tensor, best: list[float], closing: list[bool]) -> Tensor:
        """The places of the rows that go on. Args: best, the score of each row's best hypothesis that goes on."""
        kept = []
        for place, (number, score) in enumerate(zip(rows.tolist(), best, strict=True)):
            ended = self.ended[number]
            # Scores only fall and the divisor only grows, so this is the most that a longer one can reach.
            most = score / self._divisor(int(self.longest[number]) + 1)
            enough = len(ended) >= self.n_best and ended[self.n_best - 1].score >= most
            if score > _NEVER and not closing[place] and len(ended) < self.width and not enough:
                kept.append(place)
        return torch.tensor(kept, dtype=torch.int64)

    def _put(self, row: int, symbols: list[int], score: float, covered: Tensor | None, ended: bool) -> None:
        score /= self._divisor(len(symbols) + 1)
        if covered is not None:
            # Zero weights behind the end of a shorter source would be the least covered of all.
            weights = covered[covered > 0].double()
            score += self.coverage_penalty * float(weights.clamp(max=1).log().sum())
        self.ended[row].append(Hypothesis(symbols, score, ended))
        self.ended[row].sort(key=lambda each: -each.score)

    def _divisor(self, length: int) -> float:
        return float(((5 + length) / 6) ** self.length_penalty)


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of values [N, V] and their places, the largest first: topk, faster for a long axis.

    The largest numbers lie in the blocks with the largest maxima, so only so many blocks are searched.
    Cost: one pass over the values, and topk of V / 64 + 64 count numbers.
    """
    rows, size = values.shape
    blocks = size // _BLOCK
    if blocks <= 2 * count:
        return values.topk(count, dim=1)
    whole = values[:, : blocks * _BLOCK].view(rows, blocks, _BLOCK)
    best = whole.amax(2).topk(count, dim=1).indices  # [N, count]
    found = whole.gather(1, best.unsqueeze(-1).expand(-1, -1, _BLOCK)).flatten(1)
    places = (best.unsqueeze(-1) * _BLOCK + torch.arange(_BLOCK, device=values.device)).flatten(1)
    rest = torch.arange(blocks * _BLOCK, size, device=values.device)
    found = torch.cat([found, values[:, blocks * _BLOCK :]], dim=1)
    places = torch.cat([places, rest.expand(rows, -1)], dim=1)
    top, at = found.topk(count, dim=1)
    return top, places.gather(1, at)


def _checked(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The logits in at least float32, and the log of the sum of their exponentials, [N]."""
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    sums = logits.logsumexp(-1)  # NaN or infinity in a row shows here, so the row itself is read once
    if not bool(sums.isfinite().all()):
        raise InputError("the logits hold NaN or infinity: the model's training diverged, or it is damaged")
    return logits, sums


def _check_choice(values: Tensor) -> None:
    if bool((values == _NEVER).any()):
        raise InputError("every symbol is excluded: there is nothing left to choose; allow more symbols")


def _attention_of(state: Any) -> Tensor:
    weights = getattr(state, "attention", None)
    if not isinstance(weights, Tensor):
        raise InputError("coverage_penalty needs a model with attention: leave it at 0")
    return weights
