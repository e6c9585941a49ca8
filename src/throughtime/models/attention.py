"""Attention: for each query, a weighted mean of what an encoder left behind."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from throughtime.errors import InputError, one_of

ATTENTIONS = ("none", "dot", "general", "additive")


class Memory(NamedTuple):
    """What attention reads, of B sources; several queries in a row can belong to one source, as in beam search."""

    outputs: Tensor  # [B, S, M], zero in the padding
    keys: Tensor  # [B, S, A], what queries are compared with
    padding: Tensor  # bool [B, S]
    sources: Tensor  # int64 [N], N rows: the source of each row, the rows of a source one behind another, equally many

    def select(self, rows: Tensor) -> Memory:
        """The memory for rows `rows` [N'] of the N rows. Nothing is copied where the sources stay the same."""
        of_row = self.sources[rows]
        sources, repeats = torch.unique_consecutive(of_row, return_counts=True)
        if len(repeats) and not bool((repeats == repeats[0]).all()):
            sources, repeats = of_row, torch.ones_like(of_row)
        count = int(repeats[0]) if len(repeats) else 1
        new = torch.arange(len(sources), device=rows.device).repeat_interleave(count)
        if len(sources) == len(self.outputs) and bool((sources == new[::count]).all()):
            return self._replace(sources=new)
        return Memory(self.outputs[sources], self.keys[sources], self.padding[sources], new)


class Attention(nn.Module):
    """Weights of each step of a memory for each query, and the mean of the memory under them.

        dot       score(q, m) = q . m                     needs query and memory of one size
        general   score(q, m) = q . W m                   multiplicative
        additive  score(q, m) = v . tanh(W q + U m)
        weights   a = softmax over the real steps of score;  context = sum_s a_s m_s

    Args: kind; query, memory: features of both. `remember` makes the memory once, with the keys W m or U m.
    Call: `attention(queries [T, N, Q], memory) -> (contexts [T, N, M], weights [T, N, S])`.
    Cost: T*N*S*M multiplications twice; additive computes T*N*S*Q hyperbolic tangents and holds them.
    Source: Luong, Pham & Manning 2015, EMNLP (dot, general); Bahdanau, Cho & Bengio 2015, ICLR (additive).
    """

    def __init__(self, kind: str, query: int, memory: int) -> None:
        super().__init__()
        self.kind = one_of("attention", kind, ATTENTIONS[1:])
        if kind == "dot" and query != memory:
            raise InputError(
                f"attention dot compares vectors of one size, got {query} features of the decoder and {memory} of the encoder: "
                "use general"
            )
        if kind != "dot":
            self.key = nn.Linear(memory, query, bias=False)
        if kind == "additive":
            self.query = nn.Linear(query, query)
            self.score = nn.Linear(query, 1, bias=False)

    def remember(self, outputs: Tensor, lengths: Tensor | None = None) -> Memory:
        """The memory of encoder outputs [S, B, M]; what stands behind a row's length is never read."""
        rows = outputs.transpose(0, 1)
        size, steps = rows.shape[:2]
        padding = torch.zeros(size, steps, dtype=torch.bool, device=rows.device)
        if lengths is not None:
            padding = torch.arange(steps, device=rows.device) >= lengths.to(rows.device)[:, None]
            rows = rows.masked_fill(padding.unsqueeze(-1), 0)
        keys = rows if self.kind == "dot" else self.key(rows)
        return Memory(rows.contiguous(), keys.contiguous(), padding, torch.arange(size, device=rows.device))

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Attend from all queries at once."""
        steps, rows, features = queries.shape
        sources, length = memory.padding.shape
        # [B, T * K, Q]: of each source all steps of its K rows.
        each = queries.view(steps, sources, -1, features).transpose(0, 1).reshape(sources, -1, features)
        if self.kind == "additive":
            hidden = self.query(each).unsqueeze(2) + memory.keys.unsqueeze(1)
            scores = self.score(hidden.tanh()).squeeze(-1)
        else:
            scores = each @ memory.keys.transpose(1, 2)
        weights = scores.masked_fill(memory.padding.unsqueeze(1), -torch.inf).softmax(-1)
        contexts = weights @ memory.outputs
        return (
            contexts.view(sources, steps, -1, contexts.shape[-1]).transpose(0, 1).reshape(steps, rows, -1),
            weights.view(sources, steps, -1, length).transpose(0, 1).reshape(steps, rows, length),
        )
