"""Peak memory: allocated and reserved on the GPU, resident on the CPU."""

import re
import resource
from contextlib import suppress
from pathlib import Path

import torch


def kernel_kills() -> int:
    """Processes that this machine's kernel has killed for lack of memory so far; 0 where it does not say."""
    with suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text("ascii"), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


class PeakMemory:
    """Peaks of one process, step by step and over all."""

    def __init__(self) -> None:
        self.overall = 0
        """Bytes, up to the last `step`."""
        self.reserved = 0
        """Of a GPU, what torch's allocator has taken for itself: it is out of memory when this is all there is."""

    def step(self) -> int:
        """The peak in bytes since the last call; the next one starts from what is in use now."""
        peak = _peak()
        self.overall = max(self.overall, peak)
        if torch.cuda.is_initialized():
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved())
        _forget_peak()
        return peak


def _peak() -> int:
    if torch.cuda.is_initialized():  # a run on the CPU of a machine with GPUs never wakes them
        return torch.cuda.max_memory_allocated()
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    except OSError:
        found = None
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024


def _forget_peak() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):  # no Linux, or not allowed: the peak is then that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5", "ascii")
