"""The bytes of every token, so that ids decode to exact text."""

import json
import re
from typing import Any

UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()
"""Shown for an id that no token has."""


def byte_table(tokenizer: Any, config: dict[str, Any]) -> list[bytes] | None:
    """The bytes of every token, for byte-level and SentencePiece-type decoders; None for others.

    Ids that no token has (a vocabulary may have gaps) get those of U+FFFD.
    """
    decoder = json.dumps(config["decoder"])
    named = {id: token for token, id in tokenizer.get_vocab().items()}
    tokens = [named.get(id) for id in range(max(named, default=-1) + 1)]
    added = {id: t.content.encode() for id, t in tokenizer.added_tokens_decoder.items()}
    if '"ByteLevel"' in decoder:
        alphabet = _byte_alphabet()

        def to_bytes(token: str) -> bytes:
            return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else token.encode()
    elif '"ByteFallback"' in decoder:

        def to_bytes(token: str) -> bytes:
            byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
            return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()

        added = {id: text.replace("▁".encode(), b" ") for id, text in added.items()}  # Gemma's blanks, as decoded
    else:
        return None
    return [added[i] if i in added else UNKNOWN if t is None else to_bytes(t) for i, t in enumerate(tokens)]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
