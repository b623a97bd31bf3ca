"""Conversation → token ids and the mask of supervised tokens. Fails closed: see `Encoder.encode`."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from vicuna_lit.conversation import Conversation, Rejection
from vicuna_lit.data.token_bytes import byte_table
from vicuna_lit.template import Segment, Template, TemplateError

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

    Raises:
        TemplateError: the tokenizer lacks a token that the template needs, or is not a "fast" one.
    """

    def __init__(self, tokenizer: Any, template: Template):
        if not getattr(tokenizer, "is_fast", False):
            raise TemplateError("this tokenizer has no tokenizer.json (a fast tokenizer); masks need its offsets")
        self.tokenizer, self.template = tokenizer, template
        config = json.loads(tokenizer.backend_tokenizer.to_str())
        added = config["added_tokens"]
        missing = [t for t in template.special if t not in {a["content"] for a in added}]
        if missing:
            raise TemplateError(
                f"template {template.name} needs {', '.join(missing)} as single tokens, which this tokenizer "
                "lacks; choose another template or add the tokens to the tokenizer"
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
        self._is_control = np.zeros(size, bool)
        self._is_control[[real_ids[s] for s in control.values()]] = True
        self._is_control[list(copied.values())] = False
        for text, id in copied.items():
            self._id_map[id] = real_ids[text]
        self._bytes = byte_table(tokenizer, config)
        self._tails: dict[str, list[int]] = {"": []}
        self.longest_piece = max(map(len, self._copy.get_vocab()))

    def encode(self, conversations: Sequence[Conversation]) -> list[Example | Rejection]:
        """Tokenises conversations with their masks, in order.

        A conversation is rejected when the template cannot render it, a token straddles the edge
        of a supervised span, decoding a span does not give back its text, the generation prompt is
        not a prefix, plain text gave a control token, BOS is doubled, or nothing is supervised.
        """
        rendered: list[list[Segment] | Rejection] = []
        for c in conversations:
            try:
                rendered.append(self.template.render(c))
            except TemplateError as error:
                rendered.append(Rejection(c.id, "template refuses it", str(error)))
        texts = [None if isinstance(s, Rejection) else self._spell(s) for s in rendered]
        encodings = iter(self._copy.encode_batch([t for t in texts if t is not None], add_special_tokens=False))
        out: list[Example | Rejection] = []
        for c, segments, text in zip(conversations, rendered, texts, strict=True):
            if isinstance(segments, Rejection):
                out.append(segments)
            elif text is None:
                out.append(Rejection(c.id, "private-use character", f"a turn holds U+{SENTINEL:X} or above"))
            else:
                out.append(self._example(c, segments, next(encodings)))
        return out

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """The ids that generation starts from: a prefix of what training saw."""
        text = self._spell(self.template.prompt(conversation))
        if text is None:
            raise TemplateError(f"a turn holds a private-use character, U+{SENTINEL:X} or above")
        encoding = self._copy.encode(text, add_special_tokens=False)
        return self._id_map[encoding.ids].tolist()

    def _spell(self, segments: list[Segment]) -> str | None:
        """The text with control tokens as sentinels; None if a message itself holds a sentinel."""
        parts = []
        for s in segments:
            if not s.literal:
                parts.append(self._control_texts.sub(lambda m: self._sentinels[m[0]], s.text))
            elif s.text.isascii() or max(s.text) < chr(SENTINEL):
                parts.append(s.text)
            else:
                return None
        return "".join(parts)

    def _example(self, c: Conversation, segments: list[Segment], encoding: Encoding) -> Example | Rejection:
        raw = np.array(encoding.ids, dtype=np.int32)
        if self._is_control[raw].any():
            return Rejection(c.id, "control token from plain text", "the tokenizer turned a message's text into one")
        ids = self._id_map[raw]
        if len(ids) > 1 and ids[0] == ids[1] == self.tokenizer.bos_token_id:
            return Rejection(c.id, "BOS doubled", "two BOS tokens open the conversation")
        supervised = np.zeros(len(ids), bool)
        position, before, runs = 0, "", self._runs(segments)
        total = sum(width for _, width, _ in runs)
        for text, width, is_supervised in runs:
            span = (position, position := position + width)
            if is_supervised:
                first = _token_at(encoding, span[0], len(ids))
                last = _token_at(encoding, span[1], len(ids)) if span[1] < total else len(ids)
                if problem := self._check_span(encoding, ids, (first, last), span, text):
                    return Rejection(c.id, *problem)
                tail = self._tail(before)
                if ids[first - len(tail) : first].tolist() != tail:
                    return Rejection(
                        c.id, "generation prompt is not a prefix", f"{before[-20:]!r} has other tokens at the end"
                    )
                supervised[first:last] = True
            before = text
        if not supervised.any():
            return Rejection(c.id, "no supervised token")
        return Example(c.id, ids, supervised)

    def _runs(self, segments: list[Segment]) -> list[tuple[str, int, bool]]:
        """Neighbouring segments joined: (text, its width in the sentinel spelling, supervised)."""
        runs = []
        for supervised, neighbours in groupby(segments, key=lambda s: s.supervised):
            group = list(neighbours)
            widths = (len(s.text if s.literal else self._control_texts.sub("\0", s.text)) for s in group)
            runs.append(("".join(s.text for s in group), sum(widths), supervised))
        return runs

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

    def _check_span(self, encoding: Encoding, ids: np.ndarray, tokens: Span, chars: Span, text: str):
        first, last = tokens
        if first < 1 or first >= last:
            return "supervised text without tokens", repr(text[:60])
        if _start(encoding, first) < chars[0] or _end(encoding, first - 1) > chars[0]:
            return "token straddles the mask", f"where the reply {text[:20]!r} begins"
        if _end(encoding, last - 1) > chars[1]:
            return "token straddles the mask", f"where the reply ends: {text[-20:]!r}"
        if self.decode(ids[first - 1 : last]).removeprefix(self.decode(ids[first - 1 : first])) != text:
            return "text cannot be decoded", f"the tokens of {text[:40]!r} decode to other text"
        return None

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """The exact text of some ids, special tokens included; undecodable bytes as U+FFFD."""
        if self._bytes is None:
            return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        listed = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return b"".join(map(self._bytes.__getitem__, listed)).decode(errors="replace")


def _start(encoding: Encoding, token: int) -> int:
    return encoding.token_to_chars(token)[0]  # pyright: ignore[reportOptionalSubscript]


def _end(encoding: Encoding, token: int) -> int:
    return encoding.token_to_chars(token)[1]  # pyright: ignore[reportOptionalSubscript]


def _token_at(encoding: Encoding, char: int, count: int) -> int:
    """The first token that begins at or after a character (a tokenizer may drop white space)."""
    token = encoding.char_to_token(char)
    if token is not None and _start(encoding, token) == char:
        return token
    starts = np.array([start for start, _ in encoding.offsets])
    return min(int(np.searchsorted(starts, char)), count)


def tokenize(conversation: Conversation, encoder: Encoder) -> Example:
    """The ids and the mask of one conversation.

    Raises:
        TemplateError: the conversation is rejected; the message says why.
    """
    found = encoder.encode([conversation])[0]
    if isinstance(found, Rejection):
        raise TemplateError(f"rejected: {found.reason}" + (f": {found.detail}" if found.detail else ""))
    return found
