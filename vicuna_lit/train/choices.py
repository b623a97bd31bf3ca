"""What a config chooses between: strategies and ways to finetune, one class each (`conf/strategy`, `conf/finetune`)."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from vicuna_lit.config import Config


class SingleConfig(Config):
    """One process on one device."""

    kind: Literal["single"]


class DDPConfig(Config):
    """The whole model on every device; gradients are averaged (torch's DistributedDataParallel)."""

    kind: Literal["ddp"]


class FSDPConfig(Config):
    """Weights, gradients and optimizer state sharded by layer (torch's `fully_shard`, FSDP2)."""

    kind: Literal["fsdp"]
    offload: bool
    """Keep the shards in CPU memory."""


class ZeroConfig(Config):
    """DeepSpeed's ZeRO (Rajbhandari et al. 2020)."""

    kind: Literal["zero"]
    stage: Literal[1, 2, 3]
    """1 shards the optimizer state, 2 the gradients too, 3 the weights too."""
    offload: bool
    """Keep weights and optimizer state in CPU memory (stage 3)."""


class FullConfig(Config):
    """All weights are trained."""

    kind: Literal["full"]


class PartialConfig(Config):
    """Some weights are trained, the others stay as they are."""

    kind: Literal["partial"]
    train: Annotated[tuple[str, ...], Field(min_length=1)]
    """Regular expressions; a weight whose name holds a match of one is trained."""


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021) on frozen weights; qlora (Dettmers et al. 2023) keeps those in 4 bits.
    No dropout: its random numbers would depend on how conversations lie in rows."""

    kind: Literal["lora", "qlora"]
    rank: PositiveInt
    alpha: PositiveFloat
    """The adapter's product is scaled by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    """Last names of the linear layers that get one."""


StrategyConfig = Annotated[SingleConfig | DDPConfig | FSDPConfig | ZeroConfig, Field(discriminator="kind")]
FinetuneConfig = Annotated[FullConfig | PartialConfig | LoraConfig, Field(discriminator="kind")]
