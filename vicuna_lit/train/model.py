"""The model of a config; and the Hugging Face folder that comes out."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LlamaConfig, PreTrainedModel

import vicuna_lit.train.attention  # noqa: F401  registers our attention
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.paths import locate
from vicuna_lit.tokenizer import ModelError, source
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.loss import loss_sum, token_losses

T = TypeVar("T")


def model_config(config: TrainConfig, encoder: Encoder) -> Any:
    """The architecture, with RoPE stretched where the context asks for it and the config allows it.

    Raises:
        ModelError: the context is longer than the model's and `model.rope_scaling` is none.
    """
    model, tokenizer = config.model, encoder.tokenizer
    if model.path is not None:
        hf: Any = AutoConfig.from_pretrained(**source(locate(model.path)))
    else:
        fields = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, **(model.architecture or {})}
        try:
            hf = LlamaConfig(**fields, eos_token_id=tokenizer.eos_token_id, pad_token_id=None)
        except Exception as error:
            raise ModelError(f"model.architecture: {error}") from error
    if len(tokenizer) > hf.vocab_size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {hf.vocab_size}: they do not belong together"
        )
    longest = hf.max_position_embeddings
    if config.context_length > longest:
        factor = math.ceil(config.context_length / longest)
        if model.rope_scaling == "none":
            raise ModelError(
                f"context_length={config.context_length} is longer than the model's {longest}; "
                f"model.rope_scaling=linear would stretch its positions by {factor}"
            )
        rope = dict(hf.rope_parameters)
        rope.update(rope_type="linear", factor=float(factor) * rope.get("factor", 1.0))
        hf.rope_parameters, hf.max_position_embeddings = rope, longest * factor
    return hf


def build_model(config: TrainConfig, encoder: Encoder, device: str = "cpu") -> PreTrainedModel:
    """The model in fp32: random weights, loaded ones, or none at all on the meta device."""
    hf = model_config(config, encoder)
    if config.model.path is None or device == "meta":
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(hf, dtype=torch.float32)
    else:
        files = source(locate(config.model.path))
        model = AutoModelForCausalLM.from_pretrained(**files, config=hf, dtype=torch.float32)
        if "gguf_file" in files:  # its weights are plain numbers now, but it still calls itself quantised
            delattr(model.config, "quantization_config")
            plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
            plain.load_state_dict(model.state_dict())
            model = plain
    unsupported = [
        key for key in ("final_logit_softcapping", "logits_scaling", "logit_scale") if getattr(hf, key, None)
    ]
    if unsupported or getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ModelError(f"{type(model).__name__}: its LM head is more than a matrix product; not supported")
    model.set_attn_implementation(config.attention)
    model.config.use_cache = False
    if config.gradient_checkpointing == "full":
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()  # loaded models come in eval mode, in which transformers ignores checkpointing


class SupervisedLM(nn.Module):
    """Decoder and LM head under one root, so that sharding hooks see every parameter."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    @property
    def head(self) -> Float[Tensor, "V D"]:
        """The LM head's matrix."""
        return self.model.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]

    def hidden(self, batch: Batch) -> Float[Tensor, "1 L D"]:
        """The decoder's last hidden states."""
        output = self.model.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            conversation_lengths=batch.lengths,
        )
        return output.last_hidden_state

    def forward(self, compute: Callable[..., T], *args: Any) -> T:
        """`compute(self, *args)`. Every use of the weights runs in here, where sharded strategies gather them."""
        return compute(self, *args)

    def loss_sum(self, batch: Batch) -> Float[Tensor, ""]:
        """Sum of the supervised tokens' losses."""
        return loss_sum(self.hidden(batch), self.head, batch.labels)

    def token_losses(self, batch: Batch) -> Float[Tensor, " S"]:
        """Each supervised token's loss."""
        return token_losses(self.hidden(batch), self.head, batch.labels)


def export(model: PreTrainedModel, encoder: Encoder, folder: Path) -> None:
    """Writes a Hugging Face folder: safetensors, tokenizer with its chat template, generation config.

    It appears under its name only when it is whole.
    """
    tokenizer, template = encoder.tokenizer, encoder.template
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    stop = tokenizer.get_vocab().get(template.stop)
    stopping = {"eos_token_id": tokenizer.eos_token_id if stop is None else stop}
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=pad,
        **stopping,
        **({"stop_strings": [template.stop]} if stop is None else {}),
    )
    tokenizer.chat_template = template.jinja()
    model.config.use_cache = True
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except SafetensorError as error:
        raise ModelError(f"{folder}: the model could not be written: {error}") from error
    finally:
        model.config.use_cache = False
        shutil.rmtree(part, ignore_errors=True)
