"""What a config chooses between: strategies and ways to finetune, one class each (`conf/strategy`, `conf/finetune`).

What other code must know of a choice are its `facts`. None has a default, so that none is forgotten: the type checker
names an absent one, and a class without `facts` cannot be imported.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationInfo, field_validator

from vicuna_lit.config.base import CONF_DIR, Config


class Choice(Config):
    """A class that says its `facts` itself; it takes over no other one's."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """
        Raises:
            TypeError: it says none.
        """
        if "facts" not in vars(cls):
            raise TypeError(f"{cls.__name__}: lacks `facts`, as its neighbours in {cls.__module__} have it")


@dataclass(frozen=True, kw_only=True)
class StrategyFacts:
    """What a strategy is to the checks, the model, the estimate and the training step."""

    name: str
    """As in `conf/strategy`."""
    one_process: bool
    """Whether it knows one device alone."""
    fp32_copies: Literal["optimizer", "shards", "engine"]
    """Who holds the fp32 copies of weights that are used in bf16. optimizer: ours; shards: the sharded weights are
    fp32, and gathered in bf16; engine: a library, whatever `master_weights` says."""
    sharded: Literal["nothing", "state", "gradients", "weights"]
    """Of what a device holds a part alone: of rows or stretches of a matrix. Each includes those before it; state is
    the optimizer's."""
    gathers_by_hooks: bool
    """Whether weights come to the device by hooks inside the layers, at every call."""
    first_reads: bool
    """Whether the first process alone reads the weights, and the others get them from it."""


class SingleConfig(Choice):
    """One process on one device."""

    kind: Literal["single"]

    facts: ClassVar = StrategyFacts(
        name="single",
        one_process=True,
        fp32_copies="optimizer",
        sharded="nothing",
        gathers_by_hooks=False,
        first_reads=False,
    )


class DDPConfig(Choice):
    """The whole model on every device; gradients are averaged (torch's DistributedDataParallel)."""

    kind: Literal["ddp"]

    facts: ClassVar = StrategyFacts(
        name="ddp",
        one_process=False,
        fp32_copies="optimizer",
        sharded="nothing",
        gathers_by_hooks=False,
        first_reads=True,
    )


class FSDPConfig(Choice):
    """Weights, gradients and optimizer state sharded by layer (torch's `fully_shard`, FSDP2)."""

    kind: Literal["fsdp"]
    offload: bool
    """Keep the shards in CPU memory."""

    @property
    def facts(self) -> StrategyFacts:
        """All of them."""
        return StrategyFacts(
            name=f"fsdp{'_offload' * self.offload}",
            one_process=False,
            fp32_copies="shards",
            sharded="weights",
            gathers_by_hooks=False,
            first_reads=True,
        )


class ZeroConfig(Choice):
    """DeepSpeed's ZeRO (Rajbhandari et al. 2020)."""

    kind: Literal["zero"]
    stage: Literal[1, 2, 3]
    """1 shards the optimizer state, 2 the gradients too, 3 the weights too."""
    offload: bool
    """Keep weights and optimizer state in CPU memory (stage 3)."""

    @field_validator("offload")
    @classmethod
    def _of_stage_3(cls, offload: bool, info: ValidationInfo) -> bool:
        if offload and info.data.get("stage") in (1, 2):
            raise ValueError(
                f"stage {info.data['stage']} keeps whole weights on each device, and offloads nothing: "
                "strategy=zero3_offload, or fsdp_offload"
            )
        return offload

    @property
    def facts(self) -> StrategyFacts:
        """By stage; DeepSpeed cuts what each process has read."""
        sharded: tuple[Literal["state", "gradients", "weights"], ...] = ("state", "gradients", "weights")
        return StrategyFacts(
            name=f"zero{self.stage}{'_offload' * self.offload}",
            one_process=False,
            fp32_copies="engine",
            sharded=sharded[self.stage - 1],
            gathers_by_hooks=self.stage == 3,
            first_reads=False,
        )


StrategyConfig = Annotated[SingleConfig | DDPConfig | FSDPConfig | ZeroConfig, Field(discriminator="kind")]
"""One of them; the type checker names each `match` that lacks a case (`strategy_of`, `residence`)."""


@cache
def shipped_strategies() -> tuple[StrategyFacts, ...]:
    """The facts of each file of `conf/strategy`, by name."""
    known: TypeAdapter[StrategyConfig] = TypeAdapter(StrategyConfig)
    files = sorted((CONF_DIR / "strategy").glob("*.yaml"))
    return tuple(known.validate_python(yaml.safe_load(file.read_bytes())).facts for file in files)


@dataclass(frozen=True, kw_only=True)
class FinetuneFacts:
    """What a way to finetune is to the checks, the model, the estimate and the notes."""

    adapters: bool
    """Whether PEFT puts adapters beside frozen weights."""
    in_4_bits: bool
    """Whether the frozen weights are read in 4 bits."""
    alike_in_layers: bool
    """Whether it trains the same weights of each layer, so that a few layers stand for all in the estimate."""


class FullConfig(Choice):
    """All weights are trained."""

    kind: Literal["full"]

    facts: ClassVar = FinetuneFacts(adapters=False, in_4_bits=False, alike_in_layers=True)


class PartialConfig(Choice):
    """Some weights are trained, the others stay as they are."""

    kind: Literal["partial"]
    train: Annotated[tuple[str, ...], Field(min_length=1)]
    """Regular expressions; a weight whose name holds a match of one is trained."""

    facts: ClassVar = FinetuneFacts(adapters=False, in_4_bits=False, alike_in_layers=False)


class LastLayersConfig(Choice):
    """The last decoder layers and the final norm are trained, of any family and depth."""

    kind: Literal["last_layers"]
    layers: PositiveInt
    """How many of the last decoder layers."""
    lm_head: bool
    """The LM head too (with it the embeddings, where the model ties them)."""

    facts: ClassVar = FinetuneFacts(adapters=False, in_4_bits=False, alike_in_layers=False)


class LoraConfig(Choice):
    """Low-rank adapters (Hu et al. 2021) on frozen weights; qlora (Dettmers et al. 2023) keeps those in 4 bits.
    No dropout: its random numbers would depend on how conversations lie in rows."""

    kind: Literal["lora", "qlora"]
    rank: PositiveInt
    """Of the two factors of each adapter."""
    alpha: PositiveFloat
    """The adapter's product is scaled by alpha / rank."""
    targets: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)]
    """Last names of the linear layers that get one; all-linear: every one of the decoder's layers, but no router."""

    @property
    def facts(self) -> FinetuneFacts:
        """All of them."""
        return FinetuneFacts(adapters=True, in_4_bits=self.kind == "qlora", alike_in_layers=True)


FinetuneConfig = Annotated[FullConfig | PartialConfig | LastLayersConfig | LoraConfig, Field(discriminator="kind")]
