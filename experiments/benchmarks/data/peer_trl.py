"""TRL's trainer up to its first step: conversations read and tokenised, or found in the cache of `datasets`.

python peer_trl.py <tokenizer> <messages.jsonl> <cache folder>

Its loss would be on all tokens: the tokenizer's template marks no replies, and to look for them would take longer.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil


def main(tokenizer: str, records: str, folder: str) -> dict[str, Any]:
    """Seconds and own memory of the trainer's construction, imports and a tiny model left out."""
    from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    loaded: Any = AutoTokenizer.from_pretrained(tokenizer)
    loaded.pad_token = loaded.pad_token or loaded.eos_token
    small: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(loaded), **small))
    arguments = SFTConfig(f"{folder}/out", max_length=2048, packing=True, report_to="none", use_cpu=True)
    own = psutil.Process()
    before, wall, processor = own.memory_full_info().uss, time.perf_counter(), time.process_time()
    data = load_dataset("json", data_files=records, cache_dir=f"{folder}/datasets", split="train")
    trainer = SFTTrainer(model, arguments, train_dataset=data, processing_class=loaded)
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    mib = (own.memory_full_info().uss - before) / 2**20
    return seconds | {"rows": len(trainer.train_dataset), "mib": mib, "records": Path(records).stat().st_size}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
