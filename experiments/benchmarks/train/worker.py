"""One system trains once on the same conversations and prints its figures as one line of JSON.

    python -m experiments.benchmarks.train.worker SYSTEM [--micro N] [--precision bf16] [--context N]

Every system gets the same model (a LLaMA of 22.9M parameters, vocabulary 32,000), the same real
conversations cut to the same context, and the same number of conversations per optimizer step.
Only what a system does by itself differs: layout, attention, head, loop. `experiments/005_peers` asks with
other jobs whether they also compute the same.
"""

import argparse
import io
import json
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from experiments.benchmarks.train.job import (
    ARCHITECTURE,
    CONTEXT,
    DATA,
    TOKENIZER,
    Job,
    Meter,
    Trained,
    Turns,
    config,
    conversations,
    data_of,
)


def ours(job: Job, meter: Meter) -> None:
    """The job that `vicuna-train` runs: metrics, W&B's record (offline), checkpoints, validations, export.

    The validations before and after, and saving, lie outside the timed steps, as the peers' do.
    """
    from safetensors.torch import load_file

    from vicuna_lit.train import run

    class Watched(run.MetricsCallback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            meter.model_is_loaded()  # the validation comes behind it, and counts
            meter.step_begins()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            _step_of_ours(pl_module, batch_idx, meter)

    with tempfile.TemporaryDirectory() as temporary, mock.patch.object(run, "MetricsCallback", Watched):
        folder = Path(temporary) / "run"
        with redirect_stdout(io.StringIO()):
            run.fit(config(job, f"run.dir={folder}", "wandb.mode=offline", "checkpoint.every_minutes=600"))
        meter.trained.weights = load_file(folder / "hf/model.safetensors")


def _step_of_ours(module: Any, batch_idx: int, meter: Meter) -> None:
    step, plan = module.step_done(batch_idx), module.plan
    if step is not None:
        counts = int(plan.step_supervised[step - 1]), int(plan.step_tokens[step - 1])
        meter.micro_batch(float(module.step_loss), *counts)
        meter.step_is_done()


def ours_loop(job: Job, meter: Meter) -> None:
    """The same module in a bare Lightning loop: what the metrics, the record and the rest cost."""
    import lightning as L

    from vicuna_lit.models.causal_lm import SupervisedLM, build_model
    from vicuna_lit.train.module import SupervisedModule

    data = data_of(job)
    plan = data.plan
    L.seed_everything(0, verbose=False)
    module = SupervisedModule(SupervisedLM.of(build_model(data.config, data.encoder), data.config), data.config, plan)

    class Steps(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            meter.model_is_loaded()
            meter.step_begins()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            _step_of_ours(pl_module, batch_idx, meter)

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=plan.steps, accumulate_grad_batches=plan.accumulation,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Steps()],
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    meter.trained.weights = module.lm.model.state_dict()


def _model(job: Job) -> Any:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if job.start:
        return LlamaForCausalLM.from_pretrained(job.start, dtype=torch.float32)
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(AutoTokenizer.from_pretrained(job.tokenizer)), **ARCHITECTURE))


def _run(trainer: Any, meter: Meter) -> None:
    """Trains, and hands the meter what each micro-batch was and what was differentiated."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            meter.model_is_loaded()
            meter.step_begins()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.step_is_done()

    step = trainer.training_step

    def measured(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        supervised, tokens = int((inputs["labels"][..., 1:] != -100).sum()), inputs["input_ids"].numel()
        loss = step(model, inputs, *rest)
        meter.micro_batch(float(loss), supervised, tokens)
        return loss

    trainer.training_step = measured
    trainer.add_callback(Steps())
    trainer.train()
    meter.trained.weights = trainer.model.state_dict()


def common(job: Job, micro: int) -> dict[str, Any]:
    """What all peers are told; everything else is their default."""
    return dict(
        use_cpu=True, bf16=job.precision == "bf16", gradient_checkpointing=False, learning_rate=job.lr,
        lr_scheduler_type="constant",
        num_train_epochs=1, report_to=[], save_strategy="no", logging_steps=1000, disable_tqdm=True, max_grad_norm=1.0,
        per_device_train_batch_size=micro, gradient_accumulation_steps=max(1, job.per_step // micro),
        train_sampling_strategy="sequential",
    )  # fmt: skip


def hf(job: Job, meter: Meter) -> None:
    """The HF Trainer: rows flattened, padded to the longest conversation, or to the context as FastChat does."""
    import torch
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    rows = [{"input_ids": e.input_ids.tolist(), "labels": e.labels.tolist()} for e in conversations(job)]

    def pad(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
        size = job.context if job.system == "padded" else max(len(row["input_ids"]) for row in batch)
        ids, labels = (torch.full((len(batch), size), value) for value in (0, -100))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(batch):
            length = len(row["input_ids"])
            ids[i, :length], labels[i, :length] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            mask[i, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **common(job, job.micro or job.per_step))
        collator: Any = DataCollatorWithFlattening() if job.system == "hf_flattening" else pad
        _run(Trainer(_model(job), arguments, collator, train_dataset=rows), meter)  # pyright: ignore[reportArgumentType]


def trl(job: Job, meter: Meter) -> None:
    """TRL's SFTTrainer: as it comes (padded), with best-fit packing, or padding-free."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    rows = [
        {"input_ids": e.input_ids.tolist(), "assistant_masks": e.supervised.astype(int).tolist()}
        for e in conversations(job)
    ]
    packing, free = job.system == "trl_bfd", job.system == "trl_padding_free"
    micro = job.micro or (1 if packing else job.per_step)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder, max_length=None if free else job.context, packing=packing, packing_strategy="bfd",
            padding_free=free, **common(job, micro),
        )  # fmt: skip
        trainer = SFTTrainer(_model(job), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        if packing:  # rows hold several conversations: as many rows to a step as hold PER_STEP of them
            rows_per_step = len(trainer.train_dataset) / job.steps
            trainer.args.gradient_accumulation_steps = max(1, round(rows_per_step / micro))
        _run(trainer, meter)


SYSTEMS = {
    "ours": ours, "ours_loop": ours_loop, "hf": hf, "hf_flattening": hf, "padded": hf,
    "trl": trl, "trl_bfd": trl, "trl_padding_free": trl,
}  # fmt: skip


def train(job: Job, meter: Meter | None = None) -> Trained:
    """The system of the job does it."""
    meter = meter or Meter()
    SYSTEMS[job.system](job, meter)
    meter.training_is_done()
    return meter.trained


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--micro", type=int)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("--turns", nargs=2, type=int, metavar=("READY", "GO"), help="file descriptors, see run.py")
    options = vars(parser.parse_args())
    turns = options.pop("turns")
    job, meter = Job(**options), Meter(Turns(*turns) if turns else None)
    train(job, meter)
    print(json.dumps(meter.report(job)))


if __name__ == "__main__":
    main()
