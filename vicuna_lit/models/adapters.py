"""Which weights are trained: all, some, or low-rank adapters beside frozen ones."""

import difflib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vicuna_lit.config.choices import FinetuneConfig, FullConfig, LastLayersConfig, LoraConfig, PartialConfig
from vicuna_lit.hub import hub_name
from vicuna_lit.models.decoder import LINEAR, decoder_layers, decoder_of, has_fused_experts, linear_layers
from vicuna_lit.paths import ModelError, need_package
from vicuna_lit.whole_files import whole_folder


def choose_trained(model: PreTrainedModel, config: FinetuneConfig) -> None:
    """Freezes what is not trained, and adds adapters where asked for.

    What a family keeps out of the training stays out, such as biases that balance experts: no gradient comes to them.

    Raises:
        ModelError: a pattern, a target or a number of layers that fits nothing in this model.
    """
    match config:
        case FullConfig():
            pass
        case PartialConfig():
            _freeze(model, config.train)
        case LastLayersConfig():
            _train_last(model, config)
        case LoraConfig():
            _add_adapters(model, config)


def quantised(precision: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that round the decoder's linear layers to 4 bits as they are read, where they lie.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    need_package("bitsandbytes", "finetune=qlora", extra="qlora")
    multiplies_in = torch.float32 if precision == "fp32" else torch.bfloat16
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=multiplies_in,
    )
    return {"quantization_config": how}


def _freeze(model: PreTrainedModel, patterns: tuple[str, ...]) -> None:
    tied_too = model.named_parameters(remove_duplicate=False)  # tied weights under each of their names
    named = [(name, p) for name, p in tied_too if p.requires_grad]
    trained: set[int] = set()
    for pattern in patterns:
        found = {id(p) for name, p in named if re.search(pattern, name)}
        if not found:
            names = [name for name, _ in named]
            close = difflib.get_close_matches(pattern, names, 3, 0.2) or names[:3]
            raise ModelError(f"finetune.train: {pattern!r} matches no weight; there are {', '.join(close)}, …")
        trained |= found
    for _, parameter in named:
        parameter.requires_grad_(id(parameter) in trained)


def _train_last(model: PreTrainedModel, config: LastLayersConfig) -> None:
    layers, head = decoder_layers(model), model.get_output_embeddings()
    if config.layers > len(layers):
        raise ModelError(f"finetune.layers={config.layers}: the model has {len(layers)}")
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    embeddings |= {id(p) for name, p in model.named_parameters() if "embed" in name}  # norms and positions of theirs
    assert head is not None
    above = {id(p) for p in head.parameters()}
    trained = {id(p) for p in layers[-config.layers :].parameters()} | (above if config.lm_head else set())
    frozen = ({id(p) for p in layers.parameters()} | embeddings | above) - trained
    for parameter in model.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)


def _add_adapters(model: PreTrainedModel, config: LoraConfig) -> None:
    need_package("peft", f"finetune={config.kind}", extra=config.kind)
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    model.requires_grad_(False)
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes would repack the weights in eval mode
            module.support_avx512bf16_for_cpu = False
    targets = _all_linear(model) if config.targets == "all-linear" else _named(model, config.targets)
    if not targets:
        raise ModelError(
            f"finetune={config.kind}: {type(model).__name__} has no linear layer that an adapter can stand beside; "
            "finetune=full, or last_layers"
        )
    peft = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=targets,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(peft, model)
    except ValueError as error:  # a family whose layers PEFT knows to work otherwise
        raise ModelError(f"finetune={config.kind}: {error}") from error
    model.lora_settings = peft  # pyright: ignore[reportArgumentType]


def _named(model: PreTrainedModel, targets: tuple[str, ...]) -> list[str]:
    linear = {name.rpartition(".")[2] for name, m in decoder_of(model).named_modules() if isinstance(m, LINEAR)}
    if unknown := sorted(set(targets) - linear):
        raise ModelError(
            f"finetune.targets: no linear layer is called {', '.join(unknown)}; {', '.join(sorted(linear))}"
        )
    if experts := _taken_for_experts(model, set(targets)):
        raise ModelError(
            f"finetune.targets: PEFT takes {', '.join(sorted(experts))} for the experts' weights in this model"
        )
    return list(targets)


