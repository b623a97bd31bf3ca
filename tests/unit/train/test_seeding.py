"""A run in a script or notebook: neither changes what the other computes."""

import logging
import os
import random
import sys

import numpy as np
import pytest
import torch
from transformers.utils import logging as hf_logging

from vicuna_lit.train.console import libraries_restored, quiet_libraries
from vicuna_lit.train.distributed import deterministic_kernels, plain_torch
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


def test_a_gpu_that_a_run_was_the_first_to_use_begins_with_the_scripts_seed(monkeypatch):
    given, used = [], iter([False, True])
    torch.manual_seed(5)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: next(used))
        patch.setattr(torch.cuda, "manual_seed_all", lambda seed: given.append(seed) if seed != 0 else None)
        with seeded(0):
            pass
    assert given == [5]


def test_what_a_notebook_has_set_of_torch_changes_no_run():
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_flash_sdp(False)  # a CPU's, too
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.device("meta"), torch.inference_mode():
            with plain_torch():
                weight = torch.ones(2, 2, requires_grad=True)
                product = weight @ weight
                product.sum().backward()
                assert (product.dtype, product.device.type) == (torch.float32, "cpu") and weight.grad is not None
                assert torch.get_float32_matmul_precision() == "highest"
                assert torch.backends.cuda.flash_sdp_enabled()
                torch.backends.cuda.enable_cudnn_sdp(False)
            assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()) == (False, cudnn)
            assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
            assert torch.ones(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64 and torch.get_float32_matmul_precision() == "high"
        kinds = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
        for changed in kinds:  # by torch's newer names; then the older one may not even be asked for
            changed.fp32_precision = "ieee"
            of_each = [kind.fp32_precision for kind in kinds]
            with plain_torch():
                assert torch.get_float32_matmul_precision() == "highest"
            assert [kind.fp32_precision for kind in kinds] == of_each
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")


def test_libraries_speak_after_a_run_as_before(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_info()
    hf_logging.enable_progress_bar()
    try:
        monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", True)
        with deterministic_kernels(True), libraries_restored():
            assert hf_logging.get_verbosity() == logging.INFO
            quiet_libraries()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            assert hf_logging.get_verbosity() == logging.ERROR and not hf_logging.is_progress_bar_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
        assert hf_logging.get_verbosity() == logging.INFO and hf_logging.is_progress_bar_enabled()
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        with deterministic_kernels(True):
            pass
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        hf_logging.set_verbosity(before[0])
        if not before[1]:
            hf_logging.disable_progress_bar()
