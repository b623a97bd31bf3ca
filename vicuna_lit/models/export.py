"""The Hugging Face folder that comes out, written tensor by tensor: no process ever holds the whole model.

Every rank calls `export`; the first writes, the others send it their shards piece by piece.
"""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedModel

from vicuna_lit.config.train import Recipe
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.models.adapters import Merged, merged
from vicuna_lit.models.safetensors_stream import PIECE, as_bytes, header
from vicuna_lit.paths import ModelError
from vicuna_lit.whole_files import whole_folder, write_json

FILE = 4 * 2**30
"""Bytes of a safetensors file, unless one tensor is larger."""
STATE_BYTES = 12
"""Of a trained weight in a checkpoint: the weight and AdamW's two moments in fp32."""


def export(model: PreTrainedModel, encoder: Encoder, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes safetensors, config, tokenizer with its chat template, and generation config.

    The folder appears under its name only when it is whole.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    try:
        with whole_folder(folder) if first else nullcontext(folder) as part:
            if first:
                _describe(model, encoder, part, dtype)
            write_weights(merged(model), part, dtype, writes=first)
    except OSError as error:
        raise ModelError(f"{folder}: the model could not be written: {error}") from error


def export_dtype(config: Recipe) -> torch.dtype:
    """bf16 weights are written as they are, also where a strategy keeps fp32 masters in their place."""
    return torch.bfloat16 if config.precision == "bf16-true" else torch.float32


def exported_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Size of the weights on disk."""
    return sum(_count(tensor) for tensor in merged(model).values()) * dtype.itemsize


def write_weights(tensors: dict[str, Tensor | Merged], folder: Path, dtype: torch.dtype, writes: bool) -> None:
    """Writes `model.safetensors`, or several files with their index where `FILE` bytes are not enough."""
    files: list[list[str]] = []
    used = 0
    for name, tensor in tensors.items():
        size = _count(tensor) * _stored(tensor, dtype).itemsize
        if not files or used + size > FILE:
            files.append([])
            used = 0
        files[-1].append(name)
        used += size
    places = {}
    for i, names in enumerate(files):
        many = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
        file = many if len(files) > 1 else "model.safetensors"
        _write_file({name: tensors[name] for name in names}, folder / file, dtype, writes)
        places |= dict.fromkeys(names, file)
    if len(files) > 1 and writes:
        total = {"total_size": sum(_count(t) * _stored(t, dtype).itemsize for t in tensors.values())}
        write_json(folder / "model.safetensors.index.json", {"metadata": total, "weight_map": places})


def _write_file(tensors: dict[str, Tensor | Merged], path: Path, dtype: torch.dtype, writes: bool) -> None:
    """One file; ranks that do not write send their parts."""
    chunks = (as_bytes(piece) for tensor in tensors.values() for piece in gathered(tensor, _stored(tensor, dtype)))
    if not writes:
        for _ in chunks:
            pass
        return
    shapes = {name: (_stored(tensor, dtype), _shape(tensor)) for name, tensor in tensors.items()}
    with path.open("wb") as file:
        file.write(header(shapes))
        for chunk in chunks:
            file.write(chunk)


@torch.no_grad()
def gathered(tensor: Tensor | Merged, dtype: torch.dtype) -> Iterator[Tensor]:
    """A whole tensor flat and in order, piece by piece, on the first rank; the others send it theirs."""
    if isinstance(tensor, Merged):
        tensor = tensor.whole()
    local, sizes = partition(tensor)
    rank = dist.get_rank() if dist.is_initialized() else 0
    mine = local.detach().reshape(-1)
    for owner, size in enumerate(sizes):
        for start in range(0, size, PIECE):
            stop = min(start + PIECE, size)
            if owner == rank:
                piece = mine[start:stop].to(dtype).contiguous()
                if rank:
                    dist.send(piece, 0)
                else:
                    yield piece.cpu()
            elif rank == 0:
                piece = mine.new_empty(stop - start, dtype=dtype)
                dist.recv(piece, owner)
                yield piece.cpu()


def partition(tensor: Any) -> tuple[Tensor, list[int]]:
    """This rank's elements, and how many each rank holds, in rank order."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    count = _count(tensor)
    if hasattr(tensor, "ds_tensor"):  # ZeRO-3 cuts the flat tensor, the last part padded
        each = tensor.ds_tensor.numel()
        local = tensor.ds_tensor
    elif isinstance(tensor, DTensor):  # FSDP2 cuts the first dimension as `chunk` does
        each = -(-tensor.shape[0] // world) * (count // tensor.shape[0])
        local = tensor.to_local()
    else:
        return tensor, [count, *[0] * (world - 1)]
    return local, [max(0, min(each, count - rank * each)) for rank in range(world)]


def _shape(tensor: Any) -> torch.Size:
    return torch.Size(getattr(tensor, "ds_shape", tensor.shape))


def _stored(tensor: Any, dtype: torch.dtype) -> torch.dtype:
    """Weights are written in the export's dtype, buffers in their own."""
    return dtype if isinstance(tensor, nn.Parameter | Merged) else tensor.dtype


def _count(tensor: Any) -> int:
    return _shape(tensor).numel()


def _describe(model: PreTrainedModel, encoder: Encoder, folder: Path, dtype: torch.dtype) -> None:
    tokenizer, template = encoder.tokenizer, encoder.template
    stop, call_stop = (tokenizer.get_vocab().get(text) for text in (template.stop, template.call_stop))
    end = tokenizer.eos_token_id if stop is None else stop
    generation = GenerationConfig(  # the model keeps its own: it may be the caller's
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        eos_token_id=end if call_stop is None else [end, call_stop],
        **({"stop_strings": [template.stop]} if stop is None else {}),
    )
    tokenizer.chat_template = template.jinja()
    config = copy.deepcopy(model.config)
    config.use_cache, config.architectures, config.dtype = True, [type(model).__name__], dtype
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")  # the weights are written as plain numbers
    config.save_pretrained(folder)
    generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
