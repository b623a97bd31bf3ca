"""Run folders → results.csv → the table of the README and the figure.

python -m experiments.002_multi_turn_loss.report [--runs <folder>] [--output <folder>]
"""

from pathlib import Path

from experiments import ablation, tables

KEY, BASE = "train_on", "assistant_messages"
ORDER = ("assistant_messages", "last_assistant_message", "all_tokens", "single_turns")


def table(rows: list[tables.Row]) -> str:
    """A row for each mask; the validation loss is taken on all replies of whole conversations."""
    more = {
        "its first replies": lambda v: (
            ablation.signed(ablation.paired(rows, KEY, v, BASE, "turn/1")) if v != BASE else "–"
        ),
        "its third replies": lambda v: (
            ablation.signed(ablation.paired(rows, KEY, v, BASE, "turn/3")) if v != BASE else "–"
        ),
        "tokens": lambda v: ablation.count(rows, KEY, v, "tokens"),
        "supervised": lambda v: ablation.count(rows, KEY, v, "supervised_tokens"),
    }
    return ablation.table(rows, KEY, BASE, more, ORDER)


def figure(rows: list[tables.Row], file: Path) -> None:
    ablation.differences(rows, KEY, BASE, file, ORDER)


if __name__ == "__main__":
    tables.main(Path(__file__).parent, ablation.collect, table, figure)
