"""The same dump raw, cleaned, and cleaned without near-duplicates; training sets drawn from each in the same order.

    python -m experiments.003_data_cleaning.data <dump> <folder> --train 28 --validation 14 [--base <model folder>]

A conversation's place in the draw follows from its id alone. So the three sets hold the same conversations but for
those that cleaning dropped or changed, whose places go to the next ones. Held out are conversations that survive all.
"""

import argparse
import hashlib
import json
from pathlib import Path

import vicuna_lit as vl
from vicuna_lit.records.conversation import Conversation, trim, write_jsonl
from vicuna_lit.records.readers import read

STEPS = ("html", "filters", "personal_data", "language", "decontamination", "dedup")
LEVELS = {"raw": STEPS, "cleaned": ("dedup",), "deduplicated": ()}
"""What is left out of `vicuna-prepare` at each level."""


def prepare(dump: str, folder: Path, left_out: tuple[str, ...]) -> None:
    """All records of the dump at one level of cleaning; nothing is held out or cut here."""
    off = [f"{step}.enabled=false" for step in left_out]
    config = vl.load("prepare", f"raw={dump}", f"run.dir={folder}", "validation_fraction=0", "cut.enabled=false", *off)
    vl.prepare_data(config)


def place(conversation: Conversation, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {conversation.id}".encode()).digest()


def usable(file: Path, encoder) -> list[Conversation]:
    """Whole conversations that fit: of 64 to 1,024 tokens, two exchanges or more."""
    out = []
    for record in read(file):
        whole = trim(record)[0] if isinstance(record, Conversation) else record
        if isinstance(whole, Conversation) and sum(len(t.content) for t in whole.turns) < 6000:
            (example,) = encoder.encode([whole])
            fits = hasattr(example, "input_ids") and 64 <= len(example.input_ids) <= 1024
            if fits and sum(t.role == "assistant" for t in whole.turns) >= 2:
                out.append(whole)
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dump")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, required=True)
    parser.add_argument("--validation", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", help="model folder, for its tokenizer; without: the quickstart's")
    given = parser.parse_args()
    if (given.folder / "validation.jsonl").exists():
        return
    of_base = ["experiment=smollm2_ablation", f"model.path={given.base}", "data=quickstart"] if given.base else []
    encoder = vl.make_encoder(vl.load("train", *of_base))
    pools: dict[str, list[Conversation]] = {}
    for level, left_out in LEVELS.items():
        prepare(given.dump, given.folder / level, left_out)
        pools[level] = usable(given.folder / level / "train.jsonl", encoder)
    everywhere = set.intersection(*({c.id for c in pool} for pool in pools.values()))
    kept = [c for c in pools["deduplicated"] if c.id in everywhere]
    validation = sorted(kept, key=lambda c: place(c, -1))[: given.validation]
    apart = {c.id for c in validation}
    shares: dict[str, list[int]] = {}
    for seed in range(given.seeds):
        drawn = {
            level: sorted((c for c in pool if c.id not in apart), key=lambda c: place(c, seed))[: given.train]
            for level, pool in pools.items()
        }
        for level, chosen in drawn.items():
            write_jsonl(chosen, given.folder / f"{level}_{seed}.jsonl")
            shares.setdefault(level, []).append(len(set(chosen) - set(drawn["raw"])))
    write_jsonl(validation, given.folder / "validation.jsonl")
    counts = {level: len(pool) for level, pool in pools.items()}
    (given.folder / "counts.json").write_text(json.dumps({"usable": counts, "unlike raw": shares}, indent=1))


if __name__ == "__main__":
    main()
