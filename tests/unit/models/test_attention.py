"""Every attention equals the plain one, wherever its kernel runs; a kernel that cannot run says so at once."""

import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.helpers.examples import examples
from tests.helpers.runs import QUICKSTART
from vicuna_lit.config.compose import load
from vicuna_lit.data.batch import collate
from vicuna_lit.data.dataset import build_dataset
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models import attention
from vicuna_lit.models.attention import ANYWHERE, KERNELS, Form, RowLayout, sdpa_per_conversation
from vicuna_lit.models.causal_lm import SupervisedLM, build_model
from vicuna_lit.models.shrink import small_copy
from vicuna_lit.paths import ModelError
from vicuna_lit.records.readers import read

LENGTHS = (5, 1, 130, 64, 17)
PLAIN = Form()
FORMS = [
    PLAIN,
    Form(scale=0.3),
    Form(window=16),
    Form(window=1),
    Form(window=130),
    Form(softcap=0.5),
    Form(sinks=torch.tensor([-1.0, 0.0, 1.0, 3.0])),
    Form(scale=0.3, window=16, softcap=0.5, sinks=torch.tensor([-1.0, 0.0, 1.0, 3.0])),
]
RUN_HERE = ["sdpa_mask", ANYWHERE]
FORM_NAMES = ["plain", "scale", "window", "itself alone", "window as long", "softcap", "sinks", "all of them"]
gpu = pytest.mark.gpu


def heads(kv_heads: int = 2, dtype: torch.dtype = torch.float32, device: str = "cpu"):
    torch.manual_seed(0)
    sizes = ((4, 16), (kv_heads, 16), (kv_heads, 16))
    return [torch.randn(1, n, sum(LENGTHS), d, dtype=dtype, device=device) for n, d in sizes]


def plain(q, k, v, form: Form, lengths=LENGTHS):
    """One conversation at a time, everything written out, K and V repeated for grouped queries."""
    out = []
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    for q1, k1, v1 in zip(*(x.split(list(lengths), 2) for x in (q, k, v)), strict=True):
        n = q1.shape[2]
        back = torch.arange(n, device=q.device)[:, None] - torch.arange(n, device=q.device)
        scores = q1 @ k1.transpose(2, 3) * (form.scale or q.shape[-1] ** -0.5)
        if form.softcap:
            scores = torch.tanh(scores / form.softcap) * form.softcap
        scores = scores.masked_fill((back < 0) | (back >= (form.window or n)), -torch.inf).exp()
        rest = 0 if form.sinks is None else form.sinks.double().exp()[:, None, None]
        out.append(scores / (scores.sum(-1, keepdim=True) + rest) @ v1)
    return torch.cat(out, 2)


def compare(kernel: str, backward: bool, kv_heads: int, form: Form = PLAIN, dtype=torch.float32, device="cpu"):
    qkv = [x.requires_grad_(backward) for x in heads(kv_heads, dtype, device)]
    layout = RowLayout(LENGTHS, device)
    q, k, v = qkv
    ours = KERNELS[kernel](q, k, v, layout, form)
    reference = [x.detach().double().requires_grad_() for x in qkv]
    theirs = plain(*reference, form=form)
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
@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel", "backward"), [("sdpa_per_conversation", True), ("sdpa_mask", True), ("flex", False)]
)
@pytest.mark.promise("Every attention that runs here equals the plain one, values and gradients")
def test_kernels_of_the_cpu(kernel: str, backward: bool, kv_heads: int, form: Form):
    """torch has no backward pass of flex attention on the CPU; its forward pass is compared."""
    with torch.set_grad_enabled(backward):
        compare(kernel, backward, kv_heads, form)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 24), st.sampled_from(["sdpa_mask", ANYWHERE])
)
def test_conversations_about_as_long_as_the_window(lengths: list[int], window: int, kernel: str):
    generator, form = torch.Generator().manual_seed(0), Form(window=window)
    q, k, v = (torch.randn(1, n, sum(lengths), 8, generator=generator) for n in (4, 2, 2))
    ours = KERNELS[kernel](q, k, v, RowLayout(tuple(lengths), "cpu"), form)
    torch.testing.assert_close(ours, plain(q, k, v, form, lengths))


@gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.promise("Every attention that runs here equals the plain one, values and gradients")
def test_kernels_of_the_gpu(kernel: str, kv_heads: int, form: Form):
    if kernel == "flash":
        pytest.importorskip("flash_attn")
    if any(getattr(form, part) is not None for part in attention.LACKS.get(kernel, ())):
        pytest.skip("said by attend")
    compare(kernel, True, kv_heads, form, torch.bfloat16, "cuda")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_model_reaches_every_kernel(kernel: str, monkeypatch):
    """transformers takes the name for ours and hands over rows, layout and no mask; the kernel is a stand-in."""
    calls = []

    def stand_in(q, k, v, layout, form):
        calls.append(layout.lengths)
        return sdpa_per_conversation(q, k, v, layout, form)

    monkeypatch.setitem(KERNELS, kernel, stand_in)
    monkeypatch.setattr(attention, "require", lambda *_: None)
    losses = []
    for choice in (kernel, "sdpa_per_conversation"):
        config = load("train", f"attention={choice}")
        encoder = make_encoder(config)
        torch.manual_seed(0)
        lm = SupervisedLM.of(build_model(config, encoder), config)
        examples, _ = build_dataset(read(QUICKSTART / "validation.jsonl"), encoder, 256, most=3)
        losses.append(lm(SupervisedLM.row_loss, collate(examples, (0, 1, 2), 1)).item())
    assert losses[0] == losses[1]
    assert calls[:4] == [tuple(int(n) for n in examples.lengths)] * 4


@pytest.fixture
def fresh():
    """No FlashAttention is remembered, neither before nor after."""
    attention._flash.cache_clear()
    yield
    attention._flash.cache_clear()


class Flash:
    """flash-attn's function with its own arguments, computed plainly: the plumbing, not the kernel."""

    def __init__(self, softcap: bool = True, pair: bool = False):
        self.seen: dict[str, Any] = {}
        self.pair = pair

        def flash_attn_varlen_func(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False,
            window_size=(-1, -1), softcap=0.0, deterministic=False,
        ):  # fmt: skip
            self.seen = dict(locals())
            form = Form(softmax_scale, None if window_size[0] < 0 else window_size[0] + 1, softcap or None)
            q, k, v = (x.transpose(0, 1)[None].double() for x in (q, k, v))
            out = plain(q, k, v, form)[0].transpose(0, 1).float()
            return (out, None) if self.pair else out

        self.function = flash_attn_varlen_func


@pytest.mark.parametrize("form", FORMS[:6], ids=FORM_NAMES[:6])
@pytest.mark.parametrize(("name", "pair"), [("flash_attn", False), ("flash_attn_interface", True)])
def test_what_flash_attention_is_given(monkeypatch, fresh, name: str, pair: bool, form: Form):
    stand_in, module = Flash(pair=pair), ModuleType(name)
    module.flash_attn_varlen_func = stand_in.function  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, name, module)
    compare("flash", True, 2, form)
    seen = stand_in.seen
    assert seen["causal"]
    assert seen["q"].shape == (sum(LENGTHS), 4, 16)
    assert seen["k"].shape == (sum(LENGTHS), 2, 16)
    assert seen["cu_seqlens_q"].dtype == torch.int32
    assert seen["cu_seqlens_q"].tolist() == seen["cu_seqlens_k"].tolist() == [0, 5, 6, 136, 200, 217]
    assert (seen["max_seqlen_q"], seen["max_seqlen_k"]) == (130, 130)
    assert not seen["deterministic"]


def test_a_namespace_without_a_kernel_is_no_flash_attention(monkeypatch, fresh):
    """The wheel of flash-attn 4 has `flash_attn/cute` and no `flash_attn/__init__.py`."""
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ModelError, match="pip install flash-attn"):
        attention.require("flash", "bf16-mixed")


@pytest.mark.parametrize(("window", "expected"), [(None, (-1, 0)), (16, (15, 0)), (130, (-1, 0))])
@pytest.mark.parametrize("takes_groups", [True, False])
def test_what_varlen_attention_is_given(monkeypatch, window: int | None, expected: tuple[int, int], takes_groups: bool):
    """The same for torch's own; its real signature is checked against the call, with groups or not (torch 2.11)."""
    from torch.nn.attention import varlen

    real = inspect.signature(varlen.varlen_attn)
    parameters = [p for p in real.parameters.values() if p.name != "enable_gqa"]
    if takes_groups:
        parameters.append(inspect.Parameter("enable_gqa", inspect.Parameter.KEYWORD_ONLY, default=False))
    signature, seen = real.replace(parameters=parameters), {}

    def stand_in(*args, **kwargs):
        seen.update(signature.bind(*args, **kwargs).arguments)
        return torch.zeros_like(args[0])

    stand_in.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    q, k, v = heads()
    form = Form(scale=0.3, window=window)
    assert KERNELS["varlen"](q, k, v[..., :8], RowLayout(LENGTHS, "cpu"), form).shape == (*q.shape[:3], 8)
    assert seen["query"].shape == (*seen["value"].shape[:1], 4, 16), "values are padded to the size of the queries"
    assert seen["cu_seq_q"].tolist() == seen["cu_seq_k"].tolist() == [0, 5, 6, 136, 200, 217]
    assert (seen["max_q"], seen["max_k"], seen["scale"]) == (130, 130, 0.3)
    assert tuple(seen["window_size"]) == expected, "causal, within the window"
    assert seen.get("enable_gqa", False) == takes_groups


