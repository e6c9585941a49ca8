"""Heads whose output at each step is a set: which of N notes sound together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.data.batch import IGNORE


class IndependentNotes(nn.Module):
    """Each note sounds or not, independently of the others given the hidden state: P(v_i = 1) = sigmoid(w_i h + b_i).

    Args: features, of h; notes, N.
    Cost: features * N multiplications for each step.
    """

    def __init__(self, features: int, notes: int) -> None:
        super().__init__()
        self.notes = notes
        self.linear = nn.Linear(features, notes)

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log P of the sets, nats [...], 0 where a set is masked: hidden [..., H], targets [..., N] of 0, 1 or IGNORE."""
        rows, kept, wanted = _counted(hidden, targets)
        losses = F.binary_cross_entropy_with_logits(self.linear(rows), wanted, reduction="none").sum(-1)
        return _placed(losses, kept)

    def sample(
        self, hidden: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """A set for each row, bool [..., N], of hidden [..., H]; temperature 0: the likeliest set. Drawn on the CPU."""
        return _drawn(self.linear(hidden), temperature, generator)


class ChainedNotes(nn.Module):
    """Notes that know those before them in the chain: a NADE whose biases come from the hidden state.

        P(v_1 .. v_N) = prod_i P(v_i | v_<i),   P(v_i = 1 | v_<i) = sigmoid(b_i + V_i a_i)
        a_i = relu(c + sum_{j<i} v_j W_j),   b = B h + b_0,   c = C h + c_0

    The chain goes from the highest note to the lowest. a_i changes only behind a note that sounds, so all N conditionals of a
    step with K notes follow from K + 1 vectors, and those of all steps are computed at once, exactly.
    Args: features, of h; notes, N; units, of a.
    Cost: for each step (K + 1) * units * N multiplications, where K is the most notes of any step in the batch, and memory for
    (K + 1) * (units + N) numbers.
    Source: Larochelle & Murray 2011 (AISTATS) for NADE, Boulanger-Lewandowski et al. 2012 (ICML) for RNN-NADE; they take a
    sigmoid where this has a ReLU.
    """

    def __init__(self, features: int, notes: int, units: int) -> None:
        super().__init__()
        self.notes = notes
        self.bias = nn.Linear(features, notes)
        self.hidden_bias = nn.Linear(features, units)
        self.before = nn.Parameter(torch.empty(notes, units).uniform_(-1, 1) / units**0.5)  # W
        self.after = nn.Parameter(torch.empty(notes, units).uniform_(-1, 1) / units**0.5)  # V

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log P of the sets, nats [...], 0 where a set is masked: hidden [..., H], targets [..., N] of 0, 1 or IGNORE."""
        rows, kept, wanted = _counted(hidden, targets)
        on = wanted.flip(-1) > 0  # [F, N] in the order of the chain
        count = on.long().cumsum(-1)
        most = int(count[:, -1].max()) if len(on) else 0
        # The notes that sound, the first of the chain first, and N where a set has fewer: that one's W is zero.
        places = torch.full((len(on), most), self.notes, device=on.device)
        row, note = on.nonzero(as_tuple=True)
        places[row, count[row, note] - 1] = note
        weights = F.pad(self.before, (0, 0, 0, 1))
        added = F.embedding(places, weights).cumsum(1)  # [F, K, units]
        vectors = self.hidden_bias(rows).unsqueeze(1) + F.pad(added, (0, 0, 1, 0))
        every = F.relu(vectors) @ self.after.t()  # [F, K + 1, N]
        chosen = every.gather(1, (count - on.long()).unsqueeze(1)).squeeze(1)
        logits = chosen + self.bias(rows).flip(-1)
        losses = F.binary_cross_entropy_with_logits(logits, on.to(logits.dtype), reduction="none").sum(-1)
        return _placed(losses, kept)

    def sample(
        self, hidden: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """A set for each row, bool [..., N], of hidden [..., H], drawn note by note on the CPU.

        Temperature 0 takes the likelier value of each note given those before it, which need not be the likeliest set.
        """
        bias, vectors = self.bias(hidden), self.hidden_bias(hidden)
        found = torch.zeros(bias.shape, dtype=torch.bool, device=bias.device)
        for place in range(self.notes):
            note = self.notes - 1 - place
            logits = bias[..., note] + F.relu(vectors) @ self.after[place]
            found[..., note] = on = _drawn(logits, temperature, generator).to(bias.device)
            vectors = vectors + on.to(vectors.dtype).unsqueeze(-1) * self.before[place]
        return found


def _counted(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The hidden states [F, H] of the sets that are not masked, where those are [...], and the sets, real numbers [F, N]."""
    kept = targets[..., 0] != IGNORE
    return hidden[kept], kept, targets[kept].to(hidden.dtype)


def _placed(losses: Tensor, kept: Tensor) -> Tensor:
    return losses.new_zeros(kept.shape).masked_scatter(kept, losses)


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    logits = logits.detach().cpu().double()
    if temperature == 0:
        return logits > 0
    return (
        torch.rand(logits.shape, generator=generator, dtype=torch.float64) < (logits / temperature).sigmoid()
    )
