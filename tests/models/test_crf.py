"""The CRF against a sum over all sequences of labels, in float64; its gradients; padding; what is not allowed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from throughtime.data import IGNORE
from throughtime.data.readers.spans import broken_tags, span_labels
from throughtime.errors import InputError
from throughtime.models.crf import CRF, Scored, best_labels
from throughtime.models.tagger import transitions_allowed

STEPS, SIZE, LABELS = 5, 5, 3  # T == B
LENGTHS = torch.tensor([5, 0, 1, 3, 4])


def crf_of(labels=LABELS, allowed=None):
    crf = CRF(labels, allowed).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(2 * torch.randn_like(parameter))
    return crf


def emissions_of(lengths=LENGTHS, labels=LABELS):
    """NaN in the padding."""
    values = 2 * torch.randn(STEPS, len(lengths), labels, dtype=torch.float64)
    return values.masked_fill((torch.arange(STEPS)[:, None] >= lengths).unsqueeze(-1), torch.nan)


def score(crf, emissions, path):
    """By hand, of one row's own steps [t, K]."""
    transitions, start, end = (each.detach() for each in crf.scores())
    total = start[path[0]] + end[path[-1]] + sum(emissions[t, label] for t, label in enumerate(path))
    return float(total + sum(transitions[a, b] for a, b in itertools.pairwise(path)))


def all_paths(crf, emissions, length, row):
    """Every sequence of labels of a row, with its score."""
    return {
        path: score(crf, emissions[:length, row], path)
        for path in itertools.product(range(crf.labels), repeat=length)
    }


def log_sum(scores):
    top = max(scores)
    return top + math.log(math.fsum(math.exp(each - top) for each in scores))


def not_allowed():
    """Nothing may follow label 1 but 2; 0 may not be last, 2 not first."""
    allowed = torch.ones(LABELS + 1, LABELS + 1, dtype=torch.bool)
    allowed[1, 0] = allowed[1, 1] = allowed[0, -1] = allowed[-1, 2] = False
    return allowed


@pytest.mark.parametrize("restricted", [False, True])
def test_likelihood_best_path_and_marginals_are_those_of_all_paths(restricted):
    crf, emissions = crf_of(allowed=not_allowed() if restricted else None), emissions_of()
    targets = crf.decode(torch.randn(STEPS, SIZE, LABELS))  # allowed, but not the best for these emissions
    targets = targets.gather(0, (torch.arange(STEPS)[:, None] + STEPS - LENGTHS).clamp(max=STEPS - 1))
    found = crf.log_likelihood(emissions, targets, LENGTHS)
    best, marginals = crf.decode(emissions, LENGTHS), crf.marginals(emissions, LENGTHS)
    finite = 0
    for row, length in enumerate(LENGTHS.tolist()):
        assert best[length:, row].tolist() == [IGNORE] * (STEPS - length)
        assert not marginals[length:, row].any()
        if length == 0:
            assert found[row].item() == 0
            continue
        paths = all_paths(crf, emissions, length, row)
        total = log_sum(list(paths.values()))
        own = paths[tuple(targets[:length, row].tolist())]
        assert found[row].item() == pytest.approx(own - total, abs=1e-12)
        finite += math.isfinite(own)
        assert tuple(best[:length, row].tolist()) == max(paths, key=paths.__getitem__)
        for t, label in itertools.product(range(length), range(LABELS)):
            chance = math.fsum(math.exp(s - total) for path, s in paths.items() if path[t] == label)
            assert marginals[t, row, label].item() == pytest.approx(chance, abs=1e-12)
    assert finite  # the comparison is not of infinities alone


def test_a_target_that_is_not_known_is_summed_over():
    crf, emissions = crf_of(allowed=not_allowed()), emissions_of()
    targets = torch.tensor([[1, 2, 0, 1, 2]] * SIZE).T.contiguous()
    targets[1], targets[4] = IGNORE, IGNORE
    targets[:, 3] = IGNORE  # nothing is known: probability 1
    found = crf.log_likelihood(emissions, targets, LENGTHS)
    assert found[3].item() == pytest.approx(0, abs=1e-12)
    for row in (0, 4):
        length = int(LENGTHS[row])
        paths = all_paths(crf, emissions, length, row)
        fitting = [
            s
            for path, s in paths.items()
            if all(targets[t, row] in (IGNORE, label) for t, label in enumerate(path))
        ]
        assert found[row].item() == pytest.approx(log_sum(fitting) - log_sum(list(paths.values())), abs=1e-12)


