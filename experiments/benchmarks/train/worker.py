"""One system trains once on the same conversations and prints its figures as one line of JSON.

    python -m experiments.benchmarks.train.worker SYSTEM

Every system gets the same model (a LLaMA of 22.9M parameters, vocabulary 32,000), the same real
conversations cut to the same context, and the same number of conversations per optimizer step.
Only what a system does by itself differs: layout, attention, head, loop. `experiments/005_peers` asks with
other jobs whether they also compute the same.
"""

import json
import sys
import tempfile
from typing import Any

from experiments.benchmarks.train.job import ARCHITECTURE, Job, Meter, Trained, conversations, data_of


def ours(job: Job, meter: Meter) -> None:
    import lightning as L

    from vicuna_lit.train.model import SupervisedLM, build_model
    from vicuna_lit.train.module import SupervisedModule

    data = data_of(job)
    plan = data.plan
    L.seed_everything(0, verbose=False)
    module = SupervisedModule(SupervisedLM.of(build_model(data.config, data.encoder), data.config), data.config, plan)

    class Steps(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            meter.model_is_loaded()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            step = pl_module.step_done(batch_idx)
            if step is not None:
                counts = int(plan.step_supervised[step - 1]), int(plan.step_tokens[step - 1])
                meter.micro_batch(float(pl_module.step_loss), *counts)
                meter.step_is_done()

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=plan.steps, accumulate_grad_batches=plan.accumulation,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Steps()],
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    meter.trained.weights = module.lm.model.state_dict()


def _model(job: Job) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if job.start:
        return LlamaForCausalLM.from_pretrained(job.start, dtype=torch.float32)
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32000, **ARCHITECTURE))


def _run(trainer: Any, meter: Meter) -> None:
    """Trains, and hands the meter what each micro-batch was and what was differentiated."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            meter.model_is_loaded()

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
        use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=job.lr, lr_scheduler_type="constant",
        num_train_epochs=1, report_to=[], save_strategy="no", logging_steps=1000, disable_tqdm=True, max_grad_norm=1.0,
        per_device_train_batch_size=micro, gradient_accumulation_steps=max(1, job.per_step // micro),
        train_sampling_strategy="sequential",
    )  # fmt: skip


def hf(job: Job, meter: Meter) -> None:
    """The HF Trainer: rows flattened, or padded to the context as FastChat does."""
    import torch
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    rows = [{"input_ids": e.input_ids.tolist(), "labels": e.labels.tolist()} for e in conversations(job)]

    def pad(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
        ids, labels = (torch.full((len(batch), job.context), value) for value in (0, -100))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(batch):
            length = len(row["input_ids"])
            ids[i, :length], labels[i, :length] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            mask[i, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, **common(job, job.micro or job.per_step))
        collator: Any = pad if job.system == "padded" else DataCollatorWithFlattening()
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


def train(job: Job, meter: Meter | None = None) -> Trained:
    """The system of the job does it."""
    meter = meter or Meter()
    {"ours": ours, "hf_flattening": hf, "padded": hf}.get(job.system, trl)(job, meter)
    return meter.trained


if __name__ == "__main__":
    METER = Meter()
    train(Job(sys.argv[1]), METER)
    print(json.dumps(METER.report(sys.argv[1])))
