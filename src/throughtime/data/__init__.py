"""Readers of the formats people have, vocabularies, and the way from data to batches."""

from throughtime.data.assets import Assets
from throughtime.data.batch import IGNORE, Batch, count_targets
from throughtime.data.datasets import data_folder, find_dataset
from throughtime.data.streams import Streams, evaluation_windows
from throughtime.data.text import embedded_text, letters_only
from throughtime.data.vocabulary import KINDS, Decoder, Vocabulary

__all__ = [
    "IGNORE",
    "KINDS",
    "Assets",
    "Batch",
    "Decoder",
    "Streams",
    "Vocabulary",
    "count_targets",
    "data_folder",
    "embedded_text",
    "evaluation_windows",
    "find_dataset",
    "letters_only",
]
