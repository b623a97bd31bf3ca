"""What the backward pass keeps, fetches or computes again changes no bit; compiling serves rows of any length."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.data.batch import Batch
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.activations import OnCpu
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.train.distributed import deterministic_kernels

SHALLOW = next(c for c in COMMON if c.startswith("model.architecture"))
DEEP = SHALLOW.replace("num_hidden_layers: 2", "num_hidden_layers: 6")


def built(*overrides: str) -> SupervisedLM:
    config = load("train", *COMMON, DEEP, *overrides)
    encoder = make_encoder(config)
    torch.manual_seed(0)
    return SupervisedLM.of(build_model(config, encoder), config)


def row(*lengths: int) -> Batch:
    torch.manual_seed(sum(lengths))
    ids = torch.randint(3, 500, (1, sum(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return Batch(ids, ids.clone(), positions, lengths, sum(lengths))


def gradients(lm: SupervisedLM, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    lm.zero_grad()
    loss = lm(SupervisedLM.row_loss, batch)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in lm.parameters() if p.grad is not None]


def kept_bytes(lm: SupervisedLM, batch: Batch) -> int:
    """Bytes of the tensors that the forward pass leaves for the backward pass."""
    kept: dict[int, int] = {}

    def keep(t: torch.Tensor) -> torch.Tensor:
        kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    with saved_tensors_hooks(keep, lambda t: t):
        loss = lm(SupervisedLM.row_loss, batch)
    del loss
    return sum(kept.values())


MODES = ["full", "every_2", "every_3", "attention"]


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("mode", [*(f"gradient_checkpointing={m}" for m in MODES), "offload_activations=true"])
@pytest.mark.promise("Checkpointing and offloading change no bit")
def test_the_bits_stay(mode: str, precision: str):
    plain, other = built(f"precision={precision}"), built(f"precision={precision}", mode)
    loss, expected = gradients(plain, row(40, 7, 90))
    again, found = gradients(other, row(40, 7, 90))
    assert torch.equal(loss, again)
    assert len(found) == len(expected) > 50
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16-true"])
def test_offloading_moves_activations_and_no_weights(precision: str):
    """Under autocast also no bf16 copy of one."""
    lm = built(f"precision={precision}")
    offload = OnCpu(lm.model.parameters())
    moved, stayed = [], []

    def keep(t: torch.Tensor) -> torch.Tensor:
        (moved if offload.moves(t) else stayed).append(t)
        return t

    with saved_tensors_hooks(keep, lambda t: t):
        lm.hidden(row(40, 7, 83))
    shapes = {tuple(p.shape) for p in lm.model.parameters() if p.ndim == 2}
    assert stayed and not {tuple(t.shape) for t in moved} & shapes
    assert sum(t.nbytes for t in moved) > 20 * 130 * 64 * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_offloading_on_a_gpu_keeps_the_bits_and_less_memory(precision: str):
    loss, expected, peaks = None, [], {}
    for mode in ("false", "true"):
        lm = built(f"precision={precision}", f"offload_activations={mode}", "deterministic=true").cuda()
        torch.cuda.reset_peak_memory_stats()
        with deterministic_kernels(True):
            found = gradients(lm, row(900, 700, 400).to("cuda"))
        peaks[mode] = torch.cuda.max_memory_allocated()
        if loss is None:
            loss, expected = found
            continue
        assert torch.equal(loss, found[0])
        assert all(map(torch.equal, found[1], expected))
    assert peaks["true"] < peaks["false"]


def test_checkpointing_keeps_less():
    batch = row(100, 100)
    kept = {m: kept_bytes(built(f"gradient_checkpointing={m}"), batch) for m in ["none", *MODES]}
    assert kept["full"] < kept["every_2"] < kept["every_3"] < kept["none"]
    assert kept["full"] < kept["attention"] < kept["none"]
    assert kept["full"] < 0.5 * kept["none"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", "full", "attention"])
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.promise("A compiled model takes rows of any length without compiling again")
def test_compile_serves_rows_of_any_length(mode: str):
    """After the first row nothing is compiled again, whatever the lengths and however many conversations."""
    torch._dynamo.reset()
    plain, compiled = built(f"gradient_checkpointing={mode}"), built(f"gradient_checkpointing={mode}", "compile=true")
    rows = [row(30, 20), row(100), row(7, 8, 9, 10), row(2, 2), row(64, 64, 1), row(200, 3)]
    graphs = []
    for batch in rows:
        loss, expected = gradients(plain, batch)
        ours, found = gradients(compiled, batch)
        graphs.append(counters["stats"]["unique_graphs"])
        assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
        for a, b in zip(found, expected, strict=True):
            assert (a - b).norm() <= 1e-4 * b.norm()
    assert graphs[0] > 0, "something was compiled"
    assert set(graphs) == {graphs[0]}, "and never again"
