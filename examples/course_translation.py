"""The English-to-French experiment of a well-known course, with its settings and its own BLEU.

    python examples/course_translation.py fra.txt [SEED ...]

The first 600 pairs of Tatoeba's English and French sentences (manythings.org/anki, LINE: english TAB french), in lower case with
punctuation marks apart; words that occur at least twice, ten symbols of a sentence; GRU of 2 x 32 units on both sides, embedding
32, dropout 0.1, no attention; Adam at 0.005, batch 64, norm clip 1, 300 epochs. It trains on all of them and translates four of
them: a test of memory, not of translation.

Prints, for each seed, the training loss for each symbol in nats, also divided by ten as the course has it (which averages over
the ten steps of a sentence first, and then divides by the symbols), and the BLEU with k = 2 of the four sentences:

    exp(min(0, 1 - len_label / len_translation)) prod_n p_n^(1 / 2^n),  n = 1 .. k

Source: Zhang, Lipton, Li & Smola, Dive into Deep Learning, section 10.7 (published: loss 0.019, BLEU 1.000, 1.000, 0.658, 0.447).
"""

import math
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import throughtime as tt
from throughtime.tasks import TranslateTask

SENTENCES = {
    "go .": "va !",
    "i lost .": "j'ai perdu .",
    "he's calm .": "il est calme .",
    "i'm home .": "je suis chez moi .",
}


def prepared(text: str) -> str:
    """The first 600 pairs in lower case, with a space before each mark."""
    lines = re.sub("[\u202f\u00a0]", " ", text).lower().splitlines()[:600]
    return "".join(re.sub(r"(?<=[^ ])([,.!?])", r" \1", line) + "\n" for line in lines)


def bleu(translation: str, label: str, k: int = 2) -> float:
    """The course's BLEU of one sentence."""
    found, expected = translation.split(), label.split()
    if not found:
        return 0.0
    score = math.exp(min(0.0, 1 - len(expected) / len(found)))
    for n in range(1, min(k, len(found)) + 1):
        grams = [
            Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for words in (found, expected)
        ]
        score *= ((grams[0] & grams[1]).total() / (len(found) - n + 1)) ** (0.5**n)
    return score


def run(file: str, seed: int) -> None:
    """Train with one seed, and print what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.tsv"
        pairs.write_text(prepared(Path(file).read_text(encoding="utf-8")), encoding="utf-8")
        task = TranslateTask(
            data=(str(pairs),),
            tokens="space",
            min_count=2,
            length=9,
            validation=0,
            test=0,
            attention="none",
            beam=1,
        )
        model = tt.ModelConfig(cell="gru", hidden=32, layers=2, embedding=32, dropout=0.1, init="xavier")
        training = tt.TrainingConfig(
            bptt="full", optimizer="adam", lr=0.005, schedule="constant", clip="norm:1", batch=64, epochs=300,
            keep="last", seed=seed,
        )  # fmt: skip
        task, made = tt.start_run(task, model, training, Path(folder) / "run")
        result = tt.train(task, training, made)
        trained = tt.load(made.path)
        sizes = [len(trained.assets.vocabularies[side]) + 2 for side in ("source", "target")]
        print(
            f"seed {seed}: {sizes[0]} source and {sizes[1]} target symbols; loss {result.loss:.3f}, {result.loss / 10:.3f}"
        )
        for source, label in SENTENCES.items():
            translation = trained.predict(source)["translation"]
            print(f"  {source} => {translation}, bleu {bleu(translation, label):.3f}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/course_translation.py fra.txt [SEED ...]")
    for number in map(int, sys.argv[2:] or ["0"]):
        run(sys.argv[1], number)
