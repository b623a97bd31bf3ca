"""Conversation → token ids and the mask of supervised tokens. Fails closed: see `Encoder.encode`."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from typing import Any, TypeVar

import numpy as np
from tokenizers import Encoding, Tokenizer

from vicuna_lit.data.chat_template import TEMPLATE_REFUSES, Segment, Template, TemplateError
from vicuna_lit.data.cut_tokens import Cut, Whole, tokenise
from vicuna_lit.data.template_thoughts import ONE_TOKEN, OPENED
from vicuna_lit.data.token_bytes import UNKNOWN, byte_table
from vicuna_lit.records.conversation import PLACEHOLDER, Conversation, Rejection

SENTINEL = 0x10F000
"""First code point of the private stand-ins for control tokens; no text that people write holds one."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A tokenised conversation: `input_ids` int32 [T], `supervised` bool [T].

    `labels` follows transformers: the label of a position is its own id (the loss shifts), −100
    where the token is not supervised.
    """

    id: str
    input_ids: np.ndarray
    supervised: np.ndarray
    thought: np.ndarray | None = None
    """bool [T]: tokens of what an assistant thought before it answered; None: there is none."""
    placeholder: np.ndarray | None = None
    """bool [T]: tokens that hold any of what stands for personal data, see `PLACEHOLDER`; None: there is none."""
    replies_before: int = 0
    """Replies of the conversation that other examples are trained on, and that come before those of this one."""
    score: float = math.nan
    """See `Conversation`."""
    weights: np.ndarray | None = None
    """float32 [T]: how much each token counts in the loss, if it is supervised; None: each counts once."""

    @property
    def counted(self) -> np.ndarray:
        """float32 [T]: the weights, 1 where it has none."""
        return np.ones(len(self.input_ids), np.float32) if self.weights is None else self.weights

    @property
    def labels(self) -> np.ndarray:
        """int64 [T], −100 where not supervised."""
        return np.where(self.supervised, self.input_ids, -100).astype(np.int64)


class Encoder:
    """A tokenizer bound to a template.

    The whole text is tokenised at once, so the ids equal the reference tokenisation. To keep
    special-token text inside messages plain, the work is done by a copy of the tokenizer in which
    every control token is spelled as one private-use character: a template's `</s>` becomes that
    character, a user's `</s>` stays four ordinary characters.

    Args:
        new_ids: of tokens that were added to the tokenizer: a model has no trained rows for them.

    Raises:
        TemplateError: the tokenizer lacks a token that the template needs, or is not a "fast" one.
    """

    def __init__(self, tokenizer: Any, template: Template, new_ids: Sequence[int] = ()):
        if not getattr(tokenizer, "is_fast", False):
            raise TemplateError("this tokenizer has no tokenizer.json (a fast tokenizer); masks need its offsets")
        self.tokenizer, self.template, self.new_ids = tokenizer, template, tuple(new_ids)
        written = tokenizer.backend_tokenizer.to_str()
        self._made_of = hashlib.sha256(f"{written}{tokenizer.special_tokens_map}{template.identity}".encode())
        config = json.loads(written)
        added = config["added_tokens"]
        missing = [t for t in template.special if t not in {a["content"] for a in added}]
        if missing:
            raise TemplateError(
                f"template {template.name} needs {', '.join(missing)} as single tokens, which this tokenizer "
                f'lacks; choose another template, or add them: "model.add_tokens={missing}"'.replace("', '", "','")
            )
        real_ids, control = {}, {}
        for token in added:
            text = token["content"]
            if token["special"] or text in template.special:
                control[text] = token["content"] = chr(SENTINEL + len(control))
            real_ids[token["content"]] = token["id"]
        self._sentinels = control
        self._control_texts = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or "(?!)")
        config["post_processor"] = config["truncation"] = config["padding"] = None
        self._copy = Tokenizer.from_str(json.dumps(config))
        size = max(self._copy.get_vocab_size(), len(tokenizer), max(real_ids.values(), default=0) + 1)
        self._id_map = np.arange(size, dtype=np.int32)
        copied = {text: int(self._copy.token_to_id(text) or 0) for text in real_ids}
        self._controls = {s: copied[s] for s in control.values()}
        self._is_control = np.zeros(size, bool)
        self._is_control[[real_ids[s] for s in control.values()]] = True
        self._is_control[list(copied.values())] = False
        for text, id in copied.items():
            self._id_map[id] = real_ids[text]
        self._bytes = byte_table(tokenizer, config)
        self._tails: dict[str, list[int]] = {"": []}
        self.longest_token = max(map(len, self._copy.get_vocab()))

    @property
    def fingerprint(self) -> str:
        """A hash of the tokenizer and the template: the same one gives the same tokens and masks."""
        return self._made_of.hexdigest()

    def encode(self, conversations: Sequence[Conversation]) -> list[Example | Rejection]:
        """`unfold` for conversations that are one example each; one of several is rejected."""
        return [
            found if isinstance(found, Rejection) else _single(c, found)
            for c, found in zip(conversations, self.unfold(conversations), strict=True)
        ]

    def unfold(
        self, conversations: Sequence[Conversation], longest: int | None = None, wholes: Sequence[Whole] = ()
    ) -> list[list[Example] | Rejection]:
        """Tokenises conversations with their masks, in order; most become one example, see `Template.unfold`.

        A conversation is rejected when the template cannot render it, a token straddles the edge
        of a supervised span, decoding a span does not give back its text, the generation prompt is
        not a prefix, plain text gave a control token, BOS is doubled, or nothing is supervised.

        Args:
            longest: tokens; the examples of a conversation end with the first that is longer.
            wholes: of each; a text that is longer is kept there, and what can be is cut out of it.
        """
        examples: list[list[Example] | Rejection] = [[] for _ in conversations]
        open_ones = {i: self.template.unfold(c) for i, c in enumerate(conversations)}
        width = 1  # doubled each time: the texts of a very long conversation are not all made at once
        while open_ones:
            texts = [(i, text) for i, texts in open_ones.items() for text in self._next_texts(texts, width)]
            taken = Counter(i for i, _ in texts)
            open_ones = {i: rest for i, rest in open_ones.items() if taken[i] == width}
            width *= 2
            for i, result in zip(
                (i for i, _ in texts), self._encode(conversations, texts, longest, wholes), strict=True
            ):
                before = examples[i]
                if isinstance(before, Rejection) or self._too_long(before, longest):
                    continue
                if isinstance(result, Rejection):
                    examples[i] = result
                else:
                    before.append(result)
                if isinstance(result, Rejection) or self._too_long(before, longest):
                    open_ones.pop(i, None)
        return [self._supervised(c, found, longest) for c, found in zip(conversations, examples, strict=True)]

    @staticmethod
    def _too_long(examples: list[Example], longest: int | None) -> bool:
        return bool(longest and examples and len(examples[-1].input_ids) > longest)

    def _supervised(
        self, c: Conversation, found: list[Example] | Rejection, longest: int | None
    ) -> list[Example] | Rejection:
        """Those examples that the loss is taken on, and one that is too long."""
        if isinstance(found, Rejection):
            return found
        if any(turn.weight != 1 for turn in c.turns):
            found = _weighted(c, found)
        if isinstance(found, Rejection):
            return found
        kept = [e for e in found if e.supervised.any() or self._too_long([e], longest)]
        before = 0
        for n, example in enumerate(kept[1:], 1):
            before += int((np.diff(kept[n - 1].supervised.astype(np.int8), prepend=0) == 1).sum())
            kept[n] = replace(example, id=f"{example.id}#{n + 1}", replies_before=before)
        return kept or Rejection(c.id, "no supervised token")

    @staticmethod
    def _next_texts(texts: Iterator[list[Segment]], count: int) -> Iterator[list[Segment] | TemplateError]:
        try:
            yield from islice(texts, count)
        except TemplateError as error:
            yield error

    def _encode(
        self,
        conversations: Sequence[Conversation],
        texts: Sequence[tuple[int, list[Segment] | TemplateError]],
        longest: int | None,
        wholes: Sequence[Whole],
    ) -> Iterator[Example | Rejection]:
        """Texts with the numbers of their conversations, all tokenised at once."""
        spelt = [None if isinstance(text, TemplateError) else self._spell(text) for _, text in texts]
        made = ((i, "".join(parts)) for (i, _), parts in zip(texts, spelt, strict=True) if parts is not None)
        known = [(wholes[i] if wholes else Whole(), text) for i, text in made]
        encodings = tokenise(self._copy, known, self._controls, longest)
        for (i, text), parts in zip(texts, spelt, strict=True):
            c = conversations[i]
            if isinstance(text, TemplateError):
                yield Rejection(c.id, TEMPLATE_REFUSES, str(text))
            elif parts is None:
                yield Rejection(c.id, "private-use character", f"a turn holds U+{SENTINEL:X} or above")
            else:
                yield self._example(c, text, parts, next(encodings))

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """The ids that generation starts from: a prefix of what training saw."""
        parts = self._spell(self.template.prompt(conversation))
        if parts is None:
            raise TemplateError(f"a turn holds a private-use character, U+{SENTINEL:X} or above")
        encoding = self._copy.encode("".join(parts), add_special_tokens=False)
        return self._id_map[encoding.ids].tolist()

    def _spell(self, segments: list[Segment]) -> list[str] | None:
        """The texts with control tokens as sentinels; None if a message itself holds a sentinel."""
        parts = []
        for s in segments:
            if not s.literal:
                parts.append(self._control_texts.sub(lambda m: self._sentinels[m[0]], s.text))
            elif s.text.isascii() or max(s.text) < chr(SENTINEL):
                parts.append(s.text)
            else:
                return None
        return parts

    def _example(
        self, c: Conversation, segments: list[Segment], parts: list[str], encoding: Encoding | Cut
    ) -> Example | Rejection:
        raw = np.array(encoding.ids, dtype=np.int32)
        if self._is_control[raw].any():
            return Rejection(c.id, "control token from plain text", "the tokenizer turned a message's text into one")
        ids = self._id_map[raw]
        if len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id:
            return Rejection(c.id, "BOS doubled", "two BOS tokens open the conversation")
        supervised = np.zeros(len(ids), bool)
        position, before, runs = 0, "", _runs(segments, parts)
        total = sum(width for _, width, _ in runs)
        for text, width, is_supervised in runs:
            span = (position, position := position + width)
            if is_supervised:
                first = _token_at(encoding, span[0], len(ids))
                last = _token_at(encoding, span[1], len(ids)) if span[1] < total else len(ids)
                if problem := self._check_span(encoding, ids, (first, last), span, text):
                    empty = OPENED.search(before) and text.lstrip().startswith("</")
                    return Rejection(c.id, problem[0], ONE_TOKEN if empty else problem[1])
                tail = self._tail(before)
                if ids[first - len(tail) : first].tolist() != tail:
                    said = f"{before[-20:]!r} has other tokens at the end"
                    return Rejection(c.id, "generation prompt is not a prefix", said)
                supervised[first:last] = True
            before = text
        thoughts, placeholders, start = [], [], 0
        for s, part in zip(segments, parts, strict=True):
            end = start + len(part)
            thoughts += [(start, end)] if s.thought else []
            if "[" in part:
                placeholders += [(start + m.start(), start + m.end()) for m in PLACEHOLDER.finditer(part)]
            start = end
        return Example(c.id, ids, supervised, _inside(thoughts, encoding), _inside(placeholders, encoding))

    def _tail(self, text: str) -> list[int]:
        """The ids of the blanks and newlines that end a text, where nothing follows them.

        Tokenizers with a look-ahead split "\\n\\n" otherwise before a word than at the end; then the
        prompt at generation would not be what was trained on.
        """
        blanks = text[len(text.rstrip()) :]
        if blanks not in self._tails:
            encoding = self._copy.encode(":" + blanks, add_special_tokens=False)
            inside = [id for id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start >= 1]
            self._tails[blanks] = self._id_map[inside].tolist()
        return self._tails[blanks]

    def _check_span(self, encoding: Encoding | Cut, ids: np.ndarray, tokens: Span, chars: Span, text: str):
        first, last = tokens
        if first < 1 or first >= last:
            return "supervised text without tokens", repr(text[:60])
        if _start(encoding, first) < chars[0] or _end(encoding, first - 1) > chars[0]:
            return "token straddles the mask", f"where the reply {text[:20]!r} begins"
        if _end(encoding, last - 1) > chars[1]:
            return "token straddles the mask", f"where the reply ends: {text[-20:]!r}"
        if not self._says(ids[first - 1 : last], text):
            return "text cannot be decoded", f"the tokens of {text[:40]!r} decode to other text"
        return None

    def _says(self, ids: np.ndarray, text: str) -> bool:
        """Whether ids, less the first, are a text: as bytes (a lone byte beside the edge spoils its neighbours when
        decoded), as the tokenizer decodes them, or to its normaliser."""
        said = text
        for decode in (self.decode, partial(self.tokenizer.backend_tokenizer.decode, skip_special_tokens=False)):
            said = decode(ids.tolist()).removeprefix(decode(ids[:1].tolist()))
            if said == text:
                return True
        # Letters around them: a normaliser may do something else at the ends of a text than inside.
        normal = self._copy.normalizer
        return normal is not None and normal.normalize_str(f"a{said}a") == normal.normalize_str(f"a{text}a")

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """The exact text of some ids, special tokens included; undecodable bytes as U+FFFD."""
        if self._bytes is None:
            return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        listed, known = ids.tolist() if isinstance(ids, np.ndarray) else ids, len(self._bytes)
        with suppress(IndexError):  # a third of the time
            return b"".join(map(self._bytes.__getitem__, listed)).decode(errors="replace")
        return b"".join(self._bytes[i] if i < known else UNKNOWN for i in listed).decode(errors="replace")

    def nameless_ids(self, vocabulary: int) -> list[int]:
        """Ids of a model's vocabulary that no token has: models pad it, to a multiple of 64 or more."""
        return sorted(set(range(vocabulary)) - set(self.tokenizer.get_vocab().values()))


