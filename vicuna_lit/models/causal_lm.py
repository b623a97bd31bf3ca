"""The model of a config."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vicuna_lit.config.train import Computation, LMHead
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.models import attention, liger, loss
from vicuna_lit.models.activations import OnCpu, checkpoint_layers, compile_layers
from vicuna_lit.models.adapters import choose_trained, quantised
from vicuna_lit.models.architecture import model_config
from vicuna_lit.models.attention import RowLayout
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.models.decoder import decoder_layers, decoder_of
from vicuna_lit.models.lm_head import Head
from vicuna_lit.models.load_weights import load_weights
from vicuna_lit.models.loss import loss_sum, token_losses
from vicuna_lit.models.mixers import current_row, keep_within_conversations, token_mixers
from vicuna_lit.models.vocabulary import NewRows
from vicuna_lit.paths import ModelError

T = TypeVar("T")


def build_model(
    config: Computation, encoder: Encoder | None, device: str = "cpu", layers: int | None = None
) -> PreTrainedModel:
    """The model as it is trained: random weights, loaded ones, or none at all on the meta device.

    Args:
        encoder: None where the sizes alone are wanted, see `model_config`.
        device: what holds it. Random weights are drawn there, and a CPU's numbers are not a GPU's; a folder is read
            straight to it, in the dtype that the weights are kept in, never more than a few tensors at a time beside.
        layers: on the meta device, so many of them; None: all.
    """
    hf = model_config(config, encoder and encoder.tokenizer)
    new = NewRows.of(config, encoder, hf)
    if layers is not None:
        hf.num_hidden_layers = layers
    if device != "meta":
        if config.attention != "auto":
            attention.require(config.attention, config.precision)
        loss.require(config.lm_head)
        liger.require(config.kernels, hf)
        hf.vocab_size = new.before if new else hf.vocab_size
    if config.model.path is None or device == "meta":
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(hf, dtype=torch.float32)
    else:
        four_bits = quantised(config.precision) if config.finetune.facts.in_4_bits else {}
        # What is rounded to 4 bits is rounded once, from fp32; what is beside it is little, and rounded below.
        dtype = torch.float32 if four_bits else kept_in(config)
        model = load_weights(hf, config.model.path, device, dtype, four_bits)
    if new and device != "meta":
        _round(model, config)
        new.put_into(model)
    attention.use(model, attention.chosen(config.attention, config.precision, model, on_gpu(config)))
    model.config.use_cache = False
    if token_mixers(decoder_layers(model)) and config.strategy.facts.gathers_by_hooks:
        raise ModelError(
            f"{type(model).__name__}: parts of its layers run once for each conversation, and "
            f"strategy={config.strategy.facts.name} gathers weights at every call; strategy=fsdp"
        )
    choose_trained(model, config.finetune)
    if new:
        new.refuse_frozen(model, config)
    _round(model, config)
    return model.train()


def kept_in(config: Computation) -> torch.dtype:
    """The dtype of the weights between steps; where the shards themselves are the masters (FSDP), fp32."""
    sharded_masters = config.master_weights and config.strategy.facts.fp32_copies == "shards"
    return torch.bfloat16 if config.precision == "bf16-true" and not sharded_masters else torch.float32


def _round(model: PreTrainedModel, config: Computation) -> None:
    """Rounds the weights to bf16 where they are bf16, also those that are kept in fp32.

    Buffers stay fp32: rotary frequencies lose their positions in bf16.
    """
    if config.precision != "bf16-true":
        return
    for parameter in model.parameters():
        if parameter.is_floating_point():  # 4-bit weights are not
            parameter.data = parameter.data.bfloat16().to(kept_in(config))


class SupervisedLM(nn.Module):
    """Decoder and LM head under one root, so that sharding hooks see every parameter."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        lm_head: LMHead = "chunked",
        gradient_checkpointing: str = "none",
        offload_activations: bool = False,
        compile: bool = False,
        autocast: bool = False,
    ):
        super().__init__()
        self.model, self.offload, self.autocast = model, offload_activations, autocast
        self.lm_head_kind: LMHead = lm_head
        self._takes_positions = "position_ids" in inspect.signature(decoder_of(model).forward).parameters
        keep_within_conversations(self.layers)
        if compile:
            compile_layers(self.layers)
        checkpoint_layers(self.layers, gradient_checkpointing)

    @classmethod
    def of(cls, model: PreTrainedModel, config: Computation) -> "SupervisedLM":
        """As the config says. An `auto` that was not resolved falls back to the plain choice."""
        if config.kernels == "liger":
            liger.use(model)
        return cls(
            model,
            lm_head=config.lm_head,
            gradient_checkpointing=config.gradient_checkpointing.replace("auto", "none"),
            offload_activations=config.offload_activations,
            compile=config.compile is True,
            autocast=config.precision == "bf16-mixed",
        )

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return decoder_layers(self.model)

    @property
    def head(self) -> Head:
        """The LM head, with its weights as they are at this moment."""
        return Head.of(self.model)

    def hidden(self, batch: Batch) -> Float[Tensor, "1 L D"]:
        """The decoder's last hidden states."""
        layout = RowLayout(batch.lengths, batch.input_ids.device, batch.bounds)
        positions = {"position_ids": batch.position_ids} if self._takes_positions else {}
        with OnCpu(self.model.parameters()) if self.offload else nullcontext(), current_row(layout):
            output = decoder_of(self.model)(input_ids=batch.input_ids, use_cache=False, layout=layout, **positions)
        return output.last_hidden_state

    def _predicting(self, batch: Batch) -> Float[Tensor, "S D"]:
        """The states that predict a supervised token: no others reach the head."""
        return self.hidden(batch)[0].index_select(0, batch.predicting)

    def forward(self, compute: Callable[..., T], *args: Any) -> T:
        """`compute(self, *args)`. Every use of the weights runs in here, where sharded strategies gather them.

        Nothing is cached: autocast would keep a bf16 copy of every weight until the forward pass ends, of the whole
        model also where its layers are gathered one by one, and no weight is used twice.
        """
        with torch.autocast(self.head.weight.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            return compute(self, *args)

    def row_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Sum of the supervised tokens' losses, each as often as it counts (`Batch.target_weights`)."""
        return loss_sum(
            self._predicting(batch), self.head, batch.targets, self.lm_head_kind, weights=batch.target_weights
        )

    def logits(self, batch: Batch) -> Float[Tensor, "S V"]:
        """The logits that predict each supervised token (`batch.targets`), in fp32, for losses of one's own."""
        return self.head.logits(self._predicting(batch))

    def token_losses(self, batch: Batch) -> Float[Tensor, " S"]:
        """Each supervised token's loss, without a gradient and whatever it counts."""
        return token_losses(self._predicting(batch), self.head, batch.targets, self.lm_head_kind)
