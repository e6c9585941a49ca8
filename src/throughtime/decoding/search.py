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
from throughtime.kernels.native.decoding import DIVERGED, NOT_END, ONLY_END

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

    def mask(self, logits: Tensor, length: int, rows: Tensor, closing: Tensor | None) -> Tensor:
        """The logits [N, V] with what may not follow `length` symbols at -infinity.

        Args: rows, [N], which of the first call's rows these are; closing, bool [N], those that must end here, None: none.
        """
        if self.allowed is None and not self.banned and length >= self.min_length and closing is None:
            return logits
        out = torch.zeros_like(logits, dtype=torch.bool)
        if self.allowed is not None:
            out |= ~(self.allowed if self.allowed.dim() == 1 else self.allowed[rows]).to(logits.device)
        out[:, list(self.banned)] = True
        if closing is not None:
            out[closing.to(logits.device)] = True
        out[:, self.end] = length < self.min_length
        return logits.masked_fill(out, _NEVER)


def greedy(step: Step, state: Any, start: Tensor, limits: Limits) -> list[Hypothesis]:
    """The likeliest symbol at each step; of equal ones the first.

    Args: state, of N rows; start: whole numbers [N], the symbols read first.
    Returns: one hypothesis for each row, which does not depend on the other rows but for rounding.
    Raises: InputError for logits that are not numbers, or where every symbol is excluded.
    Cost: as many steps as the longest row takes.
    """
    choice = _Choice(step, limits)

    def choose(state: Any, symbols: Tensor, length: int, rows: Tensor, closing: Tensor | None) -> _Chosen:
        values, places, ends, state = choice.best(state, symbols, length, rows, closing, 1)
        return _Chosen(values[:, 0], places[:, 0], ends, state)

    return _one_by_one(choose, state, start, limits)


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
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def choose(state: Any, symbols: Tensor, length: int, rows: Tensor, closing: Tensor | None) -> _Chosen:
        logits, state = step(state, symbols)
        logits, sums = _checked(logits)
        scores = limits.mask(logits, length, rows, closing)
        _check_choice(scores.amax(-1))
        each = zip(scores, rows.tolist(), strict=True)
        drawn = torch.stack([draw(row, generator=generators[number], **options) for row, number in each])
        drawn = drawn.to(scores.device)
        gained = scores.gather(1, drawn[:, None])[:, 0] - sums
        return _Chosen(gained, drawn, logits.argmax(-1) == limits.end, state)

    return _one_by_one(choose, state, start, limits)


class _Chosen(NamedTuple):
    """The next symbols of N rows, [N], or the best C of each row, [N, C], the best first."""

    gained: Tensor  # log-probabilities; -infinity where nothing is left to choose
    symbols: Tensor
    ends: Tensor  # bool [N], whether the end is the likeliest of all symbols, excluded or not
    state: Any


class _Choice:
    """The best next symbols under some limits: from a step's logits, or from its `extend` where it has one."""

    def __init__(self, step: Step, limits: Limits) -> None:
        self.step, self.limits = step, limits
        each_row = limits.allowed is not None and limits.allowed.dim() > 1
        self._extend: Any = None if each_row else getattr(step, "extend", None)
        self._excluded: Tensor | None = None
        if self._extend is not None and (limits.banned or limits.allowed is not None):
            symbols = step.symbols  # type: ignore[attr-defined]
            allowed = (
                torch.ones(symbols, dtype=torch.bool) if limits.allowed is None else limits.allowed.clone()
            )
            allowed[list(limits.banned)] = False
            self._excluded = (~allowed).to(torch.uint8)

    def best(
        self, state: Any, symbols: Tensor, length: int, rows: Tensor, closing: Tensor | None, count: int
    ) -> _Chosen:
        """Read a symbol of each row. Args: as of `Limits.mask`; count: C, fewer where there are fewer symbols."""
        limits = self.limits
        if self._extend is not None:
            rules = None
            if length < limits.min_length:
                rules = torch.full((len(symbols),), NOT_END, dtype=torch.uint8)
            elif closing is not None:
                rules = closing.to(torch.uint8) * ONLY_END
            return _Chosen(*self._extend(state, symbols, count, limits.end, self._excluded, rules))
        logits, state = self.step(state, symbols)
        logits, sums = _checked(logits)
        masked = limits.mask(logits, length, rows, closing)
        values, places = largest(masked, min(count, masked.shape[1]))
        # Asked for only where a row must end.
        ends = (
            torch.zeros_like(sums, dtype=torch.bool) if closing is None else logits.argmax(-1) == limits.end
        )
        return _Chosen(values - sums[:, None], places, ends, state)