def _runs(segments: list[Segment], parts: list[str]) -> list[tuple[str, int, bool]]:
    """Neighbouring segments joined: (text, its width in the sentinel spelling, supervised)."""
    runs, place = [], 0
    for supervised, neighbours in groupby(segments, key=lambda s: s.supervised):
        texts = [s.text for s in neighbours]
        width = sum(map(len, parts[place : place + len(texts)]))
        runs.append(("".join(texts), width, supervised))
        place += len(texts)
    return runs


def _inside(spans: list[Span], encoding: Encoding | Cut) -> np.ndarray | None:
    """bool [T]: the tokens that hold any of some stretches of the text; None where there are none."""
    if not spans:
        return None
    starts, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
    inside = np.zeros(len(starts), bool)
    for first, last in spans:
        inside |= (starts < last) & (ends > first)
    return inside


def _start(encoding: Encoding | Cut, token: int) -> int:
    return encoding.token_to_chars(token)[0]  # pyright: ignore[reportOptionalSubscript]


def _end(encoding: Encoding | Cut, token: int) -> int:
    return encoding.token_to_chars(token)[1]  # pyright: ignore[reportOptionalSubscript]


def _token_at(encoding: Encoding | Cut, char: int, count: int) -> int:
    """The first token that begins at or after a character (a tokenizer may drop white space)."""
    token = encoding.char_to_token(char)
    if token is not None and _start(encoding, token) == char:
        return token
    starts = np.array([start for start, _ in encoding.offsets])
    return min(int(np.searchsorted(starts, char)), count)