def test_nothing_that_transformers_passes_is_swallowed():
    """An argument that changes what attention computes is honoured or refused; the others are known by name."""
    layout, module = RowLayout(LENGTHS, "cpu"), torch.nn.Identity()
    attend: Any = attention.attend
    q, k, v = heads()
    given: Any = dict(layout=layout, position_ids=torch.zeros(1), use_cache=False, position_bias=None)
    same, _ = attend("sdpa_per_conversation", module, q, k, v, None, **given)
    torch.testing.assert_close(same.transpose(1, 2), sdpa_per_conversation(q, k, v, layout, PLAIN))
    for name, value in dict(sliding_window=16, softcap=0.5, s_aux=torch.ones(4), scaling=0.3).items():
        other, _ = attend("sdpa_per_conversation", module, q, k, v, None, **given | {name: value})
        assert not torch.allclose(same, other)
    refused = dict(position_bias=torch.ones(1), indices=torch.ones(1), is_causal=False, dropout=0.1, new_thing=3)
    for name, value in refused.items():
        with pytest.raises(ModelError, match="later tokens" if name == "is_causal" else name):
            attend("sdpa_per_conversation", module, q, k, v, None, **given | {name: value})
    module.is_causal = False  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="later tokens"):
        attend("sdpa_per_conversation", module, q, k, v, None, **given)


@pytest.mark.parametrize(("kernel", "part"), [(k, part) for k, parts in attention.LACKS.items() for part in parts])
def test_a_kernel_that_cannot_names_one_that_can(kernel: str, part: str):
    attend: Any = attention.attend
    asked: Any = {"softcap": {"softcap": 0.5}, "sinks": {"s_aux": torch.ones(4)}}[part]
    q, k, v = heads()
    with pytest.raises(ModelError, match=f"attention={kernel} has no {part}; attention=sdpa_per_conversation"):
        attend(kernel, torch.nn.Identity(), q, k, v, None, layout=RowLayout(LENGTHS, "cpu"), **asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("attention=flash",), "attention=flash needs an NVIDIA GPU; attention=sdpa_per_conversation runs anywhere"),
        (("attention=varlen",), "attention=varlen needs an NVIDIA GPU"),
        (("attention=flex",), "attention=flex needs an NVIDIA GPU"),
        (
            ("lm_head=liger",),
            "lm_head=liger needs an NVIDIA GPU and pip install liger-kernel; lm_head=chunked runs anywhere",
        ),
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
    monkeypatch.setattr(attention, "_flash", lambda: None)
    with pytest.raises(ModelError, match=expected):
        attention.require(kernel, precision)


@pytest.mark.parametrize(
    ("kind", "gpu_here", "flash_here", "precision", "expected"),
    [
        ("llama", False, False, "bf16-mixed", ANYWHERE),
        ("llama", True, False, "fp32", ANYWHERE),
        ("llama", True, False, "bf16-mixed", "varlen"),
        ("llama", True, True, "bf16-true", "flash"),
        ("gemma2", True, False, "bf16-mixed", "flex"),
        ("gemma2", True, True, "bf16-mixed", "flash"),
        ("gpt_oss", True, True, "bf16-mixed", "flex"),
    ],
)
def test_auto_takes_what_is_here_and_can(kind: str, gpu_here, flash_here, precision: str, expected: str, monkeypatch):
    monkeypatch.setattr(attention, "_flash", lambda: sdpa_per_conversation if flash_here else None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small_copy(CONFIG_MAPPING[kind]()))
    assert attention.chosen("auto", precision, model, gpu_here) == expected
    assert attention.chosen("sdpa_mask", precision, model, gpu_here) == "sdpa_mask"


def test_a_model_gives_its_kernel_what_it_takes_in_every_precision(monkeypatch):
    """Rotary positions leave queries and keys in fp32 under autocast; kernels of a GPU take one dtype for all three."""
    seen = set()

    def stand_in(q, k, v, layout, form):
        seen.add((q.dtype, k.dtype, v.dtype))
        return sdpa_per_conversation(q, k, v, layout, form)

    monkeypatch.setitem(KERNELS, ANYWHERE, stand_in)
    for precision, dtype in {"fp32": torch.float32, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}.items():
        config = load("train", f"precision={precision}")
        encoder = make_encoder(config)
        lm = SupervisedLM.of(build_model(config, encoder), config)
        examples, _ = build_dataset(read(QUICKSTART / "validation.jsonl"), encoder, 256, most=2)
        lm(SupervisedLM.row_loss, collate(examples, (0, 1), 1)).backward()
        assert seen == {(dtype,) * 3}
        seen.clear()


def test_cudnns_plans_are_off():
    torch.backends.cuda.enable_cudnn_sdp(True)
    config = load("train")
    build_model(config, make_encoder(config))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
