"""Where the difference comes from: attention, fill and tokenising, each against its usual form; the head has `head.py`.

    python -m experiments.benchmarks.train.components

Each pair runs in one process, in turn, seven times; the ratio is the median of the pairs.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoTokenizer

from experiments.benchmarks.train.job import DATA, TOKENIZER, Job, config
from vicuna_lit.data.datamodule import ConversationDataModule
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.attention import Form, RowLayout, sdpa_per_conversation
from vicuna_lit.records.conversation import Conversation, trim
from vicuna_lit.records.readers import read

ROUNDS = 7
CONTEXT = 2048


def paired(ours: Callable[[], Any], usual: Callable[[], Any]) -> tuple[float, float, str]:
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):
        pair = []
        for run in (ours, usual):
            start = time.perf_counter()
            run()
            pair.append(time.perf_counter() - start)
        times.append((pair[0], pair[1]))
    times = times[1:]
    ratios = [b / a for a, b in times]
    spread = f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times), spread


def attention(lengths: tuple[int, ...]) -> tuple[float, float, str]:
    q, k, v = (torch.randn(1, 6, sum(lengths), 64, requires_grad=True) for _ in range(3))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (document[:, None] == document[None]).tril()[None, None]

    def ours() -> None:
        sdpa_per_conversation(q, k, v, RowLayout(lengths, "cpu"), Form()).sum().backward()

    return paired(ours, lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward())


def tokenising(records: list[Conversation]) -> tuple[float, float, str]:
    encoder = make_encoder(config(Job("ours")))
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.chat_template = encoder.template.jinja()
    messages = [[{"role": t.role, "content": t.content} for t in c.turns] for c in records]

    def usual() -> None:
        for one in messages:
            tokenizer.apply_chat_template(one, return_dict=True, return_assistant_tokens_mask=True)

    return paired(lambda: encoder.encode(records), usual)


def main() -> None:
    c = config(Job("ours", context=CONTEXT), "trainer.max_steps=null", "data.max_conversations=null")
    data = ConversationDataModule(c, make_encoder(c))
    data.setup()
    lengths = data.train.lengths
    row = tuple(int(n) for n in lengths[: np.searchsorted(np.cumsum(lengths), 4096)])
    records = [
        t for r in read(DATA) if isinstance(r, Conversation) for t in [trim(r)[0]] if isinstance(t, Conversation)
    ]
    records = records[:200]
    print("| component | ours | usual | usual / ours |\n|---|---|---|---|")
    for name, (a, b, ratio) in {
        f"attention: {len(row)} conversations in {sum(row)} tokens (dense block mask), s": attention(row),
        f"tokenising with masks: {len(records)} real conversations (apply_chat_template, as TRL), s": tokenising(
            records
        ),
    }.items():
        print(f"| {name} | {a:.3f} | {b:.3f} | {ratio} |")
    fill = CONTEXT / lengths.mean()
    print(f"| fill: tokens computed per token (padded to {CONTEXT}) | 1.00 | {fill:.2f} | {fill:.2f}x |")


if __name__ == "__main__":
    main()
