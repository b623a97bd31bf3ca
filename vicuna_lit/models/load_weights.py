"""The weights of a folder: what is loaded is what is there, or it is refused with the names."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM, PreTrainedModel

from vicuna_lit.data.model_folder import told_as_model_error
from vicuna_lit.data.tokenizer import pretrained_kwargs
from vicuna_lit.models.architecture import text_names
from vicuna_lit.models.gguf import left_out
from vicuna_lit.paths import ModelError, locate_model

OTHER_SENSES = re.compile(r"(model\.)?(vision|visual|image|audio|speech|multi_modal|mm_|embed_vision|embed_audio)")
"""Names of weights for pictures and sound, beside the text part of a larger model."""


def load_weights(config: Any, path: str, device: str, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    """The model, read tensor by tensor onto a device, its buffers in fp32.

    Args:
        config: its transformers config, perhaps changed.
        dtype: of the weights.
        options: more arguments of `from_pretrained`, such as a rounding to 4 bits.

    Raises:
        ModelError: weights are missing, left over, of another shape, or not finite; with their names.
    """
    place = locate_model(path)
    files, renamed = pretrained_kwargs(place), text_names(place)
    how = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}  # we tell their names
    how |= {"device_map": {"": device}}
    with told_as_model_error(f"{place}: no model could be loaded"), _weights_in(dtype):
        loaded: Any = AutoModelForCausalLM.from_pretrained(**files, config=config, **how, **options, **renamed)
    model, report = loaded
    if "gguf_file" in files:  # its weights are plain numbers now, but it still calls itself quantised
        delattr(model.config, "quantization_config")
        plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict(), assign=True)
        plain.tie_weights()
        model = plain.to(device)
    refuse_faults(place, model, report, text_alone=bool(renamed))
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if model.config.tie_word_embeddings and head is not None and head.weight is not table.weight:
        model.config.tie_word_embeddings = False  # the folder has both, and they differ
    return model


def refuse_faults(place: Path, model: PreTrainedModel, report: Mapping[str, Any], text_alone: bool = True) -> None:
    """
    Args:
        report: transformers' loading info.
        text_alone: weights for pictures and sound may be left over.

    Raises:
        ModelError: the model has weights that its folder or file does not have, or the other way round.
    """
    unexpected = [n for n in report["unexpected_keys"] if not (text_alone and OTHER_SENSES.match(n))]
    faults = {
        "the folder lacks": report["missing_keys"],
        "the model has no place for": unexpected or (left_out(place, model) if place.suffix == ".gguf" else []),
        "of another shape are": [str(entry[0]) for entry in report["mismatched_keys"]],
        "not finite (NaN or infinite) are": _not_finite(model),
    }
    if said := [f"{what} {_some(names)}" for what, names in faults.items() if names]:
        raise ModelError(f"{place}: weights and config.json do not belong together: {'; '.join(said)}")


@contextmanager
def _weights_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside the block modules have weights of this dtype, in which transformers then reads them, and buffers of the
    usual one. Given the dtype itself, transformers would make the buffers in it too, rotary frequencies of some
    families among them, and keep some weights of some families out of it.
    """

    def cast(_module: nn.Module, _name: str, weight: nn.Parameter | None) -> nn.Parameter | None:
        if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.dtype == dtype:
            return weight
        return nn.Parameter(weight.detach().to(dtype), weight.requires_grad)

    hook = register_module_parameter_registration_hook(cast)  # pyright: ignore[reportArgumentType]  (may return one)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def _not_finite(model: PreTrainedModel) -> list[str]:
    """Names of tensors with a NaN or an infinity. A sum shows them, and is read once a tensor."""
    tensors = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
    whole = ((name, t if t.itemsize > 1 else t.bfloat16()) for name, t in tensors.items())  # torch cannot sum 8 bits
    return [name for name, t in whole if not t.sum().isfinite() and not t.isfinite().all()]


def _some(names: Iterable[str]) -> str:
    """The first of them, and how many there are."""
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(listed[:3]) + more
