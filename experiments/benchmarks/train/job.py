"""What the systems of the benchmark train on, and what is written down while they do."""

import resource
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START = time.perf_counter()
CONTEXT = 2048
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
    steps: int = 3
    lr: float = 1e-4
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
        "train", *model, f"model.tokenizer={job.tokenizer}", f"data={job.data}", f"seed={job.seed}",
        "system_prompt=null", f"context_length={job.context}", f"conversations_per_step={job.per_step}",
        "data.max_heldout=1", "evaluate.questions=[]", "wandb.mode=disabled", f"trainer.max_steps={job.steps}",
        f"tokens_per_device={(job.micro or 1) * job.context}", f"packing={job.micro != 0}", f"optimizer.lr={job.lr}",
        "optimizer.betas=[0.9, 0.999]", "optimizer.schedule=constant", "optimizer.warmup_ratio=0",
        f"data.max_conversations={job.per_step * job.steps}", *overrides,
    )  # fmt: skip


def data_of(job: Job) -> Any:
    """The `ConversationData` of a job: the conversations, and the order in which ours takes them."""
    from vicuna_lit.data.datamodule import ConversationData
    from vicuna_lit.tokenizer import make_encoder

    c = config(job)
    data = ConversationData(c, make_encoder(c))
    data.setup()
    return data


def conversations(job: Job) -> list[Any]:
    """The run's conversations in the order that ours trains on them, each short enough to be one piece."""
    data = data_of(job)
    return [data.train[i] for step in data.plan.step_conversations for i in step]


class Meter:
    """Seconds and losses of each optimizer step, and the peak memory above what stood after the model was loaded."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.trained = Trained()
        self.base = 0
        self.peak = 0
        self._open: list[tuple[float, int]] = []
        self._stop = threading.Event()

    def model_is_loaded(self) -> None:
        self.base = self.peak = _resident()
        threading.Thread(target=self._watch, daemon=True).start()
        self.steps.append(time.perf_counter())

    def micro_batch(self, loss: float, supervised: int, tokens: int) -> None:
        self._open.append((loss, supervised))
        self.trained.row_tokens += tokens

    def step_is_done(self) -> None:
        self.steps.append(time.perf_counter())
        self.trained.losses.append(sum(loss for loss, _ in self._open))
        self.trained.supervised.append(sum(count for _, count in self._open))
        self._open = []

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, _resident())

    def report(self, system: str) -> dict[str, Any]:
        self._stop.set()
        seconds = self.steps[-1] - self.steps[1]
        return {
            "system": system,
            "supervised_tokens_per_second": sum(self.trained.supervised[1:]) / seconds,
            "peak_memory_above_model": self.peak - self.base,
            "seconds_to_first_step": self.steps[1] - START,
            "supervised_tokens": sum(self.trained.supervised),
            "row_tokens": self.trained.row_tokens,
            "peak_resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
