"""What `auto` stands for, by what a model is and where it runs. What the memory decides is in `estimate.memory`."""

import shutil
from importlib.util import find_spec
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from vicuna_lit.config.train import Computation, Layout
from vicuna_lit.models import attention
from vicuna_lit.models.decoder import decoder_layers
from vicuna_lit.models.experts import experts_of
from vicuna_lit.models.mixers import token_mixers

C = TypeVar("C", bound=Computation)


def on_gpu(layout: Layout) -> bool:
    """Whether the run works on a GPU."""
    return layout.trainer.accelerator != "cpu" and torch.cuda.is_available()


def resolved(config: C, model: PreTrainedModel, gpu: bool) -> C:
    """The config with a choice in the place of each `auto`.

    `gradient_checkpointing=auto` stays on a GPU, for `estimate.memory.lightest`; a CPU's memory is the machine's, which
    others use too, so nothing is decided by it: there it is `none`.

    Args:
        model: the config's, on any device.
        gpu: it will run on one.
    """
    chosen: dict[str, str | bool] = {"attention": attention.chosen(config.attention, config.precision, model, gpu)}
    if config.compile == "auto":
        chosen["compile"] = gpu and _can_compile() and _compiles(config, model)
    if config.gradient_checkpointing == "auto" and not gpu:
        chosen["gradient_checkpointing"] = "none"
    return config.model_copy(update=chosen)


def _compiles(config: Computation, model: PreTrainedModel) -> bool:
    """Whether compiled layers compute what they shall, for rows of any length without compiling anew.

    Mixers run once a conversation, and experts on as many tokens as the router says: both would compile for ever.
    Which of its kernels are fastest the compiler tries out, so another start may give other bits.
    """
    if config.deterministic or config.offload_activations or config.kernels != "torch":
        return False
    if config.finetune.facts.in_4_bits or config.strategy.facts.gathers_by_hooks:
        return False  # weights that are unpacked, or gathered, by hooks inside the layers
    return not token_mixers(decoder_layers(model)) and experts_of(model.config) is None


def _can_compile() -> bool:
    """Triton makes the kernels, and builds what starts them with a C compiler."""
    return find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
