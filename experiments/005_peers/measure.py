"""Each system trains on the same conversations from the same weights, in every layout; a JSON file each.

    python -m experiments.005_peers.measure <folder> [--fast]

The yardstick is `reference`: plain transformers and torch.optim.AdamW, one batch a step, padded to its longest
conversation. A layout is how many conversations go into a micro-batch (the rest of the step is accumulated); for
`trl_bfd` it is packed rows, for `ours` the tokens of a packed row in contexts (0: a conversation a row).
"""

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import vicuna_lit
from experiments.benchmarks.train.job import DATA, TOKENIZER, Job, Trained, conversations

from . import masks

LAYOUTS = {
    "ours": (0, 1, 2, 4), "padded": (1, 2, 3, 6), "hf_flattening": (1, 2, 3, 6), "trl": (1, 2, 3, 6),
    "trl_padding_free": (2, 3, 6), "trl_bfd": (1, 2),
}  # fmt: skip
"""TRL advises against a padding-free micro-batch of one."""
SEEDS = (0, 1, 2)
FROZEN = 1e-30
"""A learning rate that moves no fp32 weight: what a system says the loss of the initial weights is."""
ARCHITECTURE = dict(hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True)  # fmt: skip
QUICKSTART = Path(vicuna_lit.__file__).parent / "quickstart"


def job(folder: Path, system: str, micro: int | None, seed: int, real: bool) -> Job:
    """18 real conversations of at most 512 tokens, 6 to a step; or the quickstart's, with its small vocabulary."""
    return Job(
        system, micro, context=512, per_step=6, steps=3, lr=1e-3, seed=seed, start=folder / f"start-{seed}",
        data=DATA if real else QUICKSTART / "conversations.jsonl",
        tokenizer=TOKENIZER if real else QUICKSTART / "tokenizer",
    )  # fmt: skip


def write_start(one: Job) -> None:
    """The initial weights of a seed, as a Hugging Face folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(one.seed)
    assert one.start
    size = len(AutoTokenizer.from_pretrained(one.tokenizer))
    LlamaForCausalLM(LlamaConfig(vocab_size=size, **ARCHITECTURE)).save_pretrained(one.start)  # pyright: ignore[reportArgumentType]


def reference(one: Job) -> Trained:
    """The truth: one padded batch a step, transformers' own loss, no trainer."""
    import torch
    from transformers import LlamaForCausalLM

    examples, trained = conversations(one), Trained()
    model: Any = LlamaForCausalLM.from_pretrained(one.start, dtype=torch.float32, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=one.lr, weight_decay=0.0)
    for first in range(0, len(examples), one.per_step):
        batch = examples[first : first + one.per_step]
        shape = (len(batch), max(len(e.input_ids) for e in batch))
        ids, mask, labels = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.full(shape, -100)
        for i, e in enumerate(batch):
            n = len(e.input_ids)
            ids[i, :n], labels[i, :n] = torch.from_numpy(e.input_ids.astype("int64")), torch.from_numpy(e.labels)
            mask[i, :n] = 1
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        trained.losses.append(loss.item())
        trained.supervised.append(int((labels[:, 1:] != -100).sum()))
        trained.row_tokens += ids.numel()
    trained.weights = model.state_dict()
    return trained


def loss_of_all(trained: Trained) -> float:
    """Nats per supervised token over all steps."""
    total = sum(loss * n for loss, n in zip(trained.losses, trained.supervised, strict=True))
    return total / sum(trained.supervised)


def compare(one: Job, truth: Trained, trained: Trained) -> dict[str, Any]:
    """What a system computed beside the truth; deviations are relative."""
    from safetensors.torch import load_file

    assert one.start
    start = load_file(one.start / "model.safetensors")
    names = [name for name in start if name in trained.weights]
    apart = sum(float((trained.weights[k] - truth.weights[k]).double().square().sum()) for k in names)
    moved = sum(float((truth.weights[k] - start[k]).double().square().sum()) for k in names)
    both = list(zip(trained.losses, truth.losses, strict=False))
    return {
        "system": one.system,
        "layout": one.micro,
        "seed": one.seed,
        "losses": trained.losses,
        "supervised_by_step": trained.supervised,
        "same_steps": trained.supervised == truth.supervised,
        "loss_deviation": max(abs(a / b - 1) for a, b in both),
        "weight_deviation": (apart / moved) ** 0.5,
        "computed_per_token": trained.row_tokens / sum(len(e.input_ids) for e in conversations(one)),
    }


def installed(system: str) -> bool:
    return not system.startswith("trl") or importlib.util.find_spec("trl") is not None


def measure(folder: Path, system: str, seeds: tuple[int, ...], layouts: slice, real: bool) -> None:
    """One system: every seed, every layout."""
    from experiments.benchmarks.train.worker import train

    for seed in seeds:
        base = job(folder, "reference", None, seed, real)
        if not (base.start and base.start.exists()):
            write_start(base)
        truth, at_start = reference(base), loss_of_all(reference(replace(base, lr=FROZEN)))
        densest = job(folder, system, LAYOUTS[system][-1], seed, real)
        frozen = loss_of_all(train(replace(densest, lr=FROZEN)))
        for micro in LAYOUTS[system][layouts]:
            one = job(folder, system, micro, seed, real)
            row = compare(one, truth, train(one)) | {"initial_loss_deviation": abs(frozen / at_start - 1)}
            (folder / f"{system}-{micro}-{seed}.json").write_text(json.dumps(row, indent=1))
            loss, weights = row["loss_deviation"], row["weight_deviation"]
            print(f"{system} {micro} {seed}: losses {loss:.1e}, weights {weights:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fast", action="store_true", help="the quickstart's conversations, one seed, two layouts")
    parser.add_argument("--systems", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="all, unless named")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (options.fast or DATA.exists()):
        sys.exit(f"{DATA}: the real conversations are not there; fast takes the quickstart's")
    for system in options.systems:
        if not installed(system):
            print(f"{system} is left out: pip install -c constraints.txt trl==1.16.0 datasets==5.2.0")
        elif options.fast:
            measure(folder, system, SEEDS[:1], slice(0, 4, 2), real=False)
        else:
            measure(folder, system, SEEDS, slice(None), real=True)
    if options.systems == list(LAYOUTS):
        masks.write(folder / "masks.json", real=not options.fast)


if __name__ == "__main__":
    main()
