"""Phase A of `check.py`: kernels, models, heads and what is kept, against fp64."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from experiments.benchmarks.gpu.found import Found, milliseconds, relative
from vicuna_lit.config.train import LMHead
from vicuna_lit.data.batch import Batch
from vicuna_lit.models import attention, liger
from vicuna_lit.models.attention import KERNELS, LACKS, Form, RowLayout, banded, explicit
from vicuna_lit.models.causal_lm import SupervisedLM
from vicuna_lit.models.lm_head import Head
from vicuna_lit.models.loss import loss_sum, require
from vicuna_lit.paths import ModelError
from vicuna_lit.train.distributed import deterministic_kernels

SHAREGPT = (1200, 340, 77, 2048, 890, 12, 1625, 410, 33, 950)
"""Tokens of a row of conversations, 7.6K in all."""
BF16 = torch.bfloat16


def kernels(found: Found, precision: str = "bf16-mixed") -> list[str]:
    """Those that run here and train; what is lacking is said once."""
    usable = []
    for name in KERNELS:
        try:
            attention.require(name, precision)
        except ModelError:
            continue
        if name == "flex" and found.device == "cpu":
            continue  # no backward pass there
        usable.append(name)
    return usable


def ceilings(found: Found) -> None:
    """What this card reaches in plain products and copies: everything else is to be read against it."""
    size = 512 if found.tiny else 8192
    a, b = (torch.randn(size, size, device=found.device) for _ in range(2))
    flops = 2 * size**3
    for name, dtype, tf32 in (("bf16", BF16, False), ("fp32", torch.float32, False), ("tf32", torch.float32, True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        x, y = a.to(dtype), b.to(dtype)
        ms = milliseconds(lambda x=x, y=y: x @ y)
        found.add(f"product {name}", True, tflops=flops / ms / 1e9)
    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.empty(size * size * (1 if found.tiny else 4), device=found.device)
    ms = milliseconds(lambda: source.clone())
    found.add("copy", True, gb_per_second=2 * source.nbytes / ms / 1e6)


def in_fp64(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], form: Form) -> Tensor:
    """Attention written out, one conversation at a time."""
    pieces = zip(q.split(lengths, 2), k.split(lengths, 2), v.split(lengths, 2), strict=True)
    alone = [explicit(q, k, v, banded(q.shape[2], form.window, q.device), form) for q, k, v in pieces]
    return torch.cat(alone, 2)


def attention_errors(
    found: Found, kernel: str, shape: tuple[int, int, int], lengths: tuple[int, ...], form: Form
) -> dict[str, Any]:
    """Of output and gradients, beside those of plain attention in bf16; and whether neighbours stay as they are."""
    heads, groups, size = shape
    torch.manual_seed(0)
    sizes = (heads, groups, groups)
    leaves = [torch.randn(1, n, sum(lengths), size, device=found.device, dtype=BF16).requires_grad_() for n in sizes]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    toward = torch.randn(1, heads, sum(lengths), size, device=found.device)
    layout = RowLayout(lengths, found.device)

    def errors(out: Tensor, inputs: list[Tensor], wanted: list[Tensor]) -> tuple[list[Tensor], float]:
        found_ = [out, *torch.autograd.grad(out, inputs, toward.to(out.dtype))]
        return found_, max(map(relative, found_, wanted)) if wanted else 0.0

    wanted, _ = errors(in_fp64(exact[0], exact[1], exact[2], lengths, form), exact, [])
    _, plain = errors(in_fp64(leaves[0], leaves[1], leaves[2], lengths, form), leaves, wanted)
    ours, error = errors(KERNELS[kernel](leaves[0], leaves[1], leaves[2], layout, form), leaves, wanted)
    first = lengths[0]
    changed = [torch.cat([torch.randn_like(leaf[:, :, :first]), leaf[:, :, first:]], 2) for leaf in leaves]
    again = KERNELS[kernel](changed[0], changed[1], changed[2], layout, form)
    same = len(lengths) == 1 or torch.equal(again[:, :, first:], ours[0][:, :, first:])
    return {"error": error, "plain_bf16": plain, "neighbours_keep_their_bits": same}


def attention_all(found: Found) -> None:
    """Each kernel, form of heads, form of rows, with and without a window."""
    shapes = [(4, 2, 16)] if found.tiny else [(4, 2, 16), (32, 8, 64), (32, 8, 128), (24, 8, 128)]
    rows = (
        [(5, 1, 130, 64, 17), (1,), (40,) * 6]
        if found.tiny
        else [(5, 1, 130, 64, 17), (1,), (2048,), (100,) * 40, SHAREGPT]
    )
    for kernel in kernels(found):
        for shape in shapes:
            for lengths in rows:
                for window in (None, 16):
                    found.attempt(
                        f"attention {kernel} {shape} {len(lengths)} conversations of {sum(lengths)} tokens"
                        + (f", window {window}" if window else ""),
                        lambda k=kernel, s=shape, n=lengths, w=window: attention_errors(found, k, s, n, Form(window=w)),
                        lambda f: f["error"] <= 2 * f["plain_bf16"] + 1e-3 and f["neighbours_keep_their_bits"],
                    )


def small(kind: str, vocabulary: int = 512) -> Any:
    """Four layers with grouped heads; Mistral's have a window of 8 tokens."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=4)
    sizes |= dict(num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=4096)
    if kind == "llama":
        model: Any = LlamaForCausalLM(LlamaConfig(**sizes))
    else:
        model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=8))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(3)
    return model


