"""Readers of the formats people have, vocabularies, and the way from a text to windows [T, B]."""

from throughtime.data.char import CharVocabulary
from throughtime.data.datasets import data_folder, find_dataset
from throughtime.data.evaluation import evaluation_windows
from throughtime.data.split import split_by_position
from throughtime.data.streams import IGNORE, Streams, Window
from throughtime.data.text import embedded_text, letters_only, read_text
from throughtime.data.vocabulary import KINDS, Decoder, Vocabulary

__all__ = [
    "IGNORE",
    "KINDS",
    "CharVocabulary",
    "Decoder",
    "Streams",
    "Vocabulary",
    "Window",
    "data_folder",
    "embedded_text",
    "evaluation_windows",
    "find_dataset",
    "letters_only",
    "read_text",
    "split_by_position",
]
