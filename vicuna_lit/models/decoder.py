"""What a decoder consists of, whatever its family calls it: its layers, and the linear ones in those."""

import re
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vicuna_lit.paths import ModelError

LINEAR = (nn.Linear, Conv1D)
"""Matrix products with a weight; GPT-2's `Conv1D` is one whose weight lies the other way round."""
ATTENTION = ("self_attn", "attention", "self_attention", "attn")
"""What families call a layer's attention."""
NO_MATRIX = re.compile(r"(^|[._])(bias|A_log|D)$")
"""Names of weights that hold a number for each channel, however they lie: biases of experts, a state space's rates."""
ROUTER = re.compile(r"(^|[._])(router|gate)(\.|$)")
"""The path of a module that chooses experts or weighs them, inside their block: `gate`, `router.layer`,
`shared_expert_gate`, and not `shared_experts.gate_proj`."""


def decoder_of(model: PreTrainedModel) -> Any:
    """What turns ids into last hidden states: the model without its head, whatever that calls it."""
    inner: Any = model.base_model
    return getattr(model, "model", inner) if inner is model else inner  # Llama 4 names another than it has


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers between the embeddings and the final norm.

    Raises:
        ModelError: there is no list of as many modules as the config has layers.
    """
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder_of(model).modules():  # the outermost first
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"{type(model).__name__}: no list of its {count} layers was found; it is not supported")


def attention_of(layer: nn.Module) -> nn.Module:
    """The attention of a decoder layer.

    Raises:
        ModelError: it has none that is known by its name.
    """
    for name, module in layer.named_children():
        if name in ATTENTION:
            return module
    raise ModelError(f"{type(layer).__name__} has no attention that could be recomputed alone")


def beside_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that multiply or shift each number by itself: norms, biases, rates. Some have two dimensions."""
    found = []
    for path, module in model.named_modules():
        scales = "norm" in type(module).__name__.lower() and not isinstance(module, (nn.Embedding, *LINEAR))
        for name, weight in module.named_parameters(recurse=False):
            if scales or NO_MATRIX.search(f"{path}.{name}"):
                found.append(weight)
    return found


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Every linear layer in the decoder's layers, by its name in the model.

    Routers are left out, and what is inside a Mamba: its fused kernels read the weights themselves, so PEFT refuses it.
    """
    layers = decoder_layers(model)
    left_out = {id(m) for layer in layers for m in _routers(layer)}
    mambas = [m for m in layers.modules() if hasattr(m, "A_log") and hasattr(m, "in_proj")]
    left_out |= {id(m) for mamba in mambas for m in mamba.modules()}
    inside = {id(m) for m in layers.modules() if isinstance(m, LINEAR)} - left_out
    return {name: m for name, m in model.named_modules() if id(m) in inside}


def has_fused_experts(model: PreTrainedModel) -> bool:
    """Whether the experts of a layer are one tensor each matrix, which is no linear layer."""
    return any(p.ndim == 3 for p in decoder_layers(model).parameters())


def _routers(layer: nn.Module) -> list[nn.Module]:
    found = []
    for block in layer.modules():
        experts = [(name, child) for name, child in block.named_children() if _holds_experts(name, child)]
        if not experts:
            continue
        counts = {getattr(child, "num_experts", None) or len(list(child.children())) for _, child in experts}
        direct = {id(child) for child in block.children()}
        for path, module in block.named_modules():
            if isinstance(module, LINEAR) and not path.startswith("experts."):
                width = module.nf if isinstance(module, Conv1D) else module.out_features
                if ROUTER.search(path) or (id(module) in direct and width in counts):
                    found.append(module)
    return found


def _holds_experts(name: str, module: nn.Module) -> bool:
    return name == "experts" or any(p.ndim == 3 for p in module.parameters(recurse=False))
