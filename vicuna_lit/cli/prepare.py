"""`vicuna-prepare`: see `vicuna-prepare --help`.

Imports at the top are those of a few milliseconds: a signal that comes before the command listens kills it.
"""

from pathlib import Path
from typing import Any

from vicuna_lit.cli.stops import stops_in_one_line


def main() -> None:
    """The command."""
    with stops_in_one_line():
        from vicuna_lit.cli import app as cli

        cli.main("prepare", _run)


def _run(config: Any) -> int:
    from vicuna_lit.cli import app as cli
    from vicuna_lit.prepare.run import prepare_data

    def job() -> None:
        show(prepare_data(config))
        if config.review:
            _review(Path(config.run.dir))

    return cli.guarded(job, config.run.dir)


def _review(folder: Path) -> None:
    """Asks a person, and prints the precision of each rule."""
    from rich.table import Table

    from vicuna_lit import notebook
    from vicuna_lit.cli.review import review

    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for heading in ("rule", "hits", "judged", "right", "precision", "95%"):
        table.add_column(heading, justify="left" if heading == "rule" else "right")
    for figure in review(folder):
        told = "–" if figure.precision is None else f"{figure.precision:.0%}"
        interval = "–" if figure.low is None else f"{figure.low:.0%}–{figure.high:.0%}"
        table.add_row(figure.rule, *(f"{n:,}" for n in (figure.hits, figure.judged, figure.right)), told, interval)
    notebook.console().print(table, markup=False, highlight=False)
    print(
        f"  {folder / 'review.jsonl'}  the hits, with raw texts: keep it to yourself; a verdict is y, n, skip or null"
    )
    print(f"  {folder / 'card.html'}  has these figures; the same command goes on")


def show(prepared: Any) -> None:
    """Prints what every step did, and where everything lies."""
    from rich.table import Table

    from vicuna_lit import notebook
    from vicuna_lit.pages import counted

    console, manifest, folder = notebook.console(), prepared.manifest, Path(prepared.run_dir)
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for heading in ("step", "in", "kept", "rejected", "changed"):
        table.add_column(heading, justify="right" if heading in ("in", "kept") else "left")
    for step in manifest["steps"]:
        lists = (", ".join(counted(n, reason) for reason, n in step[key].items()) for key in ("rejected", "changes"))
        table.add_row(step["step"], f"{step['in']:,}", f"{step['kept']:,}", *lists)
    console.print(table, markup=False, highlight=False)
    train, validation = manifest["sets"]["train"], manifest["sets"]["validation"]
    tokens = (
        f", {counted(train['tokens'], 'tokens')} ({train['supervised_tokens']:,} supervised)" if train["tokens"] else ""
    )
    seconds = f" in {prepared.seconds:.1f} s" if prepared.seconds else " (already prepared)"
    print(
        f"{counted(manifest['records_in'], 'records')} → {manifest['records_kept']:,} kept, "
        f"{manifest['records_rejected']:,} rejected{seconds}; train {counted(train['conversations'], 'conversations')} "
        f"as {counted(train['pieces'], 'lines')}{tokens}, held out {validation['conversations']:,}"
    )
    for name, own in manifest.get("sources", {}).items():
        lost = {winner: sum(reasons.values()) for winner, reasons in own["lost_to"].items()}
        copies = ", ".join(f"{counted(n, 'copies')} of {'its own' if who == name else who}" for who, n in lost.items())
        said = f"  {name}: {counted(own['records_in'], 'records')} → {own['records_kept']:,} kept"
        print(said + (f"; left out are {copies}" if copies else ""))
    if train["tokens"] is None:
        print("  not cut to a context: no tokenizer was given; vicuna-train cuts to its own")
    for name, what in {
        "train.jsonl": "and validation.jsonl: vicuna-train … data=" + str(folder),
        "rejected.jsonl": "every record that was dropped: step, reason, detail",
        "paraphrases.jsonl": "turns that ask an evaluation question in other words; they stay",
        "manifest.json": "counts, hashes, versions, config",
        "card.html": "the same as a page, with examples",
    }.items():
        if (folder / name).exists() and (folder / name).stat().st_size:  # an empty list says nothing
            print(f"  {folder / name}  {what}")


if __name__ == "__main__":
    main()
