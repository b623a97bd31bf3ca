"""A run in a script or notebook: neither changes what the other computes."""

import os
import random

import numpy as np
import pytest
import torch

from vicuna_lit.train.distributed import plain_torch
from vicuna_lit.train.seeding import LIGHTNINGS, seeded


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


@pytest.mark.promise("A run leaves the random numbers of the script that calls it as they were")
def test_a_script_draws_on_after_a_run_as_if_there_had_been_none(monkeypatch):
    for name in LIGHTNINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")

    def script(runs: bool) -> list[tuple[float, float, float]]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        found = []
        for _ in range(2):
            if runs:
                with seeded(0):
                    inside.append(draws())
            found.append(draws())
        return found

    inside: list[tuple[float, float, float]] = []
    assert script(runs=True) == script(runs=False)
    assert inside[0] == inside[1], "a run's own are those of its seed"
    with pytest.raises(KeyError), seeded(0):
        raise KeyError
    assert os.environ["PL_GLOBAL_SEED"] == "7" and "PL_SEED_WORKERS" not in os.environ


def test_what_a_notebook_has_set_of_torch_changes_no_run():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.inference_mode():
            with plain_torch():
                weight = torch.ones(2, 2, requires_grad=True)
                product = weight @ weight
                product.sum().backward()
                assert (product.dtype, product.device.type) == (torch.float32, "cpu") and weight.grad is not None
            assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
            assert torch.ones(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
