"""Memory and speed of the choices that let a run grow; writes results.json and prints the tables of the README.

    pip install -c constraints.txt -e '.[deepspeed]' && pip install "trl==1.16.0" "datasets==5.2.0"
    python experiments/benchmarks/scale/run.py            # all parts, about an hour and a half on 2 cores
    python experiments/benchmarks/scale/run.py attention  # one of them

What is compared runs in turn, in one process (step.py) or in one round (strategies); ratios are taken within a
round, and tables show medians.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHARED = HERE.parents[3] / "shared/data"
MIB = 2**20
SMALL = dict(hidden_size=256, intermediate_size=688, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4)
DEEP = dict(hidden_size=384, intermediate_size=1024, num_hidden_layers=12, num_attention_heads=6, num_key_value_heads=6)
Rounds = dict[str, Any]


def step(rounds: int, variants: dict[str, Any], context: int, vocabulary: int, **options: Any) -> Rounds:
    """step.py's figures: for every variant a list of rounds, or `out of memory`."""
    spec = {"variants": variants, "context": context, "vocabulary": vocabulary, "rounds": rounds, **options}
    return last_json([sys.executable, str(HERE / "step.py"), json.dumps(spec)])


def last_json(command: list[str], **environment: str) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return json.loads(lines[-1])


def median(rounds: list[dict[str, float]], key: str) -> float:
    return statistics.median(r[key] for r in rounds)


def ratio(a: Any, b: Any, key: str) -> str:
    """The median over rounds of a / b."""
    if isinstance(a, str) or isinstance(b, str):
        return "–"
    return f"{statistics.median(x[key] / y[key] for x, y in zip(a, b, strict=True)):.2f}"


def cells(rounds: Any) -> list[str]:
    if isinstance(rounds, str):
        return [rounds, "–"]
    return [f"{median(rounds, 'seconds'):.2f}", f"{median(rounds, 'bytes') / MIB:,.0f}"]


def table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def head(rounds: int, quick: bool) -> Any:
    """Context × vocabulary: ours, transformers' loss, TRL's."""
    sizes = [*itertools.product((32000, 128000), (512, 2048, 4096)), (32000, 16384), (128000, 16384)]
    systems = {"ours": {}, "hf": {"peer": "hf"}} | ({} if quick else {"trl": {"peer": "trl"}})
    found, rows = {}, []
    for vocabulary, context in [(1000, 256)] if quick else sizes:
        fits = context * vocabulary < 4e8  # beyond, a peer's step takes minutes, or more memory than this machine has
        one = step(rounds, systems if fits else {"ours": {}}, context, vocabulary, architecture=SMALL)
        one = dict.fromkeys(systems, "not run") | one
        alone = step(rounds, {"ours": {}}, context, vocabulary, architecture=SMALL | {"num_hidden_layers": 0})["ours"]
        found[f"{context}x{vocabulary}"] = one | {"head alone": alone}
        print(f"{context} × {vocabulary}: done", file=sys.stderr, flush=True)
        peers = []
        for name in list(systems)[1:]:
            against = [ratio(one["ours"], one[name], key) for key in ("seconds", "bytes")]
            peers += [*cells(one[name]), *against]
        full = context * vocabulary * 4 / MIB
        rows.append([f"{context:,}", f"{vocabulary:,}", f"{full:,.0f}", cells(alone)[1], *cells(one["ours"]), *peers])
    columns = ["context", "vocabulary", "full logits, MiB", "head alone, MiB", "ours, s", "MiB"]
    for name in systems:
        columns += [] if name == "ours" else [f"{name}, s", "MiB", "time, ours / it", "memory, ours / it"]
    table(columns, rows)
    return found


def compared(rounds: int, variants: dict[str, Any], first: str, **options: Any) -> tuple[Rounds, list[list[str]]]:
    """Every variant against the first one."""
    one = step(rounds, variants, **options)
    rows = [
        [name, *cells(one[name]), ratio(one[name], one[first], "seconds"), ratio(one[name], one[first], "bytes")]
        for name in variants
    ]
    return one, rows


def attention(rounds: int, quick: bool) -> Any:
    """One call per conversation against one mask over the row."""
    kinds = {kind: {"attention": kind} for kind in ("sdpa_mask", "sdpa_per_conversation")}
    found, rows = {}, []
    for context, conversations in ((256, 2),) if quick else ((2048, 4), (4096, 8), (8192, 8), (8192, 1)):
        options = dict(context=context, vocabulary=1000, conversations=conversations, architecture=DEEP)
        one, its = compared(rounds, kinds, "sdpa_mask", **options)
        found[f"{conversations} of {context // conversations}"] = one
        rows += [[f"{conversations} × {context // conversations:,}", *row] for row in its]
    table(["conversations", "attention", "s", "MiB", "time / sdpa_mask", "memory / sdpa_mask"], rows)
    return found


