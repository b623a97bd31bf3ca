"""The same interruptions for this project and for transformers' Trainer with `resume_from_checkpoint`.

    python -m experiments.spot.against_trainer --seed 0 --interruptions 16

Both train the same small LLaMA on the quickstart's conversations for 20 steps of 8, on one process, with a checkpoint
every 3 steps. Trainer is used as its documentation says: resume from the newest checkpoint if there is one.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from experiments.spot.simulate import Outcome, mismatches, of_trainer, random_trace, simulate

STEPS, BATCH, EVERY = 20, 8, 3
COMMON = [
    "experiment=quickstart", f"conversations_per_step={BATCH}", f"trainer.max_steps={STEPS}", "samples.questions=[]",
    f"checkpoint.every_steps={EVERY}", "validation.every_steps=2", "wandb.mode=disabled", "data.max_conversations=200",
    "data.max_validation=4",
]  # fmt: skip


def train_with_trainer(folder: Path) -> None:
    """One start; writes the rows and times that the simulator looks at."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    from vicuna_lit.config.compose import load
    from vicuna_lit.data.datamodule import ConversationDataModule
    from vicuna_lit.data.tokenizer import make_encoder
    from vicuna_lit.models.causal_lm import build_model

    logging.set_verbosity_error()
    config = load("train", *COMMON)
    encoder = make_encoder(config)
    data = ConversationDataModule(config, encoder)
    data.setup()
    torch.manual_seed(0)
    model = build_model(config, encoder)
    model.set_attn_implementation("sdpa")
    folder.mkdir(parents=True, exist_ok=True)
    pad: int = encoder.tokenizer.eos_token_id

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(data.train)

        def __getitem__(self, i: int) -> dict[str, Any]:
            example = data.train[i]
            return {"index": i, "input_ids": torch.tensor(example.input_ids.astype("int64")),
                    "labels": torch.tensor(example.labels.astype("int64"))}  # fmt: skip

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        def padded(key: str, value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([r[key] for r in rows], True, value)

        ids = padded("input_ids", pad)
        lengths = torch.tensor([len(r["input_ids"]) for r in rows])
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        return {"input_ids": ids, "labels": padded("labels", -100), "attention_mask": mask.long(),
                "index": torch.tensor([r["index"] for r in rows])}  # fmt: skip

    class Recording(Trainer):
        seen: tuple[int, ...] = ()

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.seen = tuple(sorted(inputs.pop("index").tolist()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    class Rowing(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            append(folder / "times.csv", ["life", "step", "what"], [1, state.global_step, "start", 0, time.time()])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            ledger = hashlib.sha256(repr(trainer.seen).encode()).hexdigest()[:16]
            append(folder / "metrics.csv", ["step", "hash"], [state.global_step, ledger])

    arguments = TrainingArguments(
        str(folder / "checkpoints"), per_device_train_batch_size=BATCH, max_steps=STEPS, save_steps=EVERY,
        save_total_limit=3, use_cpu=True, report_to=[], learning_rate=1e-3, remove_unused_columns=False,
        logging_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = Recording(model, arguments, train_dataset=Rows(), data_collator=collate, callbacks=[Rowing()])
    trainer.train(resume_from_checkpoint=bool(of_trainer(folder)) or None)
    trainer.save_model(str(folder / "hf"))


def append(file: Path, head: list[str], row: list[Any]) -> None:
    """Adds a row, in one write."""
    lines = "" if file.exists() else ",".join(head) + "\n"
    with file.open("a") as stream:
        stream.write(lines + ",".join(map(str, row)) + "\n")


def judge_trainer(folder: Path, reference: Path) -> dict[str, Any]:
    """What became of its steps: the last time that each was taken counts."""
    rows, alone = ([*csv.DictReader((f / "metrics.csv").open())] for f in (folder, reference))
    ours, theirs = ({int(r["step"]): r["hash"] for r in table} for table in (rows, alone))
    weights, expected = (load_file(f / "hf" / "model.safetensors") for f in (folder, reference))
    return {
        "steps with other conversations": sum(ours.get(step) != ledger for step, ledger in theirs.items()),
        "weights that differ": f"{sum(not weights[k].equal(expected[k]) for k in expected)} of {len(expected)}",
        "steps replayed": len(rows) - len(ours),
    }


def judge_ours(folder: Path, reference: Path) -> dict[str, Any]:
    """The same of ours."""
    wrong = mismatches(folder, reference)
    count = len(load_file(reference / "hf" / "model.safetensors"))
    replayed = json.loads((folder / "result.json").read_text())["lost_time"]["steps_replayed"]
    ours, theirs = ([*csv.DictReader((f / "metrics.csv").open())] for f in (folder, reference))
    other = sum(a["conversations_hash"] != b["conversations_hash"] for a, b in zip(ours, theirs, strict=True))
    weights = sum(name.endswith("weight") for name in wrong)
    return {"steps with other conversations": other, "weights that differ": f"{weights} of {count}",
            "steps replayed": replayed}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train_with_trainer(options.train)
        return
    trace = random_trace(options.interruptions, options.seed, validation_every=2)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for system in ("vicuna_lit", "Trainer"):
            reference, folder = Path(scratch) / f"{system}-alone", Path(scratch) / system
            mended: list[str] = []

            def command(where: Path, system: str = system) -> list[str]:
                if system == "Trainer":
                    return [sys.executable, "-m", "experiments.spot.against_trainer", "--train", str(where)]
                return [sys.executable, "-m", "vicuna_lit.train", *COMMON, f"run.dir={where}"]

            def mend(folder: Path = folder, mended: list[str] = mended) -> bool:
                found = of_trainer(folder)
                if found:
                    shutil.rmtree(found[-1])
                    mended.append(found[-1].name)
                return bool(found)

            subprocess.run(command(reference), check=True, capture_output=True, env=os.environ)
            outcome: Outcome = simulate(command(folder), folder, trace, mend=mend, log=Path(scratch) / f"{system}.log")
            judged = (judge_trainer if system == "Trainer" else judge_ours)(folder, reference)
            kinds = Counter(one.kind for one in outcome.interruptions)
            rows[system] = {
                "interruptions": f"{len(outcome.interruptions)} ({', '.join(f'{n} {k}' for k, n in kinds.items())})",
                **judged,
                "checkpoints removed by hand": len(mended),
            }
    columns = list(rows["Trainer"])
    print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for system, row in rows.items():
        print(f"| {system} | " + " | ".join(str(row[column]) for column in columns) + " |")


if __name__ == "__main__":
    main()
