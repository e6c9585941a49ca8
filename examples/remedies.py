"""Which remedies for a vanishing gradient learn the adding problem, from Python.

    python examples/remedies.py

A smaller edition of `throughtime compare remedies`: two lengths, three remedies, one of them your own.
"""

from throughtime.bench.table import plain
from throughtime.studies.remedies import REMEDIES, Remedy, Settings
from throughtime.studies.remedies_run import compare
from throughtime.studies.remedies_table import CAPTION, sentences, table


def main(settings: Settings) -> None:
    """Compare, and print what was found."""
    by_name = {remedy.name: remedy for remedy in REMEDIES}
    mine = Remedy("GRU, layer norm", {"cell": "gru", "layer_norm": True}, lr=1e-2)
    chosen = [by_name["RNN tanh"], by_name["GRU"], mine]
    comparison = compare(
        settings, chosen, jobs=1, progress=lambda share, last: print(f"{share:.0%}", end=" ", flush=True)
    )
    print(f"\n\n{plain(*table(comparison))}\n\n{CAPTION}\n")
    print("\n".join(sentences(comparison)))


if __name__ == "__main__":
    main(Settings(lengths=(10, 30), steps=400, seeds=1))
