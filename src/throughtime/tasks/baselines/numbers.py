"""Baselines for sequences of numbers and for frames, with scikit-learn; nothing in them knows of time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from throughtime.tasks.baselines.texts import _scores, require_scikit_learn

if TYPE_CHECKING:
    from torch import Tensor

MOST_SEQUENCES = 10_000  # that a support vector machine is trained on: its time grows with their square
MOST_NUMBERS = 4096  # of a sequence that it reads
MOST_FRAMES = 20_000  # that logistic regression is trained on


def summary_logistic(
    train: Sequence[Tensor], train_labels: Sequence[str], test: Sequence[Tensor], test_labels: Sequence[str]
) -> dict[str, float]:
    """Accuracy and macro-F1 of logistic regression on what can be said of sequences [t, D] without their order in time.

    Of each feature its mean, standard deviation, least, greatest, first and last value; and the number of steps. Scaled to
    deviation 1; scikit-learn's LogisticRegression with C = 1, nothing tuned.
    Raises: InputError without scikit-learn.
    """
    require_scikit_learn()
    return _scores(test_labels, _logistic(_summaries(train), train_labels, _summaries(test), 2000))


def pixels_svm(
    train: Sequence[Tensor], train_labels: Sequence[str], test: Sequence[Tensor], test_labels: Sequence[str]
) -> dict[str, float] | None:
    """Accuracy and macro-F1 of a support vector machine with an RBF kernel on all numbers of a sequence at once.

    None where sequences differ in length, have more than MOST_NUMBERS numbers, or more than MOST_SEQUENCES are for training.
    scikit-learn's SVC with C = 10 and its default width of the kernel, 1 / (numbers * their variance).
    Cost: the square of the sequences; about a minute of one core for 10,000 of 784 numbers.
    Raises: InputError without scikit-learn.
    """
    require_scikit_learn()
    if len({tuple(each.shape) for each in (*train, *test)}) > 1:
        return None
    if train[0].numel() > MOST_NUMBERS or len(train) > MOST_SEQUENCES:
        return None
    flat = [np.stack([each.numpy().reshape(-1) for each in part]) for part in (train, test)]
    machine = import_module("sklearn.svm").SVC(C=10.0, gamma="scale", cache_size=500)
    machine.fit(flat[0], list(train_labels))
    return _scores(test_labels, machine.predict(flat[1]).tolist())


def mfcc_svm(
    train: Sequence[Tensor], train_labels: Sequence[str], test: Sequence[Tensor], test_labels: Sequence[str]
) -> dict[str, float]:
    """Accuracy and macro-F1 of a support vector machine with an RBF kernel on what MFCC say of log-mel frames [t, mels].

    The first 13 coefficients of the cosine transform of each frame; of each its mean in each third of the recording, and its
    deviation. Scaled to deviation 1; scikit-learn's SVC with C = 10. At most MOST_SEQUENCES, evenly spaced, are trained on.
    Source: Davis & Mermelstein 1980, IEEE Transactions on Acoustics, Speech, and Signal Processing 28(4), for the MFCC.
    Raises: InputError without scikit-learn.
    """
    require_scikit_learn()
    mels = train[0].shape[1]
    angles = np.outer(np.arange(min(13, mels)), (np.arange(mels) + 0.5) * np.pi / mels)

    def summaries(recordings: Sequence[Tensor]) -> NDArray[np.float64]:
        rows = []
        for each in recordings:
            cepstra = each.double().numpy() @ np.cos(angles).T
            cuts = [len(cepstra) * part // 3 for part in range(4)]
            # A part of a recording of fewer than three frames is its nearest frame.
            thirds = [cepstra[start : max(stop, start + 1)].mean(0) for start, stop in pairwise(cuts)]
            rows.append(np.concatenate([*thirds, cepstra.std(0)]))
        return np.asarray(rows)

    every = -(-len(train) // MOST_SEQUENCES)
    machine = import_module("sklearn.pipeline").make_pipeline(
        import_module("sklearn.preprocessing").StandardScaler(),
        import_module("sklearn.svm").SVC(C=10.0, gamma="scale", cache_size=500),
    )
    machine.fit(summaries(train[::every]), list(train_labels[::every]))
    return _scores(test_labels, machine.predict(summaries(test)).tolist())


def frames_logistic(
    train: Sequence[Tensor], train_labels: Sequence[Sequence[int]], test: Sequence[Tensor], difference: bool
) -> list[NDArray[np.int64]]:
    """The classes that logistic regression gives to each frame of sequences [t, D]: of each frame alone, or with `difference`
    of it and what changed since the frame before it (nothing, at the first).

    At most MOST_FRAMES, evenly spaced, are trained on. scikit-learn's LogisticRegression with C = 1.
    Raises: InputError without scikit-learn.
    """
    require_scikit_learn()

    def seen(part: Sequence[Tensor]) -> NDArray[np.float32]:
        frames = [each.numpy() for each in part]
        if difference:
            frames = [np.hstack([each, np.diff(each, axis=0, prepend=each[:1])]) for each in frames]
        return np.concatenate(frames)

    labels = np.concatenate([np.asarray(each) for each in train_labels])
    every = -(-len(labels) // MOST_FRAMES)
    found = _logistic(seen(train)[::every], labels[::every].tolist(), seen(test), 200)
    return np.split(np.asarray(found), np.cumsum([len(each) for each in test])[:-1])


def _logistic(
    train: NDArray[np.float32], labels: Sequence[Any], test: NDArray[np.float32], iterations: int
) -> list[Any]:
    """The classes that logistic regression on scaled features predicts."""
    classifier = import_module("sklearn.pipeline").make_pipeline(
        import_module("sklearn.preprocessing").StandardScaler(),
        import_module("sklearn.linear_model").LogisticRegression(max_iter=iterations),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it has not quite converged it is as good as a baseline needs
        classifier.fit(train, list(labels))
    predicted: list[Any] = classifier.predict(test).tolist()
    return predicted


def _summaries(sequences: Sequence[Tensor]) -> NDArray[np.float32]:
    """[N, 6 D + 1]."""
    rows = []
    for each in sequences:
        x = each.numpy()
        parts = [x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1], np.array([len(x)])]
        rows.append(np.concatenate(parts))
    return np.asarray(rows, np.float32)
