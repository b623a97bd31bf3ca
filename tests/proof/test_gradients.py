"""The gradient's norm: exact, however the gradient is cut, and without copies of it; clipping."""

from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from vicuna_lit.train.gradients import SMALL, clip_factor, scale, squared_norm

LARGE = 3 * SMALL + 77
GRADIENTS = {
    "normal": lambda: torch.randn(LARGE),
    "of every size": lambda: torch.randn(LARGE) * torch.exp(3 * torch.randn(LARGE)),
    "all the same": lambda: torch.full((LARGE,), 0.1),
    "bf16": lambda: torch.randn(LARGE).bfloat16(),
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("cuts", [1, 2, 3, 7])
def test_the_norm_is_that_of_fp64_however_it_is_cut(kind, cuts):
    torch.manual_seed(0)
    gradient = GRADIENTS[kind]()
    exact = gradient.double().norm().item()
    squares = [squared_norm(part) for part in gradient.chunk(cuts)]
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(exact, rel=1e-7)


def test_what_is_small_is_summed_in_fp64():
    torch.manual_seed(0)
    gradient = torch.randn(300, 70)
    assert torch.equal(squared_norm(gradient), torch.linalg.vector_norm(gradient, dtype=torch.float64).square())
    assert squared_norm(torch.zeros(0)) == 0


def largest_copy(norm, gradient: torch.Tensor) -> int:
    """Bytes of the largest tensor that is made, inside torch's operations too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        norm(gradient)
    return max(event.self_cpu_memory_usage for event in seen.key_averages())


def test_no_copy_is_made():
    gradient = torch.randn(4 * SMALL)
    assert largest_copy(squared_norm, gradient) < 0.1 * gradient.numel()
    assert largest_copy(partial(torch.linalg.vector_norm, dtype=torch.float64), gradient) >= 8 * gradient.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [0.37, 1e9])
def test_clipping_by_a_tensor_gives_the_bits_of_clipping_by_a_number(dtype, limit):
    torch.manual_seed(0)
    gradient = torch.randn(1000).to(dtype)
    norm = squared_norm(gradient).sqrt()
    by_number = gradient * min(1.0, limit / (float(norm) + 1e-6))
    clipped = gradient.clone()
    scale([clipped], clip_factor(norm, limit))
    assert torch.equal(clipped, by_number)
    assert torch.equal(clipped, gradient) == (limit > 1)


def test_a_factor_of_one_multiplies_nothing():
    gradient = torch.randn(10)
    version = gradient._version
    scale([gradient], clip_factor(torch.tensor(2.0, dtype=torch.float64), 2.1))
    assert gradient._version == version