def _one_by_one(choose: Any, state: Any, start: Tensor, limits: Limits) -> list[Hypothesis]:
    count, device = len(start), start.device
    longest = limits.lengths(count)
    soonest = int(longest.min()) if count else 0
    numbers = list(range(count))  # of the rows still going
    rows = torch.arange(count)
    written: list[list[int]] = [[] for _ in range(count)]
    totals, ended = torch.zeros(count, dtype=torch.float64), [True] * count
    symbols, length = start, 0
    with torch.inference_mode():
        while numbers:
            closing = longest[rows] <= length if length >= soonest else None
            gained, symbols, ends, state = choose(state, symbols, length, rows, closing)
            totals.index_add_(0, rows, gained.double().cpu())
            if closing is not None:
                for number, closes, own in zip(numbers, closing.tolist(), ends.tolist(), strict=True):
                    ended[number] = own or not closes
            chosen = symbols.tolist()
            for number, symbol in zip(numbers, chosen, strict=True):
                if symbol != limits.end:
                    written[number].append(symbol)
            length += 1
            if limits.end in chosen:
                kept = [place for place, symbol in enumerate(chosen) if symbol != limits.end]
                numbers = [numbers[place] for place in kept]
                rows = torch.tensor(numbers, dtype=torch.int64)
                if kept:
                    places = torch.tensor(kept, device=device)
                    symbols, state = symbols[places], select(state, places)
    _check_choice(totals)
    found = zip(written, totals.tolist(), ended, strict=True)
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
    aside. A row is done when nothing that still goes on could be better than the n_best-th of those that ended. That `width` of
    them have ended is not enough: bad short ones end before a good one that is longer. Without a length penalty width 1 is
    `greedy`, and with a width beyond the number of sequences the search is exhaustive.

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
        choice, device, end = _Choice(step, self.limits), start.device, self.limits.end
        soonest = int(self.longest.min()) if len(start) else 0
        rows, symbols = torch.arange(len(start)), start
        scores = torch.zeros(len(start), 1, dtype=torch.float64)  # [B, K], of one hypothesis at first
        written = torch.zeros(len(start), 1, 0, dtype=torch.int64)  # [B, K, t]
        covered: Tensor | None = None  # [B, K, S]
        length = 0
        while len(rows):
            count, width = scores.shape
            closing = self.longest[rows] <= length if length >= soonest else None
            each = None if closing is None else closing.repeat_interleave(width)
            of_each = rows if width == 1 else rows.repeat_interleave(width)
            values, places, natural, state = choice.best(
                state, symbols, length, of_each, each, 2 * self.width
            )
            _check_choice(values[:, 0])
            values, places = values.double().cpu(), places.cpu()
            if self.coverage_penalty:
                seen = _attention_of(state).view(count, width, -1).cpu()
                covered = seen if covered is None else covered + seen
            total = (scores.unsqueeze(-1) + values.view(count, width, -1)).flatten(1)  # [B, K * C]
            best, at = total.topk(min(2 * self.width, total.shape[1]), dim=1)
            parents, chosen = at // values.shape[-1], places.view(count, -1).gather(1, at)
            stops = (chosen == end) & (best > _NEVER)
            length += 1
            for row, rank in stops[:, : self.width].nonzero().tolist():
                parent = int(parents[row, rank])
                self._put(
                    int(rows[row]),
                    written[row, parent].tolist(),
                    float(best[row, rank]),
                    None if covered is None else covered[row, parent],
                    closing is None or not bool(closing[row]) or bool(natural[row * width + parent]),
                )
            # Of the 2 K best at most K end, so K that go on are among them, where there are so many.
            scores, order = best.masked_fill(stops, _NEVER).sort(dim=1, descending=True, stable=True)
            scores, order = scores[:, : self.width], order[:, : self.width]
            parents, chosen = parents.gather(1, order), chosen.gather(1, order)
            kept = self._going(rows, scores[:, 0].tolist(), closing)
            if len(kept) < count:
                scores, parents, chosen, rows, written = (
                    part[kept] for part in (scores, parents, chosen, rows, written)
                )
                covered = None if covered is None else covered[kept]
            if not len(rows):
                return
            before = written.gather(1, parents.unsqueeze(-1).expand(-1, -1, length - 1))
            written = torch.cat([before, chosen.unsqueeze(-1)], dim=2)
            if covered is not None:
                covered = covered.gather(1, parents.unsqueeze(-1).expand(-1, -1, covered.shape[2]))
            state = select(state, (kept[:, None] * width + parents).flatten().to(device))
            symbols = chosen.flatten().to(device)

    def _going(self, rows: Tensor, best: list[float], closing: Tensor | None) -> Tensor:
        """The places of the rows that go on. Args: best, the score of each row's best hypothesis that goes on."""
        kept = []
        closes = [False] * len(best) if closing is None else closing.tolist()
        for place, (number, score) in enumerate(zip(rows.tolist(), best, strict=True)):
            if closes[place] or score == _NEVER:
                continue
            ended = self.ended[number]
            if len(ended) >= self.n_best:
                # Scores only fall and the divisor only grows, so this is the most that a longer one can reach.
                most = score / self._divisor(int(self.longest[number]) + 1)
                if ended[self.n_best - 1].score >= most:
                    continue
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
        del self.ended[row][self.width :]

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
        raise InputError(DIVERGED)
    return logits, sums


def _check_choice(values: Tensor) -> None:
    if bool((values == _NEVER).any()):
        raise InputError("every symbol is excluded: there is nothing left to choose; allow more symbols")


def _attention_of(state: Any) -> Tensor:
    weights = getattr(state, "attention", None)
    if not isinstance(weights, Tensor):
        raise InputError("coverage_penalty needs a model with attention: leave it at 0")
    return weights
