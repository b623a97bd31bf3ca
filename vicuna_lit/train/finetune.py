"""Which weights are trained: all, some, or low-rank adapters beside frozen ones."""

import difflib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from vicuna_lit.folder import whole_folder
from vicuna_lit.paths import ModelError
from vicuna_lit.tokenizer import need_package
from vicuna_lit.train.choices import FullConfig, LoraConfig, PartialConfig


def choose_trained(model: PreTrainedModel, config: FullConfig | PartialConfig | LoraConfig) -> None:
    """Freezes what is not trained, and adds adapters where asked for.

    Raises:
        ModelError: a pattern or a target that fits nothing in this model.
    """
    match config:
        case FullConfig():
            pass
        case PartialConfig():
            _freeze(model, config.train)
        case LoraConfig():
            _add_adapters(model, config)


def quantised(precision: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` that round the decoder's linear layers to 4 bits as they are read.

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
    return {"quantization_config": how, "device_map": {"": "cpu"}}


def _freeze(model: PreTrainedModel, patterns: tuple[str, ...]) -> None:
    named = list(model.named_parameters(remove_duplicate=False))  # tied weights under each of their names
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


def _add_adapters(model: PreTrainedModel, config: LoraConfig) -> None:
    need_package("peft", f"finetune={config.kind}", extra=config.kind)
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    linear = {name.rpartition(".")[2] for name, m in model.base_model.named_modules() if isinstance(m, nn.Linear)}
    if unknown := sorted(set(config.targets) - linear):
        raise ModelError(
            f"finetune.targets: no linear layer is called {', '.join(unknown)}; {', '.join(sorted(linear))}"
        )
    model.requires_grad_(False)
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # bitsandbytes would repack the weights in eval mode
            module.support_avx512bf16_for_cpu = False
    peft = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(peft, model)
    model.lora_settings = peft  # pyright: ignore[reportArgumentType]


def merged(model: PreTrainedModel) -> dict[str, Any]:
    """Every weight under the name that `from_pretrained` reads: a tensor, or a linear layer to merge."""
    adapted = {name: m for name, m in model.named_modules() if hasattr(m, "lora_A")}
    out: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        layer = adapted.get(name.rpartition(".base_layer.")[0])
        if ".lora_" in name:
            continue
        merge = name.endswith(".weight") and (layer is not None or hasattr(parameter, "quant_state"))
        out[name.replace(".base_layer", "")] = Merged(parameter, layer) if merge else parameter
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
        return base + self.layer.scaling["default"] * (b @ a)


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
    settings.base_model_name_or_path, settings.inference_mode = base, True
    with whole_folder(folder) as part:
        save_file(state, part / "adapter_model.safetensors", metadata={"format": "pt"})
        settings.save_pretrained(part)
