"""The architecture of a config: the folder's, or that of the recipe, stretched where the context asks for it.

Any family of transformers' causal language models is a `model_type` with that family's own fields.
"""

import math
import re
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as FAMILIES

from vicuna_lit.config.base import PretrainedModelConfig, ScratchModelConfig
from vicuna_lit.config.train import Computation
from vicuna_lit.data.model_folder import refuse_adapter, told_as_model_error
from vicuna_lit.data.tokenizer import pretrained_kwargs, tokenizer_of
from vicuna_lit.models import gguf
from vicuna_lit.paths import ModelError, locate_model

SHAPE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
)
"""What tells one model from another. Not the vocabulary, which tokenizers extend."""

STRETCHED_FROM = {"linear": ("default", "linear"), "yarn": ("default",)}
"""Kinds of positions that each `model.rope_scaling` can begin with."""

TEXT_NAMES = {
    r"^(model\.)?(language_model|text_model)\.(model\.)?(?!lm_head\.)": "model.",
    r"^(model\.)?(language_model|text_model)\.lm_head\.": "lm_head.",
}
"""What the weights of the text part are called in a larger model, and alone."""


def model_config(config: Computation, tokenizer: Any = None) -> Any:
    """The architecture, with RoPE stretched where the context asks for it and the config allows it.

    Args:
        tokenizer: None where the sizes alone are wanted: `model.architecture` names the vocabulary then.

    Returns:
        The family's configuration of transformers; of a model of text and images, that of its text part.

    Raises:
        MissingPath, ModelError: no such folder or family; a folder that holds another model than the recipe names; a
            tokenizer that does not fit; a context that is longer than the model's and cannot be, or is not, stretched.
    """
    model = config.model
    hf = (
        _named(model.architecture or {}, tokenizer)
        if model.path is None
        else _of_folder(model, locate_model(model.path))
    )
    _make_room(hf, config, tokenizer)
    try:
        heads, groups = getattr(hf, "num_attention_heads", None), getattr(hf, "num_key_value_heads", None)
    except Exception as error:  # what transformers raises is no AttributeError
        raise ModelError(f"{hf.model_type}: its layers have different numbers of heads; not supported") from error
    if isinstance(heads, int) and isinstance(groups, int) and (groups < 1 or heads % groups):
        raise ModelError(f"num_attention_heads={heads} is no multiple of num_key_value_heads={groups}")
    _same_in_every_row(hf, config)
    _stretch(hf, config)
    _reaches(hf, config.validation.context_length or 0)
    return hf


def _make_room(hf: Any, config: Computation, tokenizer: Any) -> None:
    """Makes the vocabulary long enough for `model.add_tokens`; one that is padded may have the room.

    Raises:
        ModelError: the tokenizer has other tokens that the model has no row for.
    """
    added = config.model.add_tokens or ()
    if added and not tokenizer:
        if config.model.path is None or not config.tokenizer_path:  # nobody knows what is there already
            hf.vocab_size += len(added)
            return
        tokenizer = tokenizer_of(config).tokenizer
    if not tokenizer or len(tokenizer) <= hf.vocab_size:
        return
    ids = tokenizer.get_vocab()
    own = max(id for token, id in ids.items() if token not in added) + 1
    if own > hf.vocab_size:
        raise ModelError(f"the tokenizer has {own} tokens, the model {hf.vocab_size}: they do not belong together")
    hf.vocab_size = max(ids.values()) + 1


