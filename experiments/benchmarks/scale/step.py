"""The forward and backward pass of one row, alone in a process, in turn with others.

    python experiments/benchmarks/scale/step.py '{"variants": {…}, "context": 4096, "vocabulary": 32000}'

prints one line of JSON: seconds and peak bytes above what stood before, of every variant in every round.
A variant is a dict of SupervisedLM's options, or {"peer": "hf"} or {"peer": "trl"}.
"""

import ctypes
import gc
import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import vicuna_lit
from vicuna_lit.data.batch import Batch
from vicuna_lit.models.attention import use
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.train.memory import PeakMemory

MOST_MEMORY = 21 * 2**30
"""Address space of the process; what needs more counts as out of memory."""
Step = Callable[[], torch.Tensor]


def model(vocabulary: int, architecture: dict[str, Any], context: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    fields = architecture | {"vocab_size": vocabulary, "max_position_embeddings": context, "tie_word_embeddings": True}
    lm = LlamaForCausalLM(LlamaConfig(**fields))
    lm.config.use_cache = False
    return lm.train()


def row(context: int, vocabulary: int, conversations: int) -> Batch:
    """One packed row; three of five tokens supervised, as in ShareGPT."""
    torch.manual_seed(0)
    lengths = (context // conversations,) * conversations
    ids = torch.randint(0, vocabulary, (1, context))
    labels = torch.where(torch.rand(1, context) < 0.6, ids, -100)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return Batch(ids, labels, positions, lengths, int((labels[:, 1:] != -100).sum()))


def ours(lm: LlamaForCausalLM, batch: Batch, attention: str = "sdpa_per_conversation", **options: Any) -> Step:
    use(lm, attention)
    supervised = SupervisedLM(lm, **options)
    return lambda: supervised(SupervisedLM.row_loss, batch) / batch.denominator


def hf(lm: LlamaForCausalLM, batch: Batch) -> Step:
    """transformers' own forward and loss, as its Trainer calls them."""
    inputs: Any = {"input_ids": batch.input_ids, "labels": batch.labels, "position_ids": batch.position_ids}
    return lambda: lm(**inputs, use_cache=False, num_items_in_batch=batch.denominator).loss


def trl(lm: LlamaForCausalLM, batch: Batch) -> Step:
    """TRL's SFTTrainer.compute_loss, with the head and the metrics that it has by default."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    tokenizer: Any = AutoTokenizer.from_pretrained(Path(vicuna_lit.__file__).parent / "quickstart" / "tokenizer")
    tokenizer.pad_token = tokenizer.eos_token
    arguments = SFTConfig(
        tempfile.mkdtemp(), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], max_length=None
    )
    dataset = Dataset.from_list([{"input_ids": [1, 2, 3]}])
    trainer = SFTTrainer(lm, arguments, train_dataset=dataset, processing_class=tokenizer)
    inputs = {"input_ids": batch.input_ids, "labels": batch.labels, "position_ids": batch.position_ids}
    return lambda: trainer.compute_loss(lm, dict(inputs), num_items_in_batch=torch.tensor(batch.denominator))


def measure(lm: LlamaForCausalLM, step: Step) -> dict[str, float]:
    """One forward and backward pass."""
    lm.zero_grad(set_to_none=True)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    memory = PeakMemory()
    memory.step()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    start = time.perf_counter()
    loss = step()
    loss.backward()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": memory.step() - before, "loss": loss.item()}


def main(spec: dict[str, Any]) -> dict[str, list[dict[str, float]] | str]:
    """Every variant, `rounds` times in turn after a warm-up."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    batch = row(spec["context"], spec["vocabulary"], spec.get("conversations", 1))
    steps: dict[str, tuple[LlamaForCausalLM, Step]] = {}
    for name, options in spec["variants"].items():
        lm = model(spec["vocabulary"], spec["architecture"], spec["context"])
        peer = {"hf": hf, "trl": trl}.get(options.get("peer"))
        steps[name] = lm, peer(lm, batch) if peer else ours(lm, batch, **options)
    found: dict[str, Any] = {name: [] for name in steps}
    for _ in range(spec["rounds"] + 1):
        for name, (lm, step) in steps.items():
            if isinstance(found[name], str):
                continue
            try:
                found[name].append(measure(lm, step))
            except RuntimeError as error:
                if "allocate memory" not in str(error):
                    raise
                found[name] = "out of memory"
    return {name: runs if isinstance(runs, str) else runs[1:] for name, runs in found.items()}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    print(json.dumps(main(json.loads(sys.argv[1]))))
