"""Norms and gated MLPs of a model's layers by Liger's kernels (Hsu et al. 2024), in the place of torch's."""

import sys
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from vicuna_lit.paths import ModelError

FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3"), "silu"),
    **dict.fromkeys(("gemma2", "gemma3_text"), "gelu_pytorch_tanh"),
}
"""Those whose losses `tests/unit/models/test_liger.py` compares, and the activation of Liger's MLP, which never asks
the config."""


def require(kernels: str, config: Any) -> None:
    """Stops where Liger cannot run, or would compute another model.

    Args:
        config: transformers' of the model.

    Raises:
        ModelError: what is missing, and what to choose instead.
    """
    if kernels != "liger":
        return
    if not (torch.cuda.is_available() and find_spec("liger_kernel")):
        raise ModelError("kernels=liger needs an NVIDIA GPU and pip install liger-kernel; kernels=torch runs anywhere")
    if config.model_type not in FAMILIES:
        raise ModelError(f"kernels=liger: {config.model_type} is none of {', '.join(FAMILIES)}; kernels=torch")
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation != FAMILIES[config.model_type]:
        raise ModelError(f"kernels=liger: its MLP for {config.model_type} has no {activation}; kernels=torch")


def use(model: PreTrainedModel) -> None:
    """Gives this model's norms and MLPs Liger's forward passes; no other model's.

    Liger also puts its classes and functions into the family's module, for every model that is made or run in this
    process afterwards; they are taken out again. Its rotary positions could be had in that way alone, and are not.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance  # pyright: ignore[reportMissingImports]

    family = sys.modules[type(model).__module__]
    before = dict(vars(family))
    try:
        _apply_liger_kernel_to_instance(model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    finally:
        vars(family).update(before)
