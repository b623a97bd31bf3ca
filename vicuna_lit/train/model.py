"""The model of a config."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from vicuna_lit.data.batch import Batch
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.paths import ModelError, locate
from vicuna_lit.tokenizer import source
from vicuna_lit.train import attention, loss
from vicuna_lit.train.activations import checkpoint_layers, compile_layers, kept
from vicuna_lit.train.attention import Layout
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.finetune import choose_trained, quantised
from vicuna_lit.train.loss import loss_sum, token_losses

T = TypeVar("T")


def model_config(config: TrainConfig, tokenizer: Any = None) -> Any:
    """The architecture, with RoPE stretched where the context asks for it and the config allows it.

    Args:
        tokenizer: None where the sizes alone are wanted: `model.architecture` names the vocabulary then.

    Raises:
        ModelError: the context is longer than the model's and `model.rope_scaling` is none.
    """
    model = config.model
    if model.path is not None:
        hf: Any = AutoConfig.from_pretrained(**source(locate(model.path)))
    else:
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id} if tokenizer else {}
        fields = {**({"vocab_size": len(tokenizer)} if tokenizer else {}), **ids, **(model.architecture or {})}
        try:
            hf = LlamaConfig(**fields, pad_token_id=None)
        except Exception as error:
            raise ModelError(f"model.architecture: {error}") from error
    if tokenizer and len(tokenizer) > hf.vocab_size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {hf.vocab_size}: they do not belong together"
        )
    heads, groups = hf.num_attention_heads, getattr(hf, "num_key_value_heads", None) or hf.num_attention_heads
    if heads % groups:
        raise ModelError(f"num_attention_heads={heads} is no multiple of num_key_value_heads={groups}")
    longest = hf.max_position_embeddings
    if config.context_length > longest:
        factor = math.ceil(config.context_length / longest)
        if model.rope_scaling == "none":
            raise ModelError(
                f"context_length={config.context_length} is longer than the model's {longest}; "
                f"model.rope_scaling=linear would stretch its positions by {factor}"
            )
        rope = dict(hf.rope_parameters)
        if model.rope_scaling == "yarn":
            if rope["rope_type"] != "default":
                raise ModelError(f"model.rope_scaling=yarn: the model's positions are already {rope['rope_type']}")
            rope.update(rope_type="yarn", factor=float(factor), original_max_position_embeddings=longest)
        else:
            rope.update(rope_type="linear", factor=float(factor) * rope.get("factor", 1.0))
        hf.rope_parameters, hf.max_position_embeddings = rope, longest * factor
    return hf


def build_model(
    config: TrainConfig, encoder: Encoder | None, device: str = "cpu", layers: int | None = None
) -> PreTrainedModel:
    """The model in fp32: random weights, loaded ones, or none at all on the meta device.

    Args:
        encoder: None where the sizes alone are wanted, see `model_config`.
        layers: on the meta device, so many of them; None: all.
    """
    hf = model_config(config, encoder and encoder.tokenizer)
    if layers is not None:
        hf.num_hidden_layers = layers
    if device != "meta":
        attention.require(config.attention, config.precision)
        loss.require(config.head)
    if config.model.path is None or device == "meta":
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(hf, dtype=torch.float32)
    else:
        files = source(locate(config.model.path))
        four_bits = quantised(config.precision) if config.finetune.kind == "qlora" else {}
        model = AutoModelForCausalLM.from_pretrained(**files, config=hf, dtype=torch.float32, **four_bits)
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
    attention.use(model, config.attention)
    model.config.use_cache = False
    choose_trained(model, config.finetune)
    _round(model, config)
    return model.train()


def _round(model: PreTrainedModel, config: TrainConfig) -> None:
    """Rounds the weights to bf16 where they are bf16; FSDP's masters are the sharded weights themselves.

    Buffers stay fp32: rotary frequencies lose their positions in bf16.
    """
    if config.precision != "bf16-true":
        return
    sharded_masters = config.strategy.kind == "fsdp" and config.master_weights
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue  # 4-bit weights
        rounded = parameter.data.bfloat16()
        parameter.data = rounded.float() if sharded_masters else rounded


class SupervisedLM(nn.Module):
    """Decoder and LM head under one root, so that sharding hooks see every parameter."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        head: str = "chunked",
        gradient_checkpointing: str = "none",
        offload_activations: bool = False,
        compile: bool = False,
        autocast: bool = False,
    ):
        super().__init__()
        self.model, self.how_head, self.offload, self.autocast = model, head, offload_activations, autocast
        if compile:
            compile_layers(self.layers)
        checkpoint_layers(self.layers, gradient_checkpointing)

    @classmethod
    def of(cls, model: PreTrainedModel, config: TrainConfig) -> "SupervisedLM":
        """As the config says."""
        return cls(
            model,
            head=config.head,
            gradient_checkpointing=config.gradient_checkpointing,
            offload_activations=config.offload_activations,
            compile=config.compile,
            autocast=config.precision == "bf16-mixed",
        )

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return self.model.base_model.layers  # pyright: ignore[reportReturnType]

    @property
    def head(self) -> Float[Tensor, "V D"]:
        """The LM head's matrix."""
        return self.model.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]

    def hidden(self, batch: Batch) -> Float[Tensor, "1 L D"]:
        """The decoder's last hidden states."""
        layout = Layout(batch.lengths, batch.input_ids.device)
        with kept(self.offload):
            output = self.model.base_model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, layout=layout
            )
        return output.last_hidden_state

    def forward(self, compute: Callable[..., T], *args: Any) -> T:
        """`compute(self, *args)`. Every use of the weights runs in here, where sharded strategies gather them.

        Nothing is cached: autocast would keep a bf16 copy of every weight until the forward pass ends, of the whole
        model also where its layers are gathered one by one, and no weight is used twice.
        """
        with torch.autocast(self.head.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            return compute(self, *args)

    def loss_sum(self, batch: Batch) -> Float[Tensor, ""]:
        """Sum of the supervised tokens' losses."""
        return loss_sum(self.hidden(batch), self.head, batch.labels, self.how_head)

    def token_losses(self, batch: Batch) -> Float[Tensor, " S"]:
        """Each supervised token's loss."""
        return token_losses(self.hidden(batch), self.head, batch.labels)