@pytest.mark.parametrize("case", ["all", "some targets", "restricted"])
def test_gradients_are_those_of_finite_differences(case):
    allowed = transitions_allowed(span_labels(["x"], "bio"), "bio") if case == "restricted" else None
    crf = crf_of(allowed=allowed)
    emissions = torch.randn(STEPS, SIZE, LABELS, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1, 2, 2, 0]]).T.expand(STEPS, SIZE).contiguous()
    if case == "some targets":
        targets[2] = IGNORE
    weights = torch.randn(SIZE, dtype=torch.float64)

    def loss(emissions, *parameters):
        names = [name for name, _ in crf.named_parameters()]
        return torch.func.functional_call(
            _Likelihood(crf), {f"crf.{name}": value for name, value in zip(names, parameters, strict=True)},
            (emissions, targets, weights),
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, (emissions, *crf.parameters()))


class _Likelihood(torch.nn.Module):
    def __init__(self, crf):
        super().__init__()
        self.crf = crf

    def forward(self, emissions, targets, weights):
        return (self.crf.log_likelihood(emissions, targets, LENGTHS) * weights).sum()


def test_padding_is_never_read_and_gets_no_gradient():
    crf = crf_of()
    emissions = emissions_of().requires_grad_()
    targets = torch.randint(LABELS, (STEPS, SIZE)).masked_fill(
        torch.arange(STEPS)[:, None] >= LENGTHS, IGNORE
    )
    (-crf.log_likelihood(emissions, targets, LENGTHS).sum()).backward()
    inside = torch.arange(STEPS)[:, None] < LENGTHS
    assert emissions.grad.isfinite().all() and not emissions.grad[~inside].any()
    assert emissions.grad[inside].abs().sum() > 0
    together = {name: parameter.grad.clone() for name, parameter in crf.named_parameters()}
    crf.zero_grad()
    for row, length in enumerate(LENGTHS.tolist()):  # each row alone
        if length:
            alone = crf.log_likelihood(
                emissions.detach()[:length, row : row + 1], targets[:length, row : row + 1]
            )
            (-alone.sum()).backward()
    for name, parameter in crf.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], atol=1e-12, rtol=0)


def test_what_is_not_allowed_is_never_predicted():
    tags = span_labels(["a", "b"], "bioes")
    crf = crf_of(len(tags), transitions_allowed(tags, "bioes"))
    emissions = 5 * torch.randn(STEPS, 200, len(tags), dtype=torch.float64)
    broken = [
        broken_tags([tags[label] for label in row], "bioes") for row in crf.decode(emissions).t().tolist()
    ]
    assert not any(broken)
    free = crf_of(len(tags))
    loose = [
        broken_tags([tags[label] for label in row], "bioes") for row in free.decode(emissions).t().tolist()
    ]
    assert any(loose)
    impossible = torch.full((STEPS, 200), tags.index("I-a"))
    likelihood = crf.log_likelihood(emissions, impossible)
    assert bool((likelihood == -math.inf).all())


def test_long_sequences_and_large_scores_stay_finite():
    crf = CRF(7)
    emissions = (100 * torch.randn(2000, 2, 7)).requires_grad_()
    targets = torch.randint(7, (2000, 2))
    likelihood = crf.log_likelihood(emissions, targets)
    likelihood.sum().backward()
    assert likelihood.isfinite().all() and emissions.grad.isfinite().all()
    # The gradient is the target less the marginals, and marginals sum to 1.
    torch.testing.assert_close(emissions.grad.sum(-1), torch.zeros(2000, 2), atol=2e-3, rtol=0)


def test_best_labels_with_and_without_a_crf():
    crf, emissions = crf_of(), emissions_of()
    torch.testing.assert_close(best_labels(Scored(emissions, crf), LENGTHS), crf.decode(emissions, LENGTHS))
    logits = torch.randn(STEPS, SIZE, LABELS)
    torch.testing.assert_close(best_labels(logits, None), logits.argmax(-1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CRF(0), "a CRF needs at least 1 label, got 0"),
        (lambda: CRF(3, torch.ones(3, 3, dtype=torch.bool)), r"allowed must be bool \[4, 4\]"),
        (lambda: CRF(3).decode(torch.zeros(2, 1, 4)), r"emissions must be \[T, B, 3\]"),
        (lambda: CRF(3).decode(torch.zeros(2, 1, 3), torch.tensor([3])), "lengths must be"),
        (lambda: CRF(3).log_likelihood(torch.zeros(2, 1, 3), torch.zeros(1, 2)), r"targets must be \[2, 1\]"),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
