"""Which tokens each system puts the loss on, given whole conversations: counted, token by token.

The truth is every token of every reply with its stop token, in the conversation as it is, however long. What a
system leaves out of it is missing; what else it supervises is extra.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

import vicuna_lit
from experiments.benchmarks.train.job import DATA, TOKENIZER, Job, config
from vicuna_lit.data.dataset import build_dataset
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.records.conversation import Conversation, trim
from vicuna_lit.records.readers import read

CONTEXT, RECORDS = 2048, 300
QUICKSTART = Path(vicuna_lit.__file__).parent / "quickstart"
Row = dict[str, Any]


def ours(records: list[Conversation], encoder: Any, context: int) -> Row:
    """Pieces cut between turns; what is left out is counted by the reason."""
    examples, account = build_dataset(iter(records), encoder, context, None)
    return {
        "supervised": int(examples.supervised_mask.sum()),
        "rows": len(examples),
        "said": "; ".join(f"{n} {reason}" for reason, n in account.rejected_by_reason.items()),
    }


def truncated(wholes: list[Example], context: int) -> Row:
    """Cut at the context, as `padded` and FastChat do and as is usual before flattening."""
    kept = [int(e.supervised[:context].sum()) for e in wholes]
    return {"supervised": sum(kept), "rows": sum(k > 0 for k in kept), "said": ""}


def trl(records: list[Conversation], encoder: Any, tokenizer_path: Path, context: int, **settings: Any) -> Row:
    """TRL's own preparation of messages, with a template that marks the replies; labels as its dataset holds them."""
    import tempfile

    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, encoder.template.jinja()
    messages = [{"messages": [{"role": t.role, "content": t.content} for t in c.turns]} for c in records]
    tiny = LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                       num_attention_heads=1)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            use_cpu=True,
            bf16=False,
            report_to=[],
            assistant_only_loss=True,
            **{"max_length": context} | settings,
        )
        trainer = SFTTrainer(
            LlamaForCausalLM(tiny), arguments, train_dataset=Dataset.from_list(messages), processing_class=tokenizer
        )
    labels = [np.array(row) for row in trainer.train_dataset["labels"]]
    return {
        "supervised": sum(int((x != -100).sum()) for x in labels),
        "rows": len(labels),
        "said": "",
        "labels": labels,
    }


def extra(wholes: list[Example], labels: list[np.ndarray]) -> tuple[int, int]:
    """Tokens that an untruncated preparation supervises besides the truth, and those of the truth that it does not."""
    more = less = 0
    for whole, theirs in zip(wholes, labels, strict=True):
        assert len(whole.supervised) == len(theirs), whole.id
        more += int(((theirs != -100) & ~whole.supervised).sum())
        less += int(((theirs == -100) & whole.supervised).sum())
    return more, less


def write(file: Path, real: bool) -> None:
    """Counts of every system, as JSON."""
    data, tokenizer = (DATA, TOKENIZER) if real else (QUICKSTART / "conversations.jsonl", QUICKSTART / "tokenizer")
    context = CONTEXT if real else 128
    encoder = make_encoder(config(Job("ours", data=data, tokenizer=tokenizer)))
    whole = [c for r in read(data) if isinstance(r, Conversation) for c in [trim(r)[0]] if isinstance(c, Conversation)]
    pairs = list(zip(whole[:RECORDS], encoder.encode(whole[:RECORDS]), strict=True))
    records = [c for c, e in pairs if isinstance(e, Example)]
    wholes = [e for _, e in pairs if isinstance(e, Example)]
    rows = {"ours": ours(records, encoder, context), "padded": truncated(wholes, context)}
    rows["hf_flattening"] = rows["padded"]
    try:
        import trl as _  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        pass
    else:
        given = records, encoder, tokenizer, context
        rows["trl"] = trl(*given)
        rows["trl_bfd"] = trl(*given, packing=True, packing_strategy="bfd")
        rows["trl_bfd_split"] = trl(*given, packing=True, packing_strategy="bfd_split")
        rows["trl_padding_free"] = trl(*given, padding_free=True, max_length=None)
        rows["trl_padding_free"]["extra"] = extra(wholes, rows["trl_padding_free"]["labels"])
    true = sum(int(e.supervised.sum()) for e in wholes)
    about = {"context": context, "conversations": len(wholes), "true": true,
             "longer": sum(len(e.input_ids) > context for e in wholes)}  # fmt: skip
    systems = {name: {k: v for k, v in row.items() if k != "labels"} for name, row in rows.items()}
    file.write_text(json.dumps(about | {"systems": systems}, indent=1))
