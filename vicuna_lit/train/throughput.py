"""How fast a run is: useful tokens, model FLOP/s of a device, and their share of what the device can do (MFU)."""

import re
import statistics

import numpy as np
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from transformers import PreTrainedModel

from vicuna_lit.data.schedule import Plan
from vicuna_lit.train.choices import LoraConfig
from vicuna_lit.train.config import TrainConfig
from vicuna_lit.train.flops import count_flops

TRUSTED = re.compile(r"\b(A100|H100(?!.*NVL)|V100|T4|L4)\b")
"""GPUs whose peak in Lightning's table is that of dense tensor-core products. For others (H200, H100 NVL, A6000, RTX,
…) it holds the peak with sparsity, or that of the plain cores, and MFU would be off by factors of 2 to 4."""


class Throughput:
    """The speed of optimizer steps, by the wall clock: what a step waits for data and saves counts.

    Args:
        model: on one process, before it is sharded.
    """

    def __init__(self, config: TrainConfig, model: PreTrainedModel, plan: Plan):
        named = dict(model.named_parameters(remove_duplicate=False))
        rank = config.finetune.rank if isinstance(config.finetune, LoraConfig) else 0
        flops = count_flops(model.config, list(named), [n for n, p in named.items() if p.requires_grad], rank)
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


def peak_flops(config: TrainConfig) -> float | None:
    """FLOP/s of one device at the run's precision: as the config says, else by Lightning's table; None: unknown."""
    if config.trainer.peak_tflops is not None:
        return config.trainer.peak_tflops * 1e12
    if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return None
    if not TRUSTED.search(torch.cuda.get_device_name()):
        return None
    return get_available_flops(torch.device("cuda"), torch.float32 if config.precision == "fp32" else torch.bfloat16)
