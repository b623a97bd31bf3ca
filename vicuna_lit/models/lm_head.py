"""The LM head: what a model's logits are, and how the products for them are made."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

CPU_LOGITS, CUDA_LOGITS = 2**25, 2**28
"""fp32 logits that exist at one time, whatever the context and the vocabulary: 128 MiB, and 1 GiB on a GPU. Under
bf16 their gradient takes half of that besides, and a soft cap as much again."""

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What a config calls the soft cap: Gemma 2 to 4, NanoChat, VaultGemma, Beam; RecurrentGemma; xLSTM."""


@dataclass(frozen=True)
class Head:
    """logits = softcap · tanh((scale · h Wᵀ + bias) / softcap), for last hidden states h."""

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Head":
        """As a causal LM of transformers has it in its `forward`, with the weights as they are at this moment.

        A form that no family had when this was written is not seen: compare `logits` with the model's own.
        """
        matrix: Any = model.get_output_embeddings()
        config = model.config.get_text_config()
        cap = next((c for name in CAPS if (c := getattr(config, name, None)) is not None), None)
        return cls(matrix.weight, getattr(matrix, "bias", None), _scale(model, config), cap)

    def scaled(self, states: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
        """The states times the scale."""
        return states if self.scale == 1 else states * self.scale

    def logits(self, states: Float[Tensor, "S D"]) -> Float[Tensor, "S V"]:
        """All of them at once, in fp32: the reference for everything else."""
        with torch.autocast(states.device.type, enabled=False):
            logits = self.scaled(states.float()) @ self.weight.float().T
            logits = logits if self.bias is None else logits + self.bias.float()
            return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap


def _scale(model: Any, config: Any) -> float:
    """What a family multiplies its logits by, or divides them or the states by, which is the same."""
    scaling = float(getattr(config, "logits_scaling", None) or 1)  # Granite and MiniCPM3 divide
    scale = scaling if config.model_type.startswith("hyperclovax") else 1 / scaling
    scale *= float(getattr(model, "logit_scale", None) or 1)  # Cohere; MPT's config has one that its model never reads
    return scale * float(getattr(config, "lm_head_multiplier", None) or 1)  # Falcon-H1


Room = tuple[Tensor, Tensor]
"""Memory for a chunk: logits in fp32, and the same in the format of the products; one tensor, where that is fp32."""


@dataclass(frozen=True)
class Products:
    """How matrices are multiplied: in fp32, or in bf16 with sums in fp32."""

    dtype: torch.dtype
    device: str
    """The type of device that does it, `cuda` or any other."""
    one_chunk: bool = False
    """The first chunk stands for all of them."""

    @classmethod
    def of(cls, states: Tensor, weight: Tensor, exact: bool, device: str | None = None) -> "Products":
        """As autocast or the weights say; on a processor without units for bf16 in fp32, which is faster there.

        Args:
            exact: fp32 whatever they say.
            device: of tensors without content, the type that they stand for; None: the states are what they are.
        """
        kind = states.device.type
        one_chunk, device = device is not None, device or kind
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        if exact or dtype != torch.bfloat16 or (device == "cpu" and not cpu_multiplies_bf16()):
            dtype = torch.float32
        return cls(dtype, device, one_chunk)

    def chunk(self, vocabulary: int) -> int:
        """Positions whose logits exist at one time; more are not faster. A GPU works in tiles of 128."""
        if self.device == "cuda":
            return max(128, min(2048, CUDA_LOGITS // vocabulary // 128 * 128))
        return max(1, min(512, CPU_LOGITS // vocabulary))

    def chunks(self, positions: int, head: Head) -> list[slice]:
        """All positions, cut into chunks."""
        size = self.chunk(len(head.weight))
        starts = range(0, min(positions, size) if self.one_chunk else positions, size)
        return [slice(start, min(start + size, positions)) for start in starts]

    def room(self, positions: int, head: Head) -> Room:
        """For so many positions, or one chunk of them after the other."""
        shape = min(positions, self.chunk(len(head.weight))), len(head.weight)
        logits = torch.empty(shape, dtype=torch.float32, device=head.weight.device)
        return logits, logits if self.dtype == torch.float32 else torch.empty_like(logits, dtype=self.dtype)

    def multiply(self, a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> None:
        """Writes a @ b into an fp32 matrix, or adds it there. Only CUDA gives products of bf16 that are not rounded."""
        if self.dtype == torch.float32:
            out.addmm_(a, b) if add else torch.mm(a, b, out=out)
        elif self.device == "cuda":
            unrounded: dict[str, Any] = {"out_dtype": torch.float32, "out": out}
            torch.addmm(out, a, b, **unrounded) if add else torch.mm(a, b, **unrounded)
        else:
            out.add_(a @ b) if add else out.copy_(a @ b)

    def logits(
        self, states: Float[Tensor, "C D"], head: Head, targets: Int[Tensor, "C 1"], room: Room
    ) -> tuple[Float[Tensor, "C V"], Tensor | None]:
        """Scaled states' logits up to a constant for each, and what a cap multiplies their gradients by.

        Where products are rounded to bf16, the target's logit is taken off before: what is left is smallest, and so
        rounded least, where the probabilities are.
        """
        out, rounded = (r[: len(states)] for r in room)
        if self.dtype == torch.float32 or self.device == "cuda":
            self.multiply(states, head.weight.T, out)
        else:
            near = (states.float() * head.weight[targets[:, 0]].float()).sum(1, keepdim=True).to(self.dtype)
            out.copy_(torch.addmm(-near, states, head.weight.T, out=rounded))
            if head.softcap is not None:
                out.add_(near)
        if head.bias is not None:
            out.add_(head.bias)
        if head.softcap is None:
            return out, None
        out.div_(head.softcap).tanh_()
        slope = 1 - out.square()
        return out.mul_(head.softcap), slope


def cpu_multiplies_bf16() -> bool:
    """Whether this processor has units for it (Intel since 2020, AMD since 2022, ARM with bf16)."""
    can = torch.cpu.get_capabilities()
    return any(can.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))
