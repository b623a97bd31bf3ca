"""Conversations full of code and conversations without any, in pairs of as many supervised tokens.

    python -m experiments.008_mixture.data <base> <folder> --train 8 --validation 6

Code: at least 30% of the characters of the replies stand in code fences. General: not one fence. Each code conversation
gets the general one that is nearest to it in supervised tokens. So any mixture of the two has as many of them.
Held out is who `data.validation_fraction` holds out, the same conversations for every seed.
"""

import argparse
import re
from pathlib import Path

import numpy as np

import vicuna_lit as vl
from experiments.sharegpt import joined
from vicuna_lit.records.conversation import Conversation, is_validation, trim, write_jsonl

FRACTION = 0.25
"""`data.validation_fraction` of run.sh."""
FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
SHORTEST, LONGEST = 100, 350
"""Tokens of a conversation."""
Sized = tuple[Conversation, int]
"""With its supervised tokens."""


def kind(conversation: Conversation) -> str | None:
    """`code`, `general`, or None: something between."""
    said = "".join(turn.content for turn in conversation.turns if turn.role == "assistant")
    if not any("```" in turn.content for turn in conversation.turns):
        return "general"
    return "code" if sum(map(len, FENCED.findall(said))) >= 0.3 * len(said) else None


def pools(encoder) -> dict[str, list[Sized]]:
    """Whole conversations of either kind that fit, in an order of their own."""
    found: dict[str, list[Sized]] = {"code": [], "general": []}
    for conversation in joined():
        whole, _ = trim(conversation)
        letters = sum(len(turn.content) for turn in conversation.turns)
        if not isinstance(whole, Conversation) or not 2 * SHORTEST < letters < 6 * LONGEST:
            continue
        (example,) = encoder.encode([whole])
        fits = hasattr(example, "input_ids") and SHORTEST <= len(example.input_ids) <= LONGEST
        if fits and (which := kind(whole)):
            found[which].append((whole, int(example.supervised.sum())))
    return {which: [own[i] for i in np.random.default_rng(0).permutation(len(own))] for which, own in found.items()}


def pairs(found: dict[str, list[Sized]], held_out: bool, count: int) -> list[tuple[Sized, Sized]]:
    """So many (code, general) from one side of the split, none twice."""
    code, general = ([c for c in found[k] if is_validation(c[0].split_key, FRACTION) == held_out] for k in found)
    out = []
    for one in code[:count]:
        nearest = min(range(len(general)), key=lambda i: abs(general[i][1] - one[1]))
        out.append((one, general.pop(nearest)))
    if len(out) < count:
        raise ValueError(f"only {len(out)} of {count} pairs")
    return out


def main() -> None:
    """Writes `code_<seed>.jsonl` and `general_<seed>.jsonl`; the held-out conversations stand in each of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("base", help="model folder, for its tokenizer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, required=True, help="conversations of each kind and seed")
    parser.add_argument("--validation", type=int, required=True, help="conversations of each kind")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if (given.folder / f"general_{given.seeds - 1}.jsonl").exists():
        return
    config = vl.load("train", "experiment=smollm2_ablation", f"model.path={given.base}", "data=quickstart")
    found = pools(vl.make_encoder(config))
    held = pairs(found, True, given.validation)
    train = pairs(found, False, given.seeds * given.train)
    given.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        own = [*train[seed * given.train : (seed + 1) * given.train], *held]
        for i, which in enumerate(found):
            write_jsonl([pair[i][0] for pair in own], given.folder / f"{which}_{seed}.jsonl")
    apart = np.mean([abs(code[1] - general[1]) for code, general in train])
    fit = ", ".join(f"{len(own):,} {which}" for which, own in found.items())
    print(f"{fit} fit; the supervised tokens of a pair differ by {apart:.1f}")


if __name__ == "__main__":
    main()
