"""The estimate job: a train config in; memory, hours and dollars out, each with its range and its parts.

Its config is the train job's (`EstimateConfig`). What that job is made of, in `data/` and `models/`, gives the plan
(`plan_run`), what is refused (`prove`), what `auto` becomes (`resolved`), the model without numbers (`build_model` on
the meta device), FLOPs (`flops_of`) and the micro-batch: `simulate.py` runs `SupervisedLM` and its loss forward and
backward on a `Batch` without content. With data of one's own, `Sources` reads and tokenises it as training does.
Nothing of `train/` is imported. In turn, training asks `resolved_here` what `auto` means on this machine, and
`tables.py` for its GPU's peak. Of the estimate alone are what each strategy holds and sends (`strategies.py`,
`time.py`), the lengths where there is no data (`lengths.py`), and speeds and prices (`tables.py`).
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from transformers import PreTrainedModel

from vicuna_lit.compare.table import Table
from vicuna_lit.config.compose import ConfigError
from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.config.train import Layout, ModelRecipe, Recipe, StepsRecipe, TokensRecipe
from vicuna_lit.data.plan import Plan, plan_run
from vicuna_lit.estimate import spot
from vicuna_lit.estimate.lengths import refuse_idle, sizes_of
from vicuna_lit.estimate.memory import Memory, at_level, lightest, memory_of
from vicuna_lit.estimate.strategies import Weights
from vicuna_lit.estimate.tables import Gpu, NoPriceError, Price, gpu_named, price_of
from vicuna_lit.estimate.time import Time, time_of
from vicuna_lit.hub import found as existing
from vicuna_lit.models.architecture import model_config
from vicuna_lit.models.automatic import resolved
from vicuna_lit.models.causal_lm import build_model
from vicuna_lit.models.export import STATE_BYTES
from vicuna_lit.models.flops import Flops, flops_of
from vicuna_lit.models.proof import prove

SAVE_RATE = 2e9
"""Bytes/s at which a machine's checkpoint goes to its disk, all its processes together."""

NO_SPEED = "not estimated on a CPU, whose speed nobody publishes"
NO_FLOPS = "not estimated: what a token costs is not known for layers such as this model's"

HOPELESS = 10
"""Mean lives of a spot machine between two saves: e to this power times the work is done before one is reached."""

RANGE = ("low", "likely", "high")
BRIEF = 100
"""Steps that stand for a long run where many settings are tried."""

T = TypeVar("T")


@dataclass(frozen=True)
class Spot:
    """What interruptions do to a run on spot machines."""

    interruptions: float
    """Expected number."""
    lost: float
    """Seconds of machine time that they cost: starts, steps taken again, waiting for saves."""
    save_seconds: float
    """That training waits for one checkpoint."""
    best_interval: float
    """Seconds between two of them (Daly 2006)."""


