"""Which text a language model reads, and how. Imports no torch, so that a help text can read the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from throughtime.errors import InputError, one_of

TOKENS = ("char", "word", "bpe")
NORMALIZE = ("none", "lower", "letters")
SAMPLINGS = ("sequential", "random")


@dataclass(frozen=True)
class TextConfig:
    """The data of a language model.

    Raises: InputError, on one line, for a value that cannot be used.
    """

    section: ClassVar[str] = "text"

    data: tuple[str, ...] = ()
    """UTF-8 files, read one after the other; none: the English reference that Python carries."""
    tokens: str = "char"
    vocab_size: int | None = None
    """Symbols at most; None: all characters, 10,000 words, 2,000 byte pairs."""
    normalize: str = "none"
    """"lower" makes lower case; "letters" also keeps nothing but letters and single spaces, as the course does."""
    limit: int | None = None
    """Use the first so many symbols of the normalised text; the vocabulary is still that of all of it."""
    validation: float = 0.1
    """Share of the symbols, the last ones, to validate with; 0: none."""
    sampling: str = "sequential"
    """"sequential": windows follow each other and the state is carried; "random": shuffled, each from nothing."""

    def __post_init__(self) -> None:
        one_of("tokens", self.tokens, TOKENS)
        one_of("normalize", self.normalize, NORMALIZE)
        one_of("sampling", self.sampling, SAMPLINGS)
        object.__setattr__(self, "data", tuple(str(path) for path in self.data))
        for name in ("vocab_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.validation < 1:
            raise InputError(f"validation must be a share from 0 up to 1, got {self.validation}")
