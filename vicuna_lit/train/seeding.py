"""The random numbers of a run, and those of the process that it is called in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

LIGHTNINGS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""What `seed_everything` leaves in the environment; the next trainer of the script would take it for the user's."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block Python's, NumPy's and torch's random numbers are those of a seed.

    After it the caller's own go on as if nothing had been drawn: a script that draws the settings of its runs would
    else draw the same ones again after each of them.
    """
    before, of_script = {name: os.environ.get(name) for name in LIGHTNINGS}, torch.initial_seed()
    used = torch.cuda.is_initialized()
    gpus = [torch.cuda.current_device()] if used else []  # others would get a context
    with isolate_rng(include_cuda=False), torch.random.fork_rng(gpus):
        L.seed_everything(seed, verbose=False)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            if torch.cuda.is_initialized() and not used:  # a GPU begins with the seed that the script has given
                torch.cuda.manual_seed_all(of_script)