def _weighted(c: Conversation, examples: list[Example]) -> list[Example] | Rejection:
    """The examples of a conversation with the weights of its replies, which lie in them one behind the other."""
    weights = [turn.weight for turn in c.turns if turn.role == "assistant" and turn.supervised]
    out = []
    for example in examples:
        edges = np.flatnonzero(np.diff(example.supervised.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
        each = np.ones(len(example.input_ids), np.float32)
        if len(edges) > len(weights):
            return Rejection(c.id, "weights cannot be placed", "two replies' tokens touch, or one has several parts")
        for (start, end), weight in zip(edges, weights, strict=False):
            each[start:end] = weight
        weights = weights[len(edges) :]
        out.append(replace(example, weights=each))
    return out


def _single(c: Conversation, examples: list[Example]) -> Example | Rejection:
    if len(examples) == 1:
        return examples[0]
    detail = f"the template rewrites earlier turns, so it becomes {len(examples)}: `encoder.unfold([conversation])`"
    return Rejection(c.id, "several examples", detail)


def tokenize(conversation: Conversation, encoder: Encoder) -> Example:
    """The ids and the mask of one conversation.

    Raises:
        TemplateError: the conversation is rejected, or becomes several examples (`Encoder.unfold`); the message says
            why.
    """
    return proven(encoder.encode([conversation])[0])


Proven = TypeVar("Proven")


def proven(found: Proven | Rejection) -> Proven:
    """What is no rejection.

    Raises:
        TemplateError: it is one; the message says why.
    """
    if isinstance(found, Rejection):
        raise TemplateError(f"rejected: {found.reason}" + (f": {found.detail}" if found.detail else ""))
    return found
