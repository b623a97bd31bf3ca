"""How long a run takes: its useful FLOPs over what the GPUs reach, and what must travel meanwhile."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vicuna_lit.config.compose import ConfigError
from vicuna_lit.config.estimate import EstimateConfig
from vicuna_lit.data.plan import Plan
from vicuna_lit.estimate.memory import Memory
from vicuna_lit.estimate.tables import Gpu, Speeds, speeds_of

PER_MACHINE = 8
"""GPUs of one machine."""
LINK_SHARE = (0.8, 0.6, 0.4)
"""Of a link's rate that collectives reach, at best, likely, and at worst."""
HOST_LINK = 20e9
"""Bytes/s between a GPU and the CPU's memory (PCIe 4 × 16), which offloaded weights and gradients cross."""
HOST_MEMORY = 60e9
"""Bytes/s of the CPU's memory that one process has, where the optimizer works there."""
READING = 1e9
"""Bytes/s at which weights come from disk as a run starts."""
STARTING = 120.0
"""Seconds of a start besides: processes, imports, tokenising, the first kernels."""
OUR_SHARE = 0.85
"""The likely speed as a share of the published median, which are those of codebases tuned for their cluster: this one
was never timed on a GPU. `calibrate` takes a run of yours in their place."""


@dataclass(frozen=True)
class Time:
    """Seconds without interruptions."""

    low: float
    likely: float
    high: float
    parts: dict[str, float]
    """Of `likely`."""
    bound: str
    """What training waits for."""
    flops: float
    """Useful ones of the whole run, all GPUs together."""
    mfu: Speeds
    """Share of the peak in computing, where low is the slowest."""


def time_of(
    config: EstimateConfig,
    plan: Plan,
    times: float,
    conversations: int,
    gpu: Gpu,
    memory: Memory,
    flops: np.ndarray,
) -> Time:
    """How long a plan takes.

    Args:
        times: how often the run holds the plan's steps.
        conversations: that the plan's pieces are of.
        flops: float64 [steps], useful ones of each step, on all devices together.

    Raises:
        ConfigError: `calibrate` names no run with a speed, or the GPU has no bf16 and shall have.
    """
    peak = gpu.peak(config.precision)
    speeds = _speeds(config, gpu, peak)
    steps, work = plan.steps * times, float(flops.sum()) * times
    computing = [
        work * _imbalance(plan) / (plan.world_size * peak * 1e12 * share)
        for share in (speeds.high, speeds.likely, speeds.low)
    ]
    travelling = [
        steps * plan.accumulation * _traffic(config, plan, memory) / (_link(plan, gpu) * share) for share in LINK_SHARE
    ]
    offloading = steps * _offloading(plan, memory)
    stepping = steps * memory.parts.get("optimizer", 0) * 2 / (gpu.bandwidth * 1e9)
    passes = _validated_passes(config, steps, conversations)
    examining = passes * computing[1] / (plan.epochs * times) / 3  # forward alone
    starting = STARTING + memory.weights.bytes / READING
    around = examining + starting + stepping + offloading
    low, likely, high = (max(a, b) + around for a, b in zip(computing, travelling, strict=True))
    waits = max(0.0, travelling[1] - computing[1])
    parts = {
        "computing": computing[1],
        "waiting for the network": waits,
        "offloading": offloading,
        "optimizer steps": stepping,
        "validation losses": examining,
        "starting": starting,
    }
    causes = {"computing": computing[1], "the network": travelling[1], "offloading": offloading}
    bound = max(causes, key=lambda cause: causes[cause])
    return Time(low, likely, high, {k: v for k, v in parts.items() if v}, bound, work, speeds)


def _validated_passes(config: EstimateConfig, steps: float, conversations: int) -> float:
    """How often all that is trained on would have to be read to take every validation loss."""
    every = config.validation.interval(int(steps))
    count = 2 + (steps // every if every else 0)
    most = (config.data.max_validation or 0) * len(config.data.paths)
    return count * (min(most, conversations) / conversations)


def _speeds(config: EstimateConfig, gpu: Gpu, peak: float) -> Speeds:
    if config.mfu is not None:
        return Speeds(config.mfu * 0.9, config.mfu, min(1.0, config.mfu * 1.1), "mfu=… by hand, ± 10%")
    if config.calibrate is not None:
        return _calibrated(config.calibrate, gpu, peak)
    found = speeds_of(gpu, config.context_length, config.gradient_checkpointing != "none")
    low, likely = found.low * OUR_SHARE**2, found.likely * OUR_SHARE
    return Speeds(low, likely, found.high, f"{found.source}; likely is {OUR_SHARE} of their median")


def _calibrated(path: str, gpu: Gpu, peak: float) -> Speeds:
    """The speed of a run of one's own."""
    file = Path(path) / "result.json" if Path(path).is_dir() else Path(path)
    try:
        speed = json.loads(file.read_bytes()).get("model_tflops_per_second")
    except (OSError, ValueError) as error:
        raise ConfigError([f"calibrate={path}: {error}"]) from None
    if not speed:
        raise ConfigError([f"calibrate={path}: it has no model_tflops_per_second; did that run finish?"])
    share = speed / peak
    if share > 1:
        raise ConfigError([f"calibrate={path}: {speed:.0f} TFLOP/s are more than a {gpu.name} can do ({peak:g})"])
    return Speeds(share * 0.95, share, min(1.0, share * 1.05), f"{file}: {speed:.4g} TFLOP/s, ± 5%")


def _imbalance(plan: Plan) -> float:
    """The slowest rank's work over the mean, on average over (at most 200 of) the steps."""
    steps = range(0, plan.steps, max(1, plan.steps // 200))
    costs = np.array([plan.rank_costs(step) for step in steps])
    return float((costs.max(1) / costs.mean(1)).mean())


def _link(plan: Plan, gpu: Gpu) -> float:
    """Bytes/s of a ring over all devices; between machines its parts go over all network cards together."""
    return (gpu.link if plan.world_size <= PER_MACHINE else min(gpu.link, gpu.network)) * 1e9


def _traffic(config: EstimateConfig, plan: Plan, memory: Memory) -> float:
    """Bytes that a device sends for each of its rows (Rajbhandari et al. 2020, §7: rings of all-gather and
    reduce-scatter, each (n − 1) / n of what travels)."""
    w, n = memory.weights, plan.world_size
    ring = (n - 1) / n
    gradients = w.trained * w.trained_bytes * ring
    match config.strategy.facts.sharded:
        case "weights":
            return 2 * w.bytes * ring + gradients
        case "gradients":
            return gradients + w.bytes * ring / plan.accumulation
        case "nothing" | "state":
            return 2 * gradients / plan.accumulation


def _offloading(plan: Plan, memory: Memory) -> float:
    """Seconds of a step in which shards travel to the GPU and back, and the CPU takes the optimizer's step."""
    if not memory.on_host:
        return 0.0
    w, n = memory.weights, plan.world_size
    each_row = (2 * w.bytes + w.trained * w.trained_bytes) / n / HOST_LINK
    each_step = 2 * memory.on_host / HOST_MEMORY
    return plan.accumulation * each_row + each_step
