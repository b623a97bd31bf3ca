"""The validation before the first step, kept for later runs: jobs of a sweep often have the same model and the same
held-out conversations.

It is found again only where all that could change a bit of it is the same: what the weights' files hold, how they are
laid out and multiplied, the tokens, the rows in which they lie, the machine, and the code.
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicuna_lit.config.train import Layout, ModelRecipe, TrainConfig
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.token_cache import VALIDATIONS
from vicuna_lit.file_hashes import Hashes, cache_folder, code_hash, hashes_of, model_files
from vicuna_lit.whole_files import write

MOST = 1000
"""Results that are kept, of some kilobytes each; what was asked for longest ago goes first."""
_OF_THE_CONTENT = {"name", "path", "tokenizer"}
"""Of `model`: where it lies. Its files stand for it."""
_NO_MATTER = {"token_cache_gb", "gradient_checkpointing"}
"""Of the layout: what a pass without gradients has nothing to do with."""


@dataclass(frozen=True)
class LossBeforeCache:
    """Where the result of a run's first validation is kept."""

    file: Path

    def read(self) -> dict[str, float] | None:
        """The metrics; None where they are not known."""
        with suppress(OSError, ValueError):
            found = json.loads(self.file.read_bytes())
            if isinstance(found, dict) and all(isinstance(value, float) for value in found.values()) and found:
                os.utime(self.file)
                return found
        return None

    def keep(self, metrics: Mapping[str, float]) -> None:
        """For later runs; where the folder cannot be written, they take the validation themselves."""
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write(self.file, [json.dumps(dict(metrics)).encode()])
            kept = sorted(self.file.parent.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
            for old in kept[MOST:]:
                old.unlink(missing_ok=True)


def loss_before_cache(config: TrainConfig, data: ConversationDataModule, hashes: Hashes) -> LossBeforeCache | None:
    """Of a run that begins; None where nothing is held out, or nothing may be kept.

    Args:
        config: with a value for each `auto`.
        hashes: what the run's files held before they were read.
    """
    paths = [path for path in (config.model.path, config.model.tokenizer) if path]
    read = hashes_of({name: file for path in paths for name, file in model_files(path).items()})
    if not (config.token_cache_gb and len(data.validation)) or any(hashes.get(n) != found for n, found in read.items()):
        return None
    model, layout = ModelRecipe.values_of(config), Layout.values_of(config)
    about = {
        "files": sorted((Path(name).name, found) for name, found in read.items()),
        "model": {k: v for k, v in model["model"].items() if k not in _OF_THE_CONTENT},
        "recipe": {k: v for k, v in model.items() if k != "model"} | {"seed": config.seed},
        "layout": {k: v for k, v in layout.items() if k not in _NO_MATTER},
        "conversations": _conversations(data),
        "machine": _machine(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "lightning", "peft")},
        "code": code_hash("models", "data", "train"),
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return LossBeforeCache(cache_folder() / VALIDATIONS / f"{name}.json")


def _version(package: str) -> str | None:
    """None of an optional one that is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _conversations(data: ConversationDataModule) -> str:
    """Names the held-out tokens, their masks and sources, and how they lie in rows."""
    digest = hashlib.sha256()
    for name, part in data.validation.parts.items():
        digest.update(f"{name}\0".encode())
        for array in (part.input_ids, part.supervised_mask, part.weights, part.offsets, part.replies_before):
            digest.update(np.ascontiguousarray(array).data)
    rows = data.validation_plan.rows
    for array in (rows.order, rows.bounds, np.array([rows.world_size, rows.accumulation])):
        digest.update(array.data)
    return digest.hexdigest()


def _machine() -> list[Any]:
    """What else decides which kernels compute it."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cpu = torch.backends.cpu.get_cpu_capability()
    return [platform.machine(), cpu, torch.get_num_threads(), gpus, torch.get_float32_matmul_precision()]
