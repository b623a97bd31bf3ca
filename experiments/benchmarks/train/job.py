"""What the systems of the benchmark train on, and what is written down while they do."""

import os
import resource
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTEXT = 512
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


@dataclass(frozen=True)
class Job:
    """What is trained on what, and how it is laid out; the defaults are the benchmark's."""

    system: str
    micro: int | None = None
    """Conversations in a micro-batch. `trl_bfd`: packed rows; `ours`: a row's tokens in contexts, 0 without packing."""
    context: int = CONTEXT
    per_step: int = 3
    steps: int = 7
    lr: float = 1e-4
    precision: str = "fp32"
    """Or `bf16`: fp32 weights, bf16 matrix products (`bf16-mixed`, `bf16=True`)."""
    seed: int = 0
    """Of the order, and of the weights unless there is a `start`."""
    start: Path | None = None
    """A Hugging Face folder with the initial weights."""
    data: Path = DATA
    tokenizer: Path = TOKENIZER


@dataclass
class Trained:
    """What came of it."""

    losses: list[float] = field(default_factory=list)
    """Of each optimizer step, as it was differentiated."""
    supervised: list[int] = field(default_factory=list)
    """Tokens in it, of each optimizer step."""
    row_tokens: int = 0
    """Tokens computed, padding included."""
    weights: dict[str, Any] = field(default_factory=dict)


def config(job: Job, *overrides: str) -> Any:
    """Ours, with the loop of the others: a constant rate, their betas."""
    from vicuna_lit import load

    architecture = ", ".join(f"{k}: {str(v).lower()}" for k, v in ARCHITECTURE.items())
    model = [f"model.architecture={{{architecture}}}"]
    if job.start:
        model = ["model=local", f"model.path={job.start}"]
    return load(
        "train", "experiment=quickstart", *model,
        f"model.tokenizer={job.tokenizer}", f"data={job.data}", f"seed={job.seed}",
        "system_prompt=null", f"context_length={job.context}", f"conversations_per_step={job.per_step}",
        "data.max_validation=1", "samples.questions=[]", "wandb.mode=disabled",
        f"trainer.max_steps={job.steps}",
        f"tokens_per_device={(job.micro or 1) * job.context}", f"packing={job.micro != 0}", f"optimizer.lr={job.lr}",
        "optimizer.betas=[0.9, 0.999]", "optimizer.schedule=constant", "optimizer.warmup_ratio=0",
        f"data.max_conversations={job.per_step * job.steps}",
        f"precision={'bf16-mixed' if job.precision == 'bf16' else 'fp32'}", *overrides,
    )  # fmt: skip


def data_of(job: Job) -> Any:
    """The `ConversationDataModule` of a job: the conversations, and the order in which ours takes them."""
    from vicuna_lit.data.datamodule import ConversationDataModule
    from vicuna_lit.data.tokenizer import make_encoder

    c = config(job)
    data = ConversationDataModule(c, make_encoder(c))
    data.setup()
    return data


def conversations(job: Job) -> list[Any]:
    """The run's conversations in the order that ours trains on them, each short enough to be one piece."""
    data = data_of(job)
    return [data.train[i] for step in data.plan.step_examples for i in step]


class Turns:
    """One step at a time: says that it is ready, and waits to be told to go on (see `run.py`).

    Args:
        ready, go: file descriptors to write to and to read from.
    """

    def __init__(self, ready: int, go: int):
        self.ready, self.go = ready, go

    def wait(self) -> None:
        os.write(self.ready, b"r")
        os.read(self.go, 1)


class Meter:
    """Seconds, processor seconds and losses of each optimizer step, and the peak memory above what the model took."""

    def __init__(self, turns: Turns | None = None) -> None:
        self.turns, self.trained = turns, Trained()
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self.base = self.peak = self.peak_of_steps = 0
        self._began = (0.0, 0.0)
        self._open: list[tuple[float, int]] = []
        self._at_work = threading.Event()

    def model_is_loaded(self) -> None:
        self.base = _resident()
        self._at_work.set()
        threading.Thread(target=self._watch, daemon=True).start()

    def step_begins(self) -> None:
        self._at_work.clear()
        if self.turns:
            self.turns.wait()
        self._at_work.set()
        self._began = time.perf_counter(), time.process_time()

    def micro_batch(self, loss: float, supervised: int, tokens: int) -> None:
        self._open.append((loss, supervised))
        self.trained.row_tokens += tokens

    def step_is_done(self) -> None:
        """The next one begins."""
        self.seconds.append(time.perf_counter() - self._began[0])
        self.processor_seconds.append(time.process_time() - self._began[1])
        self.peak_of_steps = self.peak
        self.trained.losses.append(sum(loss for loss, _ in self._open))
        self.trained.supervised.append(sum(count for _, count in self._open))
        self._open = []
        self.step_begins()

    def training_is_done(self) -> None:
        self._at_work.clear()

    def _watch(self) -> None:
        while self._at_work.wait():
            self.peak = max(self.peak, _resident())
            time.sleep(0.02)

    def report(self, job: Job) -> dict[str, Any]:
        from vicuna_lit.models.lm_head import cpu_multiplies_bf16

        return {
            "system": job.system,
            "micro": job.micro,
            "precision": job.precision,
            "context": job.context,
            "bf16_units": cpu_multiplies_bf16(),
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "supervised": self.trained.supervised,
            "row_tokens": self.trained.row_tokens,
            "losses": self.trained.losses,
            "peak_memory_above_model": self.peak_of_steps - self.base,
        }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
