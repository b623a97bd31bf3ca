"""Every attention equals the plain one, wherever its kernel runs; a kernel that cannot run says so at once."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.runs import QUICKSTART
from vicuna_lit.compose import load
from vicuna_lit.data.batch import collate
from vicuna_lit.data.build import build
from vicuna_lit.formats import read
from vicuna_lit.paths import ModelError
from vicuna_lit.tokenizer import make_encoder
from vicuna_lit.train import attention
from vicuna_lit.train.attention import KERNELS, Layout, sdpa_per_conversation
from vicuna_lit.train.model import SupervisedLM, build_model

LENGTHS = (5, 1, 130, 64, 17)
gpu = pytest.mark.gpu


def heads(kv_heads: int = 2, dtype: torch.dtype = torch.float32, device: str = "cpu"):
    torch.manual_seed(0)
    sizes = ((4, 16), (kv_heads, 16), (kv_heads, 16))
    return [torch.randn(1, n, sum(LENGTHS), d, dtype=dtype, device=device) for n, d in sizes]


def plain(q, k, v, scale=None):
    """One conversation at a time, the mask written out, K and V repeated for grouped queries."""
    out = []
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    for q1, k1, v1 in zip(q.split(LENGTHS, 2), k.split(LENGTHS, 2), v.split(LENGTHS, 2), strict=True):
        n = q1.shape[2]
        mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
        out.append(scaled_dot_product_attention(q1, k1, v1, mask, scale=scale))
    return torch.cat(out, 2)


def compare(kernel: str, backward: bool, kv_heads: int, scale: float | None, dtype=torch.float32, device="cpu"):
    qkv = [x.requires_grad_(backward) for x in heads(kv_heads, dtype, device)]
    layout = Layout(LENGTHS, device)
    q, k, v = qkv
    ours = KERNELS[kernel](q, k, v, layout, scale)
    reference = [x.detach().double().requires_grad_() for x in qkv]
    theirs = plain(*reference, scale=scale)
    near: Any = {torch.float32: (1e-4, 1e-5), torch.bfloat16: (2e-2, 2e-2)}[dtype]
    torch.testing.assert_close(ours.double(), theirs, rtol=near[0], atol=near[1])
    if backward:
        weight = torch.randn_like(theirs)
        (ours.double() * weight).sum().backward()
        (theirs * weight).sum().backward()
        for a, b in zip(qkv, reference, strict=True):
            assert a.grad is not None
            torch.testing.assert_close(a.grad.double(), b.grad, rtol=near[0], atol=near[1])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel", "backward"), [("sdpa_per_conversation", True), ("sdpa_mask", True), ("flex", False)]
)
def test_kernels_of_the_cpu(kernel: str, backward: bool, kv_heads: int, scale: float | None):
    """torch has no backward pass of flex attention on the CPU; its forward pass is compared."""
    with torch.set_grad_enabled(backward):
        compare(kernel, backward, kv_heads, scale)


@gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("kernel", ["sdpa_per_conversation", "sdpa_mask", "flash", "varlen", "flex"])
def test_kernels_of_the_gpu(kernel: str, kv_heads: int):
    if kernel == "flash":
        pytest.importorskip("flash_attn")
    compare(kernel, True, kv_heads, None, torch.bfloat16, "cuda")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_model_reaches_every_kernel(kernel: str, monkeypatch):
    """transformers takes the name for ours and hands over rows, layout and no mask; the kernel is a stand-in."""
    calls = []

    def stand_in(q, k, v, layout, scale):
        calls.append(layout.lengths)
        return sdpa_per_conversation(q, k, v, layout, scale)

    monkeypatch.setitem(KERNELS, kernel, stand_in)
    monkeypatch.setattr(attention, "require", lambda *_: None)
    losses = []
    for choice in (kernel, "sdpa_per_conversation"):
        config = load("train", f"attention={choice}")
        encoder = make_encoder(config)
        torch.manual_seed(0)
        lm = SupervisedLM.of(build_model(config, encoder), config)
        examples, _ = build(read(QUICKSTART / "heldout.jsonl"), encoder, 256, most=3)
        losses.append(lm(SupervisedLM.loss_sum, collate(examples, (0, 1, 2), 1)).item())
    assert losses[0] == losses[1]
    assert calls[:4] == [tuple(int(n) for n in examples.lengths)] * 4


def test_what_flash_attention_is_given(monkeypatch):
    """A stand-in with flash-attn's own signature, computed plainly: the plumbing, not the kernel."""
    seen = {}

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options):
        seen.update(options, q=q, k=k, cu=cu_seqlens_q, cu_k=cu_seqlens_k, most=(max_seqlen_q, max_seqlen_k))
        assert options["causal"]
        return torch.cat(
            [
                scaled_dot_product_attention(
                    *(x[a:b].transpose(0, 1)[None] for x in (q, k, v)),
                    is_causal=True, scale=options["softmax_scale"], enable_gqa=True,
                )[0].transpose(0, 1)
                for a, b in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True)
            ]
        )  # fmt: skip

    for name, wraps in (("flash_attn", lambda x: x), ("flash_attn_interface", lambda x: (x, None))):
        module = ModuleType(name)
        module.flash_attn_varlen_func = lambda *a, wraps=wraps, **k: wraps(flash_attn_varlen_func(*a, **k))  # pyright: ignore[reportAttributeAccessIssue]
        module.__spec__ = sys.__spec__
        monkeypatch.setitem(sys.modules, name, module)
        compare("flash", True, 2, 0.3)
        assert seen["q"].shape == (sum(LENGTHS), 4, 16)
        assert seen["k"].shape == (sum(LENGTHS), 2, 16)
        assert seen["cu"].dtype == torch.int32
        assert seen["cu"].tolist() == seen["cu_k"].tolist() == [0, 5, 6, 136, 200, 217]
        assert seen["most"] == (130, 130)


