"""How fast a run is: useful tokens, model FLOP/s of a device, and their share of what the device can do (MFU)."""

import statistics

import numpy as np
from transformers import PreTrainedModel

from vicuna_lit.config.compose import ConfigError
from vicuna_lit.config.train import Computation
from vicuna_lit.data.plan import Plan
from vicuna_lit.estimate.tables import gpu_here, gpu_named
from vicuna_lit.models.automatic import on_gpu
from vicuna_lit.models.flops import flops_of


class Throughput:
    """The speed of optimizer steps, by the wall clock: what a step waits for data and saves counts.

    Args:
        model: on one process, before it is sharded.
    """

    def __init__(self, config: Computation, model: PreTrainedModel, plan: Plan):
        flops = flops_of(model)
        self.plan, self.peak = plan, peak_flops(config)
        self.flops: np.ndarray | None = flops and flops.of_steps(plan)
        """float64 [steps], on all devices together; None where the model's cannot be counted."""
        self._of_steps: list[float] = []

    def figures(self, step: int, seconds: float) -> dict[str, float]:
        """Of a step (from 1) that took so long; FLOP/s and MFU of one device, the mean of all."""
        supervised, tokens = int(self.plan.step_supervised[step - 1]), int(self.plan.step_tokens[step - 1])
        found = {
            "speed/supervised_tokens_per_second": supervised / seconds,
            "speed/tokens_per_second": tokens / seconds,
        }
        if self.flops is not None:
            per_second = float(self.flops[step - 1]) / self.plan.world_size / seconds
            self._of_steps.append(per_second)
            found["speed/model_tflops_per_second"] = per_second / 1e12
            if self.peak:
                found["speed/mfu"] = per_second / self.peak
        return found

    @property
    def tflops_per_second(self) -> float | None:
        """Of one device, the median of the steps that this process took."""
        return statistics.median(self._of_steps) / 1e12 if self._of_steps else None

    @property
    def mfu(self) -> float | None:
        """The same as a share of the device's peak; None where that is unknown."""
        median = self.tflops_per_second
        return median * 1e12 / self.peak if self.peak and median is not None else None


def peak_flops(config: Computation) -> float | None:
    """FLOP/s of one device at the run's precision: as the config says, else as `estimate/gpus.yaml`; None: unknown.

    Lightning's table has sparse peaks for some cards and plain cores for others; MFU would be off by up to 4.
    """
    if config.trainer.peak_tflops is not None:
        return config.trainer.peak_tflops * 1e12
    if not on_gpu(config):
        return None
    try:
        return gpu_named(gpu_here()).peak(config.precision) * 1e12
    except ConfigError:  # no such card in the table, or none with bf16
        return None