def text_names(place: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained` that find the text part in a folder of a larger model; none for other folders.

    Raises:
        ModelError: its weights are called otherwise: transformers would give the text part random ones.
    """
    hf, text = read_configs(place)
    if text is hf:
        return {}
    found: list[str] = []
    for file in place.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            found += weights.keys()
    for called, alone in TEXT_NAMES.items():
        found = [re.sub(called, alone, name) for name in found]
    if "model.embed_tokens.weight" not in found:
        raise ModelError(f"{place}: the weights of the text part of this {hf.model_type} have names that are not known")
    return {"key_mapping": TEXT_NAMES}


def _named(architecture: dict[str, Any], tokenizer: Any) -> Any:
    """The configuration that a recipe's fields describe; the vocabulary and the stop token are the tokenizer's."""
    family = architecture["model_type"]
    if family not in FAMILIES:
        raise ModelError(f"model.architecture.model_type={family}: no such language model{_nearest(family, FAMILIES)}")
    kind: Any = CONFIG_MAPPING[family]
    if "text_config" in kind.sub_configs:
        text = getattr(kind.sub_configs["text_config"], "model_type", "")
        raise ModelError(f"model.architecture.model_type={family} is more than text{_nearest(text, FAMILIES)}")
    known = {field.name for field in fields(kind)} | set(kind.attribute_map)
    given = {key: value for key, value in architecture.items() if key != "model_type"}
    for key in given:
        if key not in known:
            raise ModelError(f"model.architecture.{key}: {family} has no such field{_nearest(key, known)}")
    own: dict[str, Any] = {"pad_token_id": None}
    if tokenizer:
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        own |= {"vocab_size": len(tokenizer), **ids}
    with told_as_model_error("model.architecture"):  # each family checks its fields in its own way
        return kind(**(own | given))


def _of_folder(model: ScratchModelConfig | PretrainedModelConfig, place: Path) -> Any:
    """The configuration in a folder or file, refused where the recipe names another model."""
    hf, named = read_config(place), model.architecture or {}
    for key in SHAPE:
        said = named.get(key, named.get(hf.attribute_map.get(key, key)))
        if said is not None and said != (found := getattr(hf, key, None)):
            raise ModelError(f"model={model.name} says {key}={said}, {place} has {found}; model=local takes any folder")
    return hf


def read_config(place: Path) -> Any:
    """The configuration of the language model in a folder or a `.gguf` file; no code of the folder is run.

    Raises:
        ModelError: there is none, or none of a kind that can be trained here.
    """
    whole, hf = read_configs(place)
    if getattr(whole, "is_encoder_decoder", False):
        raise ModelError(f"{place}: {whole.model_type} has an encoder and a decoder; only decoders are trained here")
    if type(hf) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{place}: {hf.model_type} is no language model that transformers can train")
    rounded: Any = getattr(whole, "quantization_config", None)
    if rounded is not None and place.suffix != ".gguf":
        how = rounded.get("quant_method") if isinstance(rounded, dict) else getattr(rounded, "quant_method", None)
        raise ModelError(f"{place}: its weights are quantised already ({how}); training needs the plain ones")
    if place.suffix == ".gguf":
        gguf.complete(hf, place)
    if hf is not whole:  # the head of the whole is the one that is there
        hf.tie_word_embeddings = whole.tie_word_embeddings
    return hf


def read_configs(place: Path) -> tuple[Any, Any]:
    """The whole configuration in a folder or a `.gguf` file, and its text part, often the same one.

    Raises:
        ModelError: there is none that transformers knows.
    """
    refuse_adapter(place)
    with told_as_model_error(f"{place}: no model could be read"):
        whole: Any = AutoConfig.from_pretrained(**pretrained_kwargs(place))
        return whole, whole.get_text_config()


def _same_in_every_row(hf: Any, config: Computation) -> None:
    """Refuses positions that depend on what else lies in a row, which is layout."""
    rope, longest = _rope(hf), max(config.context_length, config.validation.context_length or 0)
    if rope is None or rope["rope_type"] != "longrope" or not config.packing:
        return
    if longest > (limit := rope["original_max_position_embeddings"]):
        raise ModelError(
            f"context_length={longest}: beyond {limit} tokens the positions of {hf.model_type} (longrope) depend on "
            f"the longest conversation of a row; packing=false, or context_length={limit}"
        )


def _stretch(hf: Any, config: Computation) -> None:
    """Makes the positions as long as the context, by a whole factor.

    Layers with a window keep theirs: they never see farther.
    """
    how, longest = config.model.rope_scaling, getattr(hf, "max_position_embeddings", None)
    if longest is None or config.context_length <= longest:
        return
    factor, rope = math.ceil(config.context_length / longest), _rope(hf)
    too_long = f"context_length={config.context_length} is longer than the model's {longest}"
    if rope is None:
        raise ModelError(f"{too_long}, and the positions of {hf.model_type} cannot be stretched")
    kind = rope["rope_type"]
    if how == "none" and config.model.kind == "scratch":
        raise ModelError(
            f"{too_long}; context_length={longest}, or model.architecture.max_position_embeddings="
            f"{config.context_length}: a model that is made anew may have as many"
        )
    if how == "none" and kind in STRETCHED_FROM["linear"]:
        raise ModelError(
            f"{too_long}; context_length={longest}, or model.rope_scaling=linear, which stretches its positions by "
            f"{factor} and changes the recipe"
        )
    if how == "none":
        raise ModelError(f"{too_long}, and its positions are already {kind}: they cannot be stretched")
    if kind not in STRETCHED_FROM[how]:
        raise ModelError(f"model.rope_scaling={how}: the model's positions are already {kind}")
    if how == "yarn":
        new = rope | {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": longest}
    else:
        new = rope | {"rope_type": "linear", "factor": float(factor) * rope.get("factor", 1.0)}
    hf.rope_parameters = new if "rope_type" in hf.rope_parameters else hf.rope_parameters | {"full_attention": new}
    hf.max_position_embeddings = longest * factor
    with told_as_model_error(f"model.rope_scaling={how}, {hf.model_type}"):  # each family checks them in its own way
        hf.validate_rope()


def _reaches(hf: Any, validated: int) -> None:
    """Refuses a validation of more tokens than the model has positions for; a rope has some everywhere."""
    longest, rope = getattr(hf, "max_position_embeddings", None), _rope(hf)
    if not longest or validated <= longest:
        return
    if rope is None:
        why = f"the positions of {hf.model_type} end there"
    elif rope["rope_type"] == "dynamic":
        why = f"beyond it the positions of {hf.model_type} (dynamic) depend on the longest conversation of a row"
    else:
        return
    said = f"validation.context_length={validated} is longer than the model's {longest}"
    raise ModelError(f"{said}, and {why}; validation.context_length={longest}")


def _rope(hf: Any) -> dict[str, Any] | None:
    """RoPE's parameters in the layers that see everything; None: the model has other positions.

    Some families have one set for all layers, others one for each kind of layer.
    """
    rope = getattr(hf, "rope_parameters", None) or {}
    return rope if "rope_type" in rope else rope.get("full_attention")


def _nearest(word: str, names: Any) -> str:
    close = get_close_matches(word, list(names), n=3, cutoff=0.5)
    return f" (did you mean {', '.join(close)}?)" if close else ""