@dataclass(frozen=True)
class Estimate:
    """What a run needs. Times are in seconds, memory in bytes of one device, money in USD."""

    asked: EstimateConfig
    config: EstimateConfig
    """The same, with each `auto` resolved."""
    plan: Plan
    data: str
    memory: Memory
    time: Time | None
    """None where it is not known: see `no_time`."""
    no_time: str | None
    """Why."""
    price: Price | None
    spot: Spot | None
    """None on demand."""
    no_price: str | None = None
    """Why the price is not known."""

    @property
    def fits(self) -> bool:
        """Whether the likely peak is within a device's memory."""
        return self.memory.fits

    @property
    def seconds(self) -> tuple[float, float, float] | None:
        """At best, likely and at worst, interruptions included."""
        if self.time is None:
            return None
        lost = self.spot.lost / self.time.likely if self.spot else 0.0
        return self.time.low * (1 + lost), self.time.likely * (1 + lost), self.time.high * (1 + lost)

    @property
    def usd(self) -> tuple[float, float, float] | None:
        """At best, likely, at worst."""
        if self.seconds is None or self.price is None:
            return None
        hourly = self.price.usd * self.config.count / 3600
        low, likely, high = self.seconds
        return low * hourly, likely * hourly, high * hourly

    def table(self) -> Table:
        """Everything about it, a row for each; draws itself in a notebook."""
        from vicuna_lit.estimate.report import lines

        return Table({"what": name, "estimate": text} for name, text in lines(self).items())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """As `output=json` prints it: plain values, each figure with its range and parts."""
        c, m, t = self.config, self.memory, self.time
        lost = {"interruptions": self.spot.lost} if self.spot else {}
        return {
            "name": c.run.name,
            "fits": self.fits,
            "peak_memory_bytes": m.likely,
            "peak_memory": {
                "low": m.low,
                "likely": m.likely,
                "high": m.high,
                "limit": m.limit,
                "moment": m.moment,
                "parts": m.parts,
                "on_host": m.on_host,
                "longest_row": {"tokens": m.row[0], "supervised": m.row[1]},
            },
            "seconds": self.seconds and self.seconds[1],
            "no_time": self.no_time,
            "time": t
            and {
                **dict(zip(RANGE, self.seconds or (), strict=True)),
                "parts": t.parts | lost,
                "bound_by": t.bound,
                "flops": t.flops,
                "mfu": asdict(t.mfu),
            },
            "usd": self.usd and self.usd[1],
            "cost": self.usd
            and {
                **dict(zip(RANGE, self.usd, strict=True)),
                "per_gpu_hour": self.price and asdict(self.price),
                "parts": {
                    part: seconds / 3600 * c.count * self.price.usd
                    for part, seconds in ((t.parts if t else {}) | lost).items()
                    if self.price
                },
            },
            "no_price": self.no_price,
            "spot": self.spot and asdict(self.spot),
            "gradient_checkpointing": c.gradient_checkpointing,
            "gpu": c.gpu,
            "count": c.count,
            "steps": self.plan.steps,
            "tokens": int(self.plan.step_tokens.sum()),
            "supervised_tokens": int(self.plan.step_supervised.sum()),
            "accumulation": self.plan.accumulation,
            "weights": {"all": m.weights.all, "trained": m.weights.trained},
            "data": self.data,
        }


