"""What a config chooses between: strategies and ways to finetune, one class each (`conf/strategy`, `conf/finetune`)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from vicuna_lit.config.base import Config


class StrategyFacts(Config):
    """What the config of any strategy says of it. `TrainChecks` goes by these, so a new strategy needs no new check."""

    one_process: ClassVar[bool] = False
    """Whether it knows one device alone."""
    keeps_fp32: ClassVar[bool] = False
    """Whether it has fp32 master weights of its own, whatever the config says."""
    shards_state: ClassVar[bool] = False
    """Whether a device holds a part of the optimizer's state alone, of rows or stretches of a matrix."""

    @property
    def label(self) -> str:
        """As in `conf/strategy`."""
        return str(getattr(self, "kind", ""))

    @property
    def shards_weights(self) -> bool:
        """Whether a device holds a part of each weight alone."""
        return False

    @property
    def gathers_by_hooks(self) -> bool:
        """Whether weights come to the device by hooks inside the layers, at every call."""
        return False


class SingleConfig(StrategyFacts):
    """One process on one device."""

    kind: Literal["single"]
    one_process: ClassVar[bool] = True


class DDPConfig(StrategyFacts):
    """The whole model on every device; gradients are averaged (torch's DistributedDataParallel)."""

    kind: Literal["ddp"]


class FSDPConfig(StrategyFacts):
    """Weights, gradients and optimizer state sharded by layer (torch's `fully_shard`, FSDP2)."""

    kind: Literal["fsdp"]
    offload: bool
    """Keep the shards in CPU memory."""
    shards_state: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """As in `conf/strategy`."""
        return f"fsdp{'_offload' * self.offload}"

    @property
    def shards_weights(self) -> bool:
        """By layer."""
        return True


class ZeroConfig(StrategyFacts):
    """DeepSpeed's ZeRO (Rajbhandari et al. 2020)."""

    kind: Literal["zero"]
    stage: Literal[1, 2, 3]
    """1 shards the optimizer state, 2 the gradients too, 3 the weights too."""
    offload: bool
    """Keep weights and optimizer state in CPU memory (stage 3)."""
    keeps_fp32: ClassVar[bool] = True
    shards_state: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """As in `conf/strategy`."""
        return f"zero{self.stage}{'_offload' * self.offload}"

    @property
    def shards_weights(self) -> bool:
        """Stage 3 does."""
        return self.stage == 3

    @property
    def gathers_by_hooks(self) -> bool:
        """Stage 3 does."""
        return self.stage == 3


StrategyConfig = Annotated[SingleConfig | DDPConfig | FSDPConfig | ZeroConfig, Field(discriminator="kind")]
"""One of them; the type checker names each `match` that lacks a case (`strategy_of`, `residence`, `_traffic`)."""


class FullConfig(Config):
    """All weights are trained."""

    kind: Literal["full"]


class PartialConfig(Config):
    """Some weights are trained, the others stay as they are."""

    kind: Literal["partial"]
    train: Annotated[tuple[str, ...], Field(min_length=1)]
    """Regular expressions; a weight whose name holds a match of one is trained."""


class LastLayersConfig(Config):
    """The last decoder layers and the final norm are trained, of any family and depth."""

    kind: Literal["last_layers"]
    layers: PositiveInt
    """How many of the last decoder layers."""
    lm_head: bool
    """The LM head too (with it the embeddings, where the model ties them)."""


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021) on frozen weights; qlora (Dettmers et al. 2023) keeps those in 4 bits.
    No dropout: its random numbers would depend on how conversations lie in rows."""

    kind: Literal["lora", "qlora"]
    rank: PositiveInt
    """Of the two factors of each adapter."""
    alpha: PositiveFloat
    """The adapter's product is scaled by alpha / rank."""
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)]
    """Last names of the linear layers that get one; all-linear: every one of the decoder's layers, but no router."""


FinetuneConfig = Annotated[FullConfig | PartialConfig | LastLayersConfig | LoraConfig, Field(discriminator="kind")]
