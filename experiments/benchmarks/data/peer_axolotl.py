"""axolotl's data up to its first step: conversations read, tokenised with their masks and packed, or found prepared.

python peer_axolotl.py <tokenizer> <messages.jsonl> <cache folder>

What `axolotl preprocess` does and `axolotl train` does again at each start, in one process (`dataset_num_proc: 1`).
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 49152,
    "max_position_embeddings": 2048,
}  # fmt: skip


def main(tokenizer: str, records: str, folder: str) -> dict[str, Any]:
    """Seconds and own memory of `prepare_datasets`; imports, the config and the tokenizer are left out."""
    from axolotl.cli.config import load_cfg  # pyright: ignore[reportMissingImports]
    from axolotl.loaders import load_tokenizer  # pyright: ignore[reportMissingImports]
    from axolotl.utils.data import prepare_datasets  # pyright: ignore[reportMissingImports]

    base, recipe = Path(folder, "base"), Path(folder, "axolotl.yaml")
    if not base.exists():
        shutil.copytree(tokenizer, base)
        (base / "config.json").write_text(json.dumps(MODEL))
    settings = {
        "base_model": str(base), "chat_template": "tokenizer_default", "sequence_len": 2048, "sample_packing": True,
        "dataset_prepared_path": f"{folder}/prepared", "output_dir": f"{folder}/out", "dataset_num_proc": 1,
        "datasets": [{"path": records, "ds_type": "json", "type": "chat_template", "field_messages": "messages",
                      "roles_to_train": ["assistant"], "train_on_eos": "turn"}],
        "micro_batch_size": 1, "gradient_accumulation_steps": 1, "num_epochs": 1, "val_set_size": 0,
        "optimizer": "adamw_torch", "learning_rate": 1e-4, "attn_implementation": "sdpa",
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(settings))
    config = load_cfg(str(recipe))
    loaded = load_tokenizer(config)
    own = psutil.Process()
    before, wall, used = own.memory_full_info().uss, time.perf_counter(), sum(own.cpu_times()[:4])
    train, *_ = prepare_datasets(config, loaded)
    seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": sum(own.cpu_times()[:4]) - used}
    mib = (own.memory_full_info().uss - before) / 2**20
    supervised = sum(label != -100 for row in train.with_format(None)["labels"] for label in row)
    sizes = {"rows": len(train), "tokens": sum(map(len, train["input_ids"])), "supervised": supervised}
    return seconds | sizes | {"mib": mib, "records": Path(records).stat().st_size}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
