"""Which remedies for a vanishing gradient learn the adding problem, from Python.

    python examples/remedies.py

A short version of `throughtime compare remedies`: two lengths, three remedies, one of them your own.
"""

from throughtime.bench.table import plain
from throughtime.studies.remedies import REMEDIES, Remedy, RemedySettings, compare_remedies
from throughtime.studies.remedies_report import LEGEND, sentences, table


def main(settings: RemedySettings) -> None:
    """Compare, and print the table and its conclusions."""
    by_name = {remedy.name: remedy for remedy in REMEDIES}
    mine = Remedy("GRU, layer norm", {"cell": "gru", "layer_norm": True}, lr=1e-2)
    chosen = [by_name["RNN tanh"], by_name["GRU"], mine]
    comparison = compare_remedies(
        settings, chosen, jobs=1, progress=lambda fraction, text: print(f"{fraction:.0%} {text}", flush=True)
    )
    print(f"\n{plain(*table(comparison))}\n\n{LEGEND}\n")
    print("\n".join(sentences(comparison)))


if __name__ == "__main__":
    main(RemedySettings(lengths=(10, 30), steps=400, seeds=1))