def test_what_varlen_attention_is_given(monkeypatch):
    """The same for torch's own; its real signature is checked against the call."""
    import inspect

    from torch.nn.attention import varlen

    signature = inspect.signature(varlen.varlen_attn)
    seen = {}

    def stand_in(*args, **kwargs):
        seen.update(signature.bind(*args, **kwargs).arguments)
        return torch.zeros_like(args[0])

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    q, k, v = heads()
    assert KERNELS["varlen"](q, k, v, Layout(LENGTHS, "cpu"), 0.3).shape == q.shape
    assert seen["query"].shape == (sum(LENGTHS), 4, 16)
    assert seen["cu_seq_q"].tolist() == seen["cu_seq_k"].tolist() == [0, 5, 6, 136, 200, 217]
    assert (seen["max_q"], seen["max_k"], seen["scale"]) == (130, 130, 0.3)
    assert tuple(seen["window_size"]) == (-1, 0), "causal"
    assert seen["enable_gqa"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("attention=flash",), "attention=flash needs an NVIDIA GPU; attention=sdpa_per_conversation runs anywhere"),
        (("attention=varlen",), "attention=varlen needs an NVIDIA GPU"),
        (("attention=flex",), "attention=flex needs an NVIDIA GPU"),
        (("head=liger",), "head=liger needs an NVIDIA GPU and pip install liger-kernel; head=chunked runs anywhere"),
    ],
)
def test_a_choice_that_needs_a_gpu_stops_at_once(overrides: tuple[str, ...], expected: str):
    config = load("train", *overrides)
    with pytest.raises(ModelError, match=expected):
        build_model(config, make_encoder(config))


@pytest.mark.parametrize(
    ("kernel", "precision", "expected"),
    [("flash", "bf16-mixed", "pip install flash-attn"), ("varlen", "fp32", "attention=varlen has no fp32")],
)
def test_what_is_missing_on_a_gpu(kernel: str, precision: str, expected: str, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=expected):
        attention.require(kernel, precision)
