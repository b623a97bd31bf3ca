"""`vicuna-train show_masks=3`: what the loss is taken on in the first records, and what becomes of all; no weights."""

from itertools import islice

from rich.console import Console
from rich.markup import escape

from vicuna_lit import notebook
from vicuna_lit.config.train import TrainConfig
from vicuna_lit.data.auto_template import template_and_tokenizer
from vicuna_lit.data.dataset import DataReport, Examples, Masks, tokenised, what_to_do
from vicuna_lit.data.encoder import Encoder
from vicuna_lit.data.mask_view import show_mask
from vicuna_lit.data.source import Sources
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.models.architecture import model_config
from vicuna_lit.pages import counted
from vicuna_lit.records.conversation import Conversation, Rejection


def show_masks(config: TrainConfig) -> int:
    """Prints the masks of the first `show_masks` training records of each source and the account of all.

    Raises:
        DataError: a source has no record that can be used.
    """
    config, tokenizer = template_and_tokenizer(config)
    if config.model.path or config.model.architecture:  # what it refuses, training refuses: these were not the masks
        model_config(config, tokenizer)
    encoder, sources = make_encoder(config, loaded=tokenizer), Sources(config)
    console = notebook.console(soft_wrap=True, highlight=False)
    for part in sources.parts.values():
        for record in islice(part.records(validation=False), config.show_masks):
            _show(record, encoder, config, console)
        console.print(f"\n[bold]all of {escape(part.path)}[/]")
        for side in ("training", "validation"):
            examples, account = part.examples(encoder, validation=side == "validation")
            if side == "training" and not len(examples):
                raise part.nothing_left(account)
            for line in _account(side, examples, account) if account.records_in else ():
                console.print(line, markup=False)
    return 0


def _show(record: Conversation | Rejection, encoder: Encoder, config: TrainConfig, console: Console) -> None:
    """One record: the masks of its pieces, or why it is not used."""
    account, masks = DataReport(), Masks(config.train_on, config.train_on_reasoning, config.train_on_placeholders)
    examples = Examples.of(tokenised([record], encoder, config.context_length, account, masks=masks))
    console.print(f"\n[bold]{escape(record.id)}[/]" + (f", {len(examples)} pieces" if len(examples) > 1 else ""))
    for rejection in account.first_rejections:
        console.print(f"refused: {rejection.reason}{_detail(rejection)}", markup=False)
    for i in range(len(examples)):
        example = examples[i]
        view = show_mask(example, encoder)
        view.print()
        weights = sorted({f"{w:g}" for w in example.counted[example.supervised].tolist()})
        counts = f", each counts {' or '.join(weights)}" if example.weights is not None else ""
        console.print(f"{view.supervised:,} of {len(view.tokens):,} tokens are in the loss{counts}", style="dim")
    for line in _lost(account):
        console.print(line, markup=False)


def _detail(rejection: Rejection) -> str:
    return (f": {rejection.detail}" if rejection.detail else "") + what_to_do(rejection)


def _account(side: str, examples: Examples, account: DataReport) -> list[str]:
    tokens, supervised = int(examples.lengths.sum()), int(examples.supervised.sum())
    share = f" ({supervised / tokens:.0%})" if tokens else ""
    first = {r.reason: f"; the first, {r.id}{_detail(r)}" for r in reversed(account.first_rejections)}
    lines = [
        f"{side}: {counted(account.records_in, 'records')}, {account.records_kept:,} kept, "
        f"{account.records_rejected:,} refused",
        *(f"  refused {count:,}: {name}{first[name]}" for name, count in account.rejected_by_reason.most_common()),
        f"  {counted(len(examples), 'examples')}, {tokens:,} tokens, {supervised:,} in the loss{share}",
    ]
    return lines + _lost(account)


def _lost(account: DataReport) -> list[str]:
    """What was left out of records that were kept."""
    lost = account.exchanges_rejected_by_reason.most_common()
    lines = [f"  exchanges left out, {count:,}: {reason}" for reason, count in lost]
    if account.turns_cut:
        lines.append(f"  turns cut off, without a question or an answer: {account.turns_cut:,}")
    if account.empty_replies:
        lines.append(f"  replies that are empty, and trained on as they are: {account.empty_replies:,}")
    if account.search_marks_removed:
        lines.append(f"  marks of search results removed: {account.search_marks_removed:,}")
    return lines