class Estimator:
    """Estimates configs; what several of them share is counted once.

    Args:
        stands_for: steps of the whole run where only its first `BRIEF` are planned: these hold random conversations, so
            time is scaled up from them. None: all are planned.
        plan: waits for the plan of the first config, where another process makes it.
    """

    def __init__(self, stands_for: int | None = None, plan: Callable[[], Plan | None] | None = None) -> None:
        self.stands_for, self._ahead = stands_for, plan
        self._made: dict[str, Any] = {}

    def _once(self, what: str, decided_by: list[Any], make: Callable[[], T]) -> T:
        """Made now, or the same that was made before for the same values."""
        key = json.dumps([what, decided_by])
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def estimate(self, config: EstimateConfig) -> Estimate:
        """What a config needs.

        Raises:
            ConfigError: the GPU, the cloud's price or the run to calibrate by is not known, or most steps would leave
                some GPUs without anything to do.
            DataError, MissingPath, ModelError, TemplateError: the data or the model cannot be read.
        """
        gpu = None if config.gpu == "cpu" else gpu_named(config.gpu)
        price, no_price = _price_of(config, gpu)
        ahead = self._ahead() if self._ahead else None
        self._ahead = None
        lengths = [TokensRecipe.values_of(config), config.tokenizer, config.conversations]
        known = self._once("lengths", lengths, lambda: sizes_of(config))
        refuse_idle(config, known)
        steps = [*lengths, StepsRecipe.values_of(config), config.tokens_per_device, config.packing, config.count]
        plan = self._once("plan", steps, lambda: ahead or plan_run(self._shortened(config), known.sizes, config.count))
        prove(model_config(config))  # what the train job would refuse is refused here, in the same words
        weights, flops = self.model(config)
        asked, config = config, self._resolved(config, plan, weights, gpu)
        memory = self._memory(config, plan, weights, gpu)
        if gpu is None:
            return Estimate(asked, config, plan, known.source, memory, None, NO_SPEED, None, None)
        if flops is None:
            return Estimate(asked, config, plan, known.source, memory, None, NO_FLOPS, price, None, no_price)
        times = self.stands_for / plan.steps if self.stands_for else 1.0
        time = time_of(config, plan, times, known.conversations, gpu, memory, flops.of_steps(plan))
        stops = _spot(config, time, memory) if config.price == "spot" else None
        return Estimate(asked, config, plan, known.source, memory, time, None, price, stops, no_price)

    def _resolved(self, config: EstimateConfig, plan: Plan, weights: Weights, gpu: Gpu | None) -> EstimateConfig:
        """The config with each `auto` resolved as the run would on such a GPU."""
        config = resolved(config, self._built(config)[0], gpu is not None)
        if config.gradient_checkpointing != "auto":
            return config
        return at_level(config, lightest(lambda level: self._memory(at_level(config, level), plan, weights, gpu)))

    def _shortened(self, config: EstimateConfig) -> EstimateConfig:
        if not self.stands_for or self.stands_for <= BRIEF:
            return config
        return config.model_copy(update={"trainer": config.trainer.model_copy(update={"max_steps": BRIEF})})

    def _memory(self, config: EstimateConfig, plan: Plan, weights: Weights, gpu: Gpu | None) -> Memory:
        decided_by = [Recipe.values_of(config), Layout.values_of(config), id(plan), gpu is None]
        found = self._once("memory", decided_by, lambda: memory_of(config, plan, weights, gpu and gpu.memory))
        return replace(found, limit=gpu.memory) if gpu else found

    def model(self, config: EstimateConfig) -> tuple[Weights, Flops | None]:
        """What a config's whole model weighs, and the FLOPs that it needs, where they are known.

        Raises:
            ModelError: it cannot be built.
        """
        return self._built(config)[1:]

    def _built(self, config: EstimateConfig) -> tuple[PreTrainedModel, Weights, Flops | None]:
        """The same, with the model itself: names and shapes without numbers."""

        def make() -> tuple[PreTrainedModel, Weights, Flops | None]:
            model = build_model(config, None, "meta")
            return model, Weights.of(model, config.finetune.facts.in_4_bits), flops_of(model)

        decided_by = [ModelRecipe.values_of(config), config.context_length, config.strategy.model_dump()]
        return self._once("model", decided_by, make)


def estimate_run(config: EstimateConfig) -> Estimate:
    """What a run needs: `estimate_run(load("estimate", "experiment=vicuna_13b", "gpu=h100", "count=8"))`.

    Raises:
        ConfigError, DataError, MissingPath, ModelError, TemplateError: bad input.
    """
    return Estimator().estimate(existing(config, weights=False))


def _price_of(config: EstimateConfig, gpu: Gpu | None) -> tuple[Price | None, str | None]:
    """The price, or why there is none: memory and hours are known without it.

    Raises:
        ConfigError: a cloud that was named has none, or there is no such table.
    """
    if gpu is None:
        return None, None
    try:
        return price_of(gpu.name, config.price, config.cloud, config.prices), None
    except NoPriceError as error:
        if config.cloud != "any":
            raise
        return None, str(error)


def _spot(config: EstimateConfig, time: Time, memory: Memory) -> Spot:
    life = config.hours_between_interruptions * 3600
    save = memory.weights.trained * STATE_BYTES / SAVE_RATE
    best = spot.daly(save, life)
    every = config.checkpoint.every_minutes
    interval = every * 60 if every else best
    starting = time.parts.get("starting", 0.0)
    if (starting + min(interval, time.likely) + save) / life > HOPELESS:
        late = f"a machine would be gone before it has started ({starting:.0f} s), worked and saved ({save:.0f} s)"
        hours = f"hours_between_interruptions={config.hours_between_interruptions:g}"
        raise ConfigError([f"{hours}: {late}: the run would not end; price=on-demand"])
    machine = spot.expected(time.likely, starting, min(interval, time.likely), save, life)
    return Spot(machine / life, max(0.0, machine - time.likely), save, best)