def row(lengths: tuple[int, ...], vocabulary: int = 512) -> Batch:
    """Random tokens, three of five supervised."""
    torch.manual_seed(1)
    ids = torch.randint(0, vocabulary, (1, sum(lengths)))
    labels = torch.where(torch.rand(ids.shape) < 0.6, ids, -100)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return Batch(ids, labels, positions, lengths, int((labels[:, 1:] != -100).sum()))


def loss_and_gradient(lm: SupervisedLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean loss of a row, and all gradients in one vector."""
    lm.zero_grad()
    loss = lm(SupervisedLM.row_loss, batch) / batch.denominator
    loss.backward()
    return loss.detach(), torch.cat([p.grad.double().flatten() for p in lm.parameters() if p.grad is not None])


def in_precision(model: Any, precision: str, device: str, **options: Any) -> SupervisedLM:
    """As the train job makes it."""
    model = model.to(BF16 if precision == "bf16-true" else torch.float32).to(device)
    return SupervisedLM(model, autocast=precision == "bf16-mixed", **options)


def _usual(found: Found) -> str:
    """The precision that users take; most processors are slow in it."""
    return "bf16-mixed" if found.device == "cuda" else "fp32"


def models(found: Found) -> None:
    """A whole model, each kernel in each precision, against transformers' eager one in fp64, alone, on the CPU."""
    lengths = (5, 30, 1, 14, 17) if found.tiny else (5, 130, 1, 64, 17, 300)
    for kind in ("llama", "mistral"):
        batch, exact = row(lengths), small(kind).double()
        exact.set_attn_implementation("eager")
        parts = zip(batch.input_ids.split(lengths, 1), batch.labels.split(lengths, 1), strict=True)
        logits = [(exact(input_ids=ids).logits[0, :-1], labels[0, 1:]) for ids, labels in parts]
        loss: Any = sum(
            torch.nn.functional.cross_entropy(x, y, reduction="sum", ignore_index=-100) for x, y in logits if len(y)
        )
        # A conversation's first token is predicted by no other's last one: its label is left out by the split.
        batch = Batch(batch.input_ids, _first_left_out(batch.labels, lengths), batch.position_ids, lengths, 1)
        loss.backward()
        wanted = torch.cat([p.grad.flatten() for p in exact.parameters()])
        for precision, most in (("fp32", 1e-5), ("bf16-mixed", 3e-2), ("bf16-true", 6e-2)):
            for kernel in kernels(found, precision):
                if precision == "fp32" and kernel in ("varlen", "flash"):
                    continue

                def job(
                    kernel: str = kernel, precision: str = precision, kind: str = kind, batch: Batch = batch,
                    exact: tuple[Any, Tensor] = (loss.detach(), wanted),
                ) -> dict[str, Any]:  # fmt: skip
                    model = small(kind)
                    attention.use(model, kernel)
                    lm = in_precision(model, precision, found.device)
                    ours, gradient = loss_and_gradient(lm, batch.to(found.device))
                    return {"loss": relative(ours, exact[0]), "gradient": relative(gradient, exact[1])}

                found.attempt(f"model {kind} {kernel} {precision}", job, lambda f, m=most: max(f.values()) < m)


def _first_left_out(labels: Tensor, lengths: tuple[int, ...]) -> Tensor:
    starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
    labels = labels.clone()
    labels[0, starts] = -100
    return labels


def _from_here(found: Found) -> int:
    """Bytes in use; peaks are counted anew."""
    if found.device != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_gib(found: Found, start: int) -> float:
    return (torch.cuda.max_memory_allocated() - start) / 2**30 if found.device == "cuda" else 0.0


def heads(found: Found) -> None:
    """The LM head: value and gradients against fp64, twice to the bit, its time and its memory."""
    positions, width, vocabulary = (300, 64, 1000) if found.tiny else (4096, 2048, 128_256)
    torch.manual_seed(0)
    matrix = torch.randn(vocabulary, width, device=found.device) / width**0.5
    targets = torch.randint(0, vocabulary, (positions,), device=found.device)
    states = torch.randn(positions, width, device=found.device) + 8 * matrix[targets]
    expected = _head_in_fp64(states, matrix, targets)
    heads: tuple[LMHead, ...] = ("plain", "exact", "chunked", "liger")
    for how in heads:
        try:
            require(how)
        except ModelError as error:
            found.add(f"head {how}", True, lacking=str(error))
            continue
        for mixed in (False, True):

            def job(how: LMHead = how, mixed: bool = mixed) -> dict[str, Any]:
                leaves = [states.detach().requires_grad_(), matrix.detach().requires_grad_()]

                def once() -> list[Tensor]:
                    with torch.autocast(found.device, BF16) if mixed else nullcontext():
                        loss = loss_sum(leaves[0], Head(leaves[1]), targets, how)
                    return [loss.detach(), *torch.autograd.grad(loss, leaves)]

                start = _from_here(found)
                first = once()
                gib = _peak_gib(found, start)
                same = all(map(torch.equal, first, once()))
                off = [relative(a, b) for a, b in zip(first, expected, strict=True)]
                return {
                    "loss": off[0],
                    "gradients": max(off[1:]),
                    "ms": milliseconds(once),
                    "gib": gib,
                    "same_bits": same,
                }

            loose = mixed and how == "chunked"
            found.attempt(
                f"head {how}{' under autocast' if mixed else ''}",
                job,
                lambda f, loose=loose: (
                    f["loss"] < (2e-4 if loose else 1e-5) and f["gradients"] < (1e-2 if loose else 1e-4)
                ),
            )


def _head_in_fp64(states: Tensor, matrix: Tensor, targets: Tensor) -> list[Tensor]:
    """Loss and gradients by the formula, some positions at a time."""
    loss, d_states, d_matrix = (
        torch.zeros((), dtype=torch.float64, device=states.device),
        [],
        torch.zeros_like(matrix).double(),
    )
    exact = matrix.double()
    for some, wanted in zip(states.double().split(256), targets.split(256), strict=True):
        logits = some @ exact.T
        chances = logits.softmax(1)
        loss += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        chances[torch.arange(len(wanted)), wanted] -= 1
        d_states.append(chances @ exact)
        d_matrix += chances.T @ some
    return [loss, torch.cat(d_states), d_matrix]


def bits(found: Found) -> None:
    """One step twice: which kernels give the same bits as they are, and that all do with `deterministic`."""
    batch = row((20, 9, 33, 5) if found.tiny else (60, 200, 700, 5)).to(found.device)
    for kernel in kernels(found):
        for deterministic in (False, True):

            def job(kernel: str = kernel, deterministic: bool = deterministic) -> dict[str, Any]:
                model = small("llama")
                attention.use(model, kernel)
                lm = in_precision(model, _usual(found), found.device)
                with deterministic_kernels(deterministic):
                    first, again = loss_and_gradient(lm, batch), loss_and_gradient(lm, batch)
                    ms = milliseconds(lambda: loss_and_gradient(lm, batch))
                return {"same": all(map(torch.equal, first, again)), "ms": ms}

            found.attempt(
                f"bits {kernel}{' deterministic' if deterministic else ''}",
                job,
                lambda f, d=deterministic: f["same"] or not d,
            )


def activations(found: Found) -> None:
    """What is kept for the backward pass changes no number; kernels, compiled or Liger's, change them by rounding."""
    lengths = (20, 9, 33, 5) if found.tiny else (2048, 1500, 900, 300) * 2
    batch = row(lengths).to(found.device)
    plain: list[Any] = []
    choices: list[dict[str, Any]] = [
        dict(),
        *({"gradient_checkpointing": how} for how in ("full", "every_2", "attention")),
    ]
    choices += [dict(offload_activations=True)] + ([] if found.tiny else [dict(compile=True)])
    try:
        liger.require("liger", small("llama").config)
        choices.append(dict(kernels="liger"))
    except ModelError as error:
        found.add("activations kernels=liger", True, lacking=str(error))
    for options in choices:

        def job(options: dict[str, Any] = options) -> dict[str, Any]:
            model = small("llama")
            attention.use(model, "sdpa_per_conversation")
            options = dict(options)
            if options.pop("kernels", None):
                liger.use(model)
            lm = in_precision(model, _usual(found), found.device, **options)
            with deterministic_kernels(True):
                loss, gradient = loss_and_gradient(lm, batch)
            if not plain:
                plain.extend((loss, gradient))
            start = _from_here(found)
            ms = milliseconds(lambda: loss_and_gradient(lm, batch))
            peak = _peak_gib(found, start)
            return {"loss": relative(loss, plain[0]), "gradient": relative(gradient, plain[1]), "ms": ms, "gib": peak}

        name = ", ".join(f"{key}={value}" for key, value in options.items()) or "nothing"
        most = 1e-2 if {"compile", "kernels"} & options.keys() else 0.0
        found.attempt(f"activations {name}", job, lambda f, m=most: max(f["loss"], f["gradient"]) <= m)


def probes(found: Found) -> None:
    """What new lengths cost with cuDNN's SDPA and without (modelscope/FunASR#3704), and FlashAttention's rate."""
    heads, groups, size, row_length = (4, 2, 16, 256) if found.tiny else (32, 8, 128, 8192)
    sizes = (heads, groups, groups)
    q, k, v = (torch.randn(1, n, row_length, size, device=found.device, dtype=BF16, requires_grad=True) for n in sizes)
    for cudnn in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)

        def one(length: int) -> None:
            out = KERNELS["sdpa_per_conversation"](
                q, k, v, RowLayout((length, row_length - length), found.device), Form()
            )
            out.sum().backward()

        new = [milliseconds(lambda n=n: one(n), rounds=1) for n in range(17, 27)]
        known = milliseconds(lambda: one(17))
        found.add(f"new lengths, cuDNN {'on' if cudnn else 'off'}", True, ms_new=sum(new) / len(new), ms_known=known)
    torch.backends.cuda.enable_cudnn_sdp(False)
    for kernel in kernels(found):
        if LACKS.get(kernel) is None:
            continue
        for length in (2048, 8192):
            layout = RowLayout((length,) * (row_length // length), found.device)

            def both(kernel: str = kernel, layout: RowLayout = layout) -> None:
                KERNELS[kernel](q, k, v, layout, Form()).sum().backward()

            flops = 3.5 * 2 * heads * size * row_length * length
            found.attempt(
                f"rate {kernel} {length}", lambda j=both, f=flops: {"tflops": f / milliseconds(j) / 1e9}, lambda _: True
            )
