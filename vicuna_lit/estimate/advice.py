"""What to change: so that it fits, or so that it is cheaper and still done in time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vicuna_lit.config.choices import FinetuneConfig, FSDPConfig, SingleConfig
from vicuna_lit.config.compose import ConfigError, load
from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.estimate.run import Estimate, Estimator
from vicuna_lit.estimate.tables import price_table

SINGLE = SingleConfig(kind="single")
FSDP, OFFLOADED = (FSDPConfig(kind="fsdp", offload=offload) for offload in (False, True))
"""What is advised for one device, for several, and where those hold too little."""
MOST_SHOWN = 4
COUNTS = (1, 2, 4, 8, 16)
"""GPUs that the search for the cheapest setting tries."""


@dataclass(frozen=True)
class Change:
    """Overrides, and what the estimate is with them."""

    overrides: tuple[str, ...]
    estimate: Estimate
    same_run: bool
    """Whether the mathematics stay; adapters and bf16 weights make another experiment."""


def to_fit(found: Estimate) -> list[Change]:
    """The smallest sets of changes with which a run fits, those that keep the mathematics first."""
    estimator = Estimator(found.plan.steps)
    singles = [(step, tried) for step in _less_memory(found.asked) if (tried := _with(estimator, found, [step]))]
    out = [Change((step.override,), tried, step.same_run) for step, tried in singles if tried.fits]
    by_gain = [step for step, tried in sorted(singles, key=lambda one: one[1].memory.likely)]
    if not any(change.same_run for change in out):
        out += _together(estimator, found, [step for step in by_gain if step.same_run])
    if not out:
        out += _together(estimator, found, by_gain)
    out.sort(key=lambda c: (not c.same_run, len(c.overrides), (c.estimate.usd or (0, 0))[1], c.estimate.memory.likely))
    return out[:MOST_SHOWN]


def _together(estimator: Estimator, found: Estimate, steps: list["_Step"]) -> list[Change]:
    """Adds the most helpful steps until it fits, then drops those it does not need; empty where nothing fits."""
    chosen: list[_Step] = []
    tried: Estimate | None = found
    for step in steps:
        if tried and tried.fits:
            break
        if step.key not in {s.key for s in chosen}:
            chosen.append(step)
            tried = _with(estimator, found, chosen)
    if tried is None or not tried.fits:
        return []
    for step in list(chosen):
        fewer = [s for s in chosen if s is not step]
        without = _with(estimator, found, fewer)
        if without and without.fits:
            chosen, tried = fewer, without
    return [Change(tuple(s.override for s in chosen), tried, all(s.same_run for s in chosen))]


def _with(estimator: Estimator, found: Estimate, steps: list["_Step"]) -> Estimate | None:
    config = found.asked
    for step in steps:
        config = config.model_copy(update=step.fields)
    return _tried(estimator, config)


@dataclass(frozen=True)
class _Step:
    """A single change that makes a run smaller."""

    override: str
    fields: dict[str, Any]
    same_run: bool = True

    @property
    def key(self) -> str:
        return self.override.split("=")[0]


def _less_memory(c: EstimateConfig) -> Iterator[_Step]:
    if c.gradient_checkpointing not in ("full", "auto"):
        yield _Step("gradient_checkpointing=full", {"gradient_checkpointing": "full"})
    tokens = c.tokens_per_device // 2
    while tokens >= c.context_length:
        yield _Step(f"tokens_per_device={tokens}", {"tokens_per_device": tokens})
        tokens //= 2
    if c.lm_head == "plain":
        yield _Step("lm_head=chunked", {"lm_head": "chunked"})
    one_process = c.strategy.facts.one_process
    if not one_process and c.strategy.facts.sharded != "weights":
        yield _Step("strategy=fsdp", {"strategy": FSDP})
    if c.gpu != "cpu":
        for count in (c.count * 2, c.count * 4):
            more = {"count": count, "trainer": c.trainer.model_copy(update={"devices": count})}
            sharded = {"strategy": FSDP} if one_process else {}
            yield _Step(f"count={count}{' strategy=fsdp' * one_process}", more | sharded)
        if not one_process and c.count > 1 and c.strategy != OFFLOADED:
            yield _Step("strategy=fsdp_offload", {"strategy": OFFLOADED})
    if c.precision != "bf16-true":
        yield _Step("precision=bf16-true", {"precision": "bf16-true"}, same_run=False)
    if c.finetune.kind == "full":
        yield _Step("finetune=lora", {"finetune": _adapters("lora")}, same_run=False)
    if c.gpu != "cpu" and c.finetune.kind in ("full", "lora") and c.model.kind == "pretrained":
        alone = c.count == 1 and not one_process
        fields = {"finetune": _adapters("qlora")} | ({"strategy": SINGLE} if alone else {})
        yield _Step(f"finetune=qlora{' strategy=single' * alone}", fields, same_run=False)


def _adapters(kind: str) -> FinetuneConfig:
    """As `conf/finetune` has them."""
    given = ("model=local", "model.path=any", "data=quickstart", "experiment=vicuna")
    return load("train", *given, f"finetune={kind}").finetune


def cheapest(found: Estimate) -> list[Change]:
    """Ways to run the same mathematics, on every GPU with a price: those that fit and are done by the deadline, the
    cheapest first, each with as few GPUs as will do."""
    c, estimator = found.asked, Estimator(found.plan.steps)
    if isinstance(c.price, float) or c.gpu == "cpu":
        return []
    out: list[Change] = []
    for gpu in price_table(c.prices)["prices"]:
        for count in COUNTS:
            sharded = c.strategy if count > 1 else SINGLE
            if count > 1 and c.strategy.facts.one_process:
                sharded = FSDP
            trainer = c.trainer.model_copy(update={"devices": count})
            config = c.model_copy(update={"gpu": gpu, "count": count, "strategy": sharded, "trainer": trainer})
            tried = _tried(estimator, config)
            if tried and tried.fits and tried.seconds and tried.usd and _in_time(tried):
                strategy = "single" if count == 1 else "" if sharded == c.strategy else "fsdp"
                named = (f"gpu={gpu}", f"count={count}", *([f"strategy={strategy}"] if strategy else []))
                out.append(Change(named, tried, True))
                break  # more GPUs are faster and not cheaper
    out.sort(key=lambda change: (change.estimate.usd or (0.0, 0.0))[1])
    return out[:MOST_SHOWN]


def _in_time(estimate: Estimate) -> bool:
    deadline = estimate.config.deadline_hours
    return deadline is None or (estimate.seconds is not None and estimate.seconds[1] <= deadline * 3600)


def _tried(estimator: Estimator, config: EstimateConfig) -> Estimate | None:
    """None where such a run is impossible or has no price."""
    try:
        return estimator.estimate(EstimateConfig.model_validate(config.model_dump()))
    except (ConfigError, ValueError):
        return None
