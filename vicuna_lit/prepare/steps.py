"""The per-conversation steps in their order: each a function of one conversation, each switchable."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vicuna_lit.config.prepare import PrepareConfig, is_function, load_scorer
from vicuna_lit.paths import locate
from vicuna_lit.prepare.decontaminate import decontaminate, read_questions
from vicuna_lit.prepare.filters import Scorer, Tally, alternate, filter_turns, moderate, read_phrases
from vicuna_lit.prepare.html import is_html, to_markdown
from vicuna_lit.prepare.language import detect
from vicuna_lit.prepare.personal_data import redact_conversation
from vicuna_lit.prepare.tidy import Tidy
from vicuna_lit.records.conversation import Conversation, Rejection

Step = Callable[[Conversation, Tally], Conversation | Rejection]


LANGUAGE = "language: "
"""Opens the tally's entry for the language of a conversation that is kept."""


@dataclass
class StepCount:
    """What a step did: records that came in, those it rejected by reason, and what it changed."""

    records_in: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)

    def add(self, other: "StepCount") -> None:
        """Adds another shard's counts."""
        self.records_in += other.records_in
        self.rejected.update(other.rejected)
        self.changes.update(other.changes)

    def summary(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "in": self.records_in,
            "kept": self.records_in - sum(self.rejected.values()),
            "rejected": by_count(self.rejected),
            "changes": by_count(self.changes),
        }


def by_count(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first; without those that never occurred."""
    return {name: n for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n}


def steps(config: PrepareConfig) -> dict[str, Step]:
    """The enabled steps by name, in order.

    Raises:
        DataError, MissingPath, ModelError: the evaluation questions, a list of phrases or a classifier cannot be read.
    """
    out: dict[str, Step] = {}
    if config.html.enabled:
        out["html"] = convert_html
    tidy = Tidy(config.tidy) if config.tidy.enabled else None
    if tidy is not None:
        out["tidy"] = tidy
    if config.roles.enabled:
        out["roles"] = lambda c, tally: alternate(c, config.roles, tally)
    if config.personal_data.enabled:
        out["personal_data"] = lambda c, tally: redact_conversation(c, config.personal_data.kinds, tally)
    if config.filters.enabled:
        read_phrases(config.filters)
        out["filters"] = lambda c, tally: filter_turns(c, config.filters, tally, tidy)
    if config.moderation.enabled and config.moderation.scorer is not None:
        scorer = scorer_of(config.moderation.scorer, config.moderation.labels)
        out["moderation"] = lambda c, tally: moderate(c, config.moderation, scorer, tally)
    if config.language.enabled:
        out["language"] = lambda c, tally: choose_language(c, config, tally)
    if config.decontamination.enabled and config.decontamination.questions:
        files = [locate(name) for name in config.decontamination.questions]
        questions = read_questions(files, config.decontamination.ngram)
        out["decontamination"] = lambda c, tally: decontaminate(c, config.decontamination, questions, tally)
    return out


def scorer_of(name: str, labels: Sequence[str] | None) -> Scorer:
    """What `moderation.scorer` names: a function, called with one text after the other, or a classifier's folder.

    Raises:
        MissingPath, ModelError: there is no such classifier.
    """
    if is_function(name):
        function = load_scorer(name)
        return lambda texts: (float(function(text)) for text in texts)
    from vicuna_lit.inference.classifier import Classifier  # torch and transformers, which no other step needs

    return Classifier(name, labels)


def convert_html(conversation: Conversation, tally: Tally) -> Conversation:
    """Turns of rendered HTML as markdown."""
    rendered = is_html(conversation)
    if not any(rendered):
        return conversation
    tally["turns converted"] += sum(rendered)
    pairs = zip(conversation.turns, rendered, strict=True)
    turns = tuple(replace(t, content=to_markdown(t.content)) if html else t for t, html in pairs)
    return replace(conversation, turns=turns)


def choose_language(conversation: Conversation, config: PrepareConfig, tally: Tally) -> Conversation | Rejection:
    """Keeps or drops by language; the tally says which language is kept."""
    language, confidence = detect(conversation, config.language.min_confidence)
    keep = config.language.keep
    if language == "unknown":
        dropped = config.language.unknown == "drop"
    else:
        dropped = language in config.language.drop or (keep is not None and language not in keep)
    if dropped:
        return Rejection(conversation.id, "language", f"{language}, confidence {confidence:.2f}")
    tally[f"{LANGUAGE}{language}"] += 1
    return conversation
