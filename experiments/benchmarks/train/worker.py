"""One system trains once on the same conversations and prints its figures as one line of JSON.

    python experiments/benchmarks/train/worker.py SYSTEM

Every system gets the same model (a LLaMA of 22.9M parameters, vocabulary 32,000), the same real
conversations cut to the same context, and the same number of conversations per optimizer step.
Only what a system does by itself differs: layout, attention, head, loop.
"""

import json
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
CONTEXT, PER_STEP, STEPS = 2048, 3, 3
TOKENIZER = Path(__file__).parents[4] / "shared/data/tokenizers/llama"
DATA = Path(__file__).parents[4] / "shared/data/conversations/sharegpt_v3_random_a.json"
ARCHITECTURE: dict[str, Any] = dict(
    hidden_size=384,
    intermediate_size=1024,
    num_hidden_layers=6,
    num_attention_heads=6,
    num_key_value_heads=6,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)


def config(*overrides: str) -> Any:
    from vicuna_lit import load

    architecture = ", ".join(f"{k}: {str(v).lower()}" for k, v in ARCHITECTURE.items())
    return load(
        "train", f"model.tokenizer={TOKENIZER}", f"model.architecture={{{architecture}}}", f"data={DATA}",
        "system_prompt=null", f"context_length={CONTEXT}", f"conversations_per_step={PER_STEP}",
        "data.max_heldout=1", "evaluate.questions=[]", "wandb.mode=disabled", f"trainer.max_steps={STEPS}",
        f"tokens_per_device={CONTEXT}", "optimizer.lr=1e-4", *overrides,
    )  # fmt: skip


def conversations() -> list[Any]:
    """The run's conversations in the order that ours trains on them, each short enough to be one piece."""
    from vicuna_lit.data.datamodule import ConversationData
    from vicuna_lit.tokenizer import make_encoder

    c = config(f"data.max_conversations={PER_STEP * STEPS}")
    data = ConversationData(c, make_encoder(c))
    data.setup()
    return [data.train[i] for step in data.plan.step_conversations for i in step], data  # pyright: ignore[reportReturnType]


class Meter:
    """Seconds of each optimizer step, and the peak memory above what stood after the model was loaded."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.base = 0
        self.peak = 0
        self._stop = threading.Event()

    def model_is_loaded(self) -> None:
        self.base = self.peak = _resident()
        threading.Thread(target=self._watch, daemon=True).start()
        self.steps.append(time.perf_counter())

    def step_is_done(self) -> None:
        self.steps.append(time.perf_counter())

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, _resident())

    def report(self, system: str, supervised: list[int], tokens: int) -> dict[str, Any]:
        self._stop.set()
        seconds = self.steps[-1] - self.steps[1]
        return {
            "system": system,
            "supervised_tokens_per_second": sum(supervised[1:]) / seconds,
            "peak_memory_above_model": self.peak - self.base,
            "seconds_to_first_step": self.steps[1] - START,
            "supervised_tokens": sum(supervised),
            "row_tokens": tokens,
            "peak_resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def ours() -> dict[str, Any]:
    import lightning as L

    from vicuna_lit.train.model import SupervisedLM, build_model
    from vicuna_lit.train.module import SupervisedModule

    _, data = conversations()  # pyright: ignore[reportGeneralTypeIssues]
    meter, plan = Meter(), data.plan
    L.seed_everything(0, verbose=False)
    module = SupervisedModule(SupervisedLM(build_model(data.config, data.encoder)), data.config, plan)

    class Steps(L.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            meter.model_is_loaded()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (batch_idx + 1) % plan.accumulation == 0:
                meter.step_is_done()

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, max_steps=plan.steps, accumulate_grad_batches=plan.accumulation,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Steps()],
    )  # fmt: skip
    trainer.fit(module, data.train_dataloader())
    return meter.report("ours", plan.step_supervised.tolist(), int(plan.step_tokens.sum()))


def _model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32000, **ARCHITECTURE))


def _callback(meter: Meter) -> Any:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            meter.model_is_loaded()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.step_is_done()

    return Steps()


COMMON: dict[str, Any] = dict(
    use_cpu=True, bf16=False, gradient_checkpointing=False, learning_rate=1e-4, lr_scheduler_type="constant",
    num_train_epochs=1, report_to=[], save_strategy="no", logging_steps=1000, disable_tqdm=True, max_grad_norm=1.0,
)  # fmt: skip


def hf(system: str) -> dict[str, Any]:
    """The HF Trainer: rows flattened, or padded to the context as FastChat does."""
    import torch
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    examples, _ = conversations()  # pyright: ignore[reportGeneralTypeIssues]
    rows = [{"input_ids": e.input_ids.tolist(), "labels": e.labels.tolist()} for e in examples]

    def pad(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
        ids, labels = torch.zeros(len(batch), CONTEXT, dtype=torch.long), torch.full((len(batch), CONTEXT), -100)
        for i, row in enumerate(batch):
            ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
        return {"input_ids": ids, "labels": labels, "attention_mask": (ids != 0).long()}

    padded = system == "padded"
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=PER_STEP, train_sampling_strategy="sequential", **COMMON
        )
        collator = pad if padded else DataCollatorWithFlattening()
        Trainer(_model(), arguments, collator, train_dataset=rows, callbacks=[_callback(meter)]).train()  # pyright: ignore[reportArgumentType]
    supervised = [
        sum(int(e.supervised.sum()) for e in examples[i : i + PER_STEP]) for i in range(0, len(examples), PER_STEP)
    ]
    tokens = PER_STEP * STEPS * CONTEXT if padded else sum(len(e.input_ids) for e in examples)
    return meter.report(system, supervised, tokens)


def trl(system: str) -> dict[str, Any]:
    """TRL's SFTTrainer with best-fit packing, or padding-free."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    examples, _ = conversations()  # pyright: ignore[reportGeneralTypeIssues]
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.pad_token = tokenizer.eos_token
    rows = [{"input_ids": e.input_ids.tolist(), "assistant_masks": e.supervised.astype(int).tolist()} for e in examples]
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        packing = system == "trl_bfd"
        arguments = SFTConfig(
            folder, max_length=CONTEXT if packing else None, packing=packing, packing_strategy="bfd",
            padding_free=not packing, per_device_train_batch_size=1 if packing else PER_STEP,
            **COMMON,
        )  # fmt: skip
        trainer = SFTTrainer(
            _model(),
            arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[_callback(meter)],
        )
        if packing:  # rows hold several conversations: as many rows to a step as hold PER_STEP of them
            count = len(trainer.train_dataset)
            trainer.args.gradient_accumulation_steps = max(1, round(count / STEPS))
        trainer.train()
    total = sum(int(e.supervised.sum()) for e in examples)
    done = len(meter.steps) - 1
    return meter.report(system, [total // done] * done, sum(len(e.input_ids) for e in examples))


if __name__ == "__main__":
    name = sys.argv[1]
    run = {"ours": ours, "hf_flattening": lambda: hf(name), "padded": lambda: hf(name)}.get(name, lambda: trl(name))
    print(json.dumps(run()))
