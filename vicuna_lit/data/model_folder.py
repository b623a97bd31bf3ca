"""What the files of a model's folder may say: they are a stranger's, and looked at before transformers reads them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from vicuna_lit.machine import is_out_of_memory
from vicuna_lit.paths import ModelError

MOST_BYTES = 2**24
"""Of a JSON file about a model; tokenizer.json, which has the vocabulary, may be longer."""
MOST_LAYERS = 10_000
_LIMITS = {
    r"num_hidden_layers|n_layers?|num_layers": (1, MOST_LAYERS),
    r"hidden_size|n_embd|d_model": (1, 2**20),
    r"vocab_size": (1, 2**27),
    r"num_attention_heads|num_key_value_heads|n_heads?|max_position_embeddings": (1, 2**31),
    r"intermediate_size|moe_intermediate_size|head_dim|num_experts|num_local_experts|n_routed_experts": (0, 2**31),
}
"""Names of sizes, and what each may be: a model of more would take the memory before its weights are looked for."""


def refuse_odd_files(folder: Path) -> None:
    """
    Raises:
        ModelError: a JSON file of the folder is none, or far too long; a size of the model is none that can be.
    """
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        if (size := file.stat().st_size) > MOST_BYTES:
            raise ModelError(f"{file}: has {size:,} bytes, at most {MOST_BYTES:,} are read")
        try:
            values = orjson.loads(file.read_bytes())
        except orjson.JSONDecodeError as error:
            raise ModelError(f"{file}: is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise ModelError(f"{file}: holds a {type(values).__name__}, not an object")
        if name == "config.json":
            _refuse_odd_sizes(file, values)


TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
              "spiece.model", "tekken.json")  # fmt: skip
"""One of these lies in the folder of a tokenizer."""


def refuse_no_tokenizer(place: Path, what_to_do: str = "") -> None:
    """
    Raises:
        ModelError: a folder holds no tokenizer, or a file is none that can hold a model.
    """
    if place.is_dir() and not any((place / name).is_file() for name in TOKENIZERS):
        what = "no tokenizer is" if (place / "config.json").is_file() else "neither a model nor a tokenizer is"
        raise ModelError(f"{place}: {what} in this folder (tokenizer.json){what_to_do}")
    if place.is_file() and place.suffix != ".gguf":
        raise ModelError(f"{place}: is neither the folder of a model nor a .gguf file")


def refuse_adapter(folder: Path) -> None:
    """
    Raises:
        ModelError: an adapter lies in it. transformers would fetch the model that it names, whatever else lies there.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: holds an adapter (adapter_config.json); merge it into its model first: PEFT's "
            "merge_and_unload() and save_pretrained(). A run of vicuna-train has the merged one in hf/"
        )


def _refuse_odd_sizes(file: Path, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _refuse_odd_sizes(file, value)
        size = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        for names, (least, most) in _LIMITS.items():
            if size is not None and re.fullmatch(names, key) and not least <= size <= most:
                raise ModelError(f"{file}: {key}={value}: is not between {least:,} and {most:,}, as in any model")
        if isinstance(value, list) and key == "layer_types" and len(value) > MOST_LAYERS:
            raise ModelError(f"{file}: {key} names {len(value):,} layers")


@contextmanager
def told_as_model_error(what: str) -> Iterator[None]:
    """Around a call of transformers, which raises many kinds of errors for a folder that it cannot read.

    Args:
        what: what could not be done, and of which folder.

    Raises:
        ModelError: with the reason; one of ours goes through as it is.
        MemoryError: there was not enough, on a GPU or on the CPU.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):  # nothing is wrong with the folder
            raise MemoryError(f"{what}: {said_by_transformers(error)}") from error
        raise ModelError(f"{what}: {said_by_transformers(error)}") from error


def said_by_transformers(error: Exception) -> str:
    """Its words in one line, without the advice to run code of the folder, which is never done."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said or "custom code" in said:
        return (
            "it asks for Python code of its own (auto_map), which is never run here; "
            "families that transformers itself knows can be used"
        )
    return said[:200] or type(error).__name__
