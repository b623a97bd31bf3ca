"""The random numbers of a run, and those of the process that it is called in."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import numpy as np
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


@contextmanager
def drawn_at(*place: int) -> Iterator[None]:
    """Inside the block random numbers are a function of these ones, in Python, NumPy and torch.

    What is drawn elsewhere changes nothing inside, nor the other way round: a run that goes on draws what it would have
    drawn, and a callback that draws leaves the losses alone. It takes a tenth of a millisecond.
    """
    seed = int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=4).digest(), "little")
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with isolate_rng(include_cuda=False), torch.random.fork_rng(gpus):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed(seed)
        yield