def _all_linear(model: PreTrainedModel) -> list[str]:
    """Last names, as PEFT's files usually have them; whole ones where something else has the same last name."""
    chosen = set(linear_layers(model))
    names = {name.rpartition(".")[2] for name in chosen}
    names -= _taken_for_experts(model, names)
    alike = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in names]
    return sorted(names) if chosen.issuperset(alike) else [name for name in alike if name in chosen]


def _taken_for_experts(model: PreTrainedModel, names: set[str]) -> set[str]:
    """Those of the names that PEFT reads as transformers 4's names of the experts, wherever they stand."""
    from peft import LoraConfig as PeftConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    taken = set()
    for name in names:
        alone = PeftConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(alone, model, None)
        except ValueError:  # half of a matrix that is now one
            taken.add(name)
        else:
            taken |= {name} - set(alone.target_modules or ())
    return taken


def describe_adapters(model: PreTrainedModel, targets: str | tuple[str, ...]) -> str:
    """`LoRA on 14 linear layers`, and what has none that could be expected to."""
    adapted = sum(hasattr(m, "lora_A") for m in model.modules())
    others = [name for name in linear_layers(model) if ".base_layer" not in name and ".lora_" not in name]
    some = f" of {adapted + len(others)}" if others else ""
    said = f"LoRA on {adapted}{some} linear layers"
    if others and targets == "all-linear":
        said += " (PEFT takes the others' names for those of experts)"
    return said + ("; the experts' weights are not among them" if has_fused_experts(model) else "")


def merged(model: PreTrainedModel) -> dict[str, Any]:
    """Weights and kept buffers under the names that `from_pretrained` reads: tensors, and linear layers to merge."""
    adapted = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}
    out: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        layer = adapted.get(name.rpartition(".base_layer.")[0])
        if ".lora_" in name:
            continue
        merge = name.endswith(".weight") and (layer is not None or hasattr(parameter, "quant_state"))
        out[name.replace(".base_layer", "")] = Merged(parameter, layer) if merge else parameter
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):  # such as the routers' corrections of DeepSeek-V3
            if name not in module._non_persistent_buffers_set:
                out[f"{path}.{name}".replace(".base_layer", "").lstrip(".")] = buffer
    return out


class Merged:
    """A linear layer's plain weight: out of its 4 bits, and with its adapter added, W + alpha / rank · B A."""

    def __init__(self, base: Any, layer: Any = None):
        self.base, self.layer = base, layer
        quantised: Any = getattr(base, "quant_state", None)
        self.shape = torch.Size(quantised.shape if quantised else getattr(base, "ds_shape", base.shape))

    @torch.no_grad()
    def whole(self) -> Tensor:
        """The merged matrix, on every rank; its parts are gathered for this one layer."""
        base = whole(self.base).float()
        if self.layer is None:
            return base
        a, b = (whole(half["default"].weight).float() for half in (self.layer.lora_A, self.layer.lora_B))
        product = (b @ a).T if self.layer.fan_in_fan_out else b @ a  # GPT-2's matrices lie the other way round
        return base + self.layer.scaling["default"] * product


def whole(tensor: Any) -> Tensor:
    """A weight in full on every rank, whatever the strategy made of it."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if hasattr(tensor, "ds_tensor"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    if (quantised := getattr(tensor, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(tensor.detach(), quantised)
    return tensor.detach()


def save_adapter(model: PreTrainedModel, folder: Path, base: str | None, writes: bool) -> None:
    """Writes the adapters alone, as PEFT reads them: `PeftModel.from_pretrained(base, folder)`."""
    from safetensors.torch import save_file

    state = {
        "base_model.model." + name.replace(".default.", "."): whole(p).cpu().contiguous()
        for name, p in model.named_parameters()
        if ".lora_" in name
    }
    if not state or not writes:
        return
    settings: Any = model.lora_settings
    pinned = hub_name(base or "", "model")
    settings.base_model_name_or_path = pinned.repo if pinned else base
    settings.revision = pinned.revision if pinned else None
    settings.inference_mode = True
    settings.target_modules = sorted(settings.target_modules)  # a set, whose order differs by process
    with whole_folder(folder) as part:
        save_file(state, part / "adapter_model.safetensors", metadata={"format": "pt"})
        settings.save_pretrained(part)