def checkpointing(rounds: int, quick: bool) -> Any:
    """What is kept, recomputed or offloaded; on a CPU, offloading moves nothing."""
    modes = {m: {"gradient_checkpointing": m} for m in ("none", "full", "every_2", "every_4", "attention")}
    variants = modes if quick else modes | {"compile": {"compile": True}}
    options = dict(context=256 if quick else 4096, vocabulary=1000, conversations=2, architecture=DEEP)
    one, rows = compared(rounds, variants, "none", **options)
    table(["checkpointing", "s", "MiB", "time / none", "memory / none"], rows)
    return one


def strategies(rounds: int, quick: bool) -> Any:
    """The real job: one process on one core and on two, and every strategy with two processes."""
    two = ["ddp", "fsdp", "fsdp_offload", "zero1", "zero2", "zero3", "zero3_offload"]
    jobs = [("single", 1, "1"), ("single", 1, "2"), *((name, 2, "1") for name in two)]
    jobs = [jobs[0], jobs[2]] if quick else jobs
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for strategy, processes, threads in jobs:
            name = f"{strategy}, {processes} × {threads} core{'s' * (threads != '1')}"
            found.setdefault(name, []).append(train(strategy, processes, threads, quick))
            print(f"{name}: {found[name][-1]['supervised_tokens_per_second']:,.0f}", file=sys.stderr, flush=True)
    base = next(iter(found.values()))
    rows = []
    for name, runs in found.items():
        speed, memory = (median(runs, key) for key in ("supervised_tokens_per_second", "peak_memory_bytes"))
        times = ratio(runs, base, "supervised_tokens_per_second")
        rows.append([name, f"{speed:,.0f}", times, f"{memory / MIB:,.0f}"])
    table(["strategy", "supervised tokens/s", "times one core", "peak memory of a process, MiB"], rows)
    return found


def train(strategy: str, processes: int, threads: str, quick: bool) -> dict[str, float]:
    """A short run; its `result.json`."""
    data = [
        f"data={SHARED / 'conversations/sharegpt_v3_random_a.json'}",
        f"model.tokenizer={SHARED / 'tokenizers/llama'}",
    ]
    fields = ", ".join(f"{k}: {v}" for k, v in (SMALL if quick else DEEP | {"max_position_embeddings": 2048}).items())
    size = ["context_length=2048", "tokens_per_device=2048", "conversations_per_step=6", "trainer.max_steps=4"]
    with tempfile.TemporaryDirectory() as folder:
        task = [
            "vicuna_lit.train", f"strategy={strategy}", f"model.architecture={{{fields}}}",
            "data.validation_fraction=0",
            "samples.questions=[]", "wandb.mode=disabled", f"run.dir={folder}/run",
            *(["trainer.max_steps=2"] if quick else [*data, *size]),
        ]  # fmt: skip
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, "-m", *(torchrun if processes > 1 else []), *task]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": threads})
        return json.loads((Path(folder) / "run" / "result.json").read_text())


def export(rounds: int, quick: bool) -> Any:
    """Saving, reading back and exporting growing models on two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    stages, found, rows = ("save", "restore", "export"), {}, []
    for layers in (1,) if quick else (1, 8, 40):
        runs = [last_json([*torchrun, str(HERE / "export.py"), str(layers)]) for _ in range(rounds)]
        found[f"{layers} layers"] = runs
        parts = {name: [r[name] for r in runs] for name in stages}
        above = [f"{median(part, 'bytes_above_shard') / MIB:,.0f}" for part in parts.values()]
        seconds = [f"{median(part, 'seconds'):.1f}" for part in parts.values()]
        rows.append([f"{runs[0]['parameters'] / 1e6:,.0f}M", f"{runs[0]['bytes'] / 2**30:.1f}", *above, *seconds])
    columns = ["parameters", "fp32, GiB"]
    columns += [f"{name}: MiB above the shard" for name in stages] + [f"{name}, s" for name in stages]
    table(columns, rows)
    return found


PARTS: dict[str, Callable[[int, bool], Any]] = {
    f.__name__: f for f in (head, attention, checkpointing, strategies, export)
}


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="sizes that only show that it runs; writes nothing")
    arguments = parser.parse_args()
    file = HERE / "results.json"
    for name in arguments.parts:
        print(f"\n## {name}\n", flush=True)
        found = PARTS[name](arguments.rounds, arguments.quick)
        if not arguments.quick:
            results = json.loads(file.read_text()) if file.exists() else {}
            file.write_text(json.dumps(results | {name: found}, indent=1))


if __name__ == "__main__":
    main()
