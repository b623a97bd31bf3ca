"""What models put around their last word: thinking before it, and marks that say nothing about it."""

import re

_THOUGHTS = (
    "think|thinking|thought|thoughts|reason|reasoning|reflection|analysis|scratchpad|cot|inner_monologue|"
    "chain_of_thought|seed:think|antthinking"
)
_OPENING = re.compile(
    rf"<\s*(?:{_THOUGHTS})(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:start_thinking|begin_of_thought|thinking|think)\|>|"
    r"<\|channel\|>\s*(?:analysis|commentary)\b[^<]*<\|message\|>",
    re.I,
)
_CLOSING = re.compile(
    rf"<\s*/\s*(?:{_THOUGHTS})\s*>|\[/THINK\]|◁/think▷|"
    r"<\|(?:end_thinking|end_of_thought|/thinking|/think)\|>|<\|channel\|>\s*final\b[^<]*<\|message\|>",
    re.I,
)
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3010: "[", 0x3011: "]", 0x3000: " "}
_INVISIBLE = dict.fromkeys([0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF])
_WRAPPED = re.compile(
    r"<\s*/?\s*(?:final[_ ]?)?(?:answer|verdict|output|result|response|judge?ment|evaluation|conclusion)\s*>|"
    r"<\|[^<>|\n]{1,40}\|>",
    re.I,
)
_NAMED_WRAP = re.compile(r"<\s*(?:final[_ ]?)?(rating|scores?)\s*>", re.I)
_NAMED_END = re.compile(r"<\s*/\s*(?:final[_ ]?)?(?:rating|scores?)\s*>", re.I)
_STYLE = re.compile(r"<\s*/?\s*(?:b|strong|i|em|u|code|span|mark)(?:\s[^<>]*)?>", re.I)
_BREAK = re.compile(r"<\s*/?\s*(?:br|p|div|h[1-6]|pre|center)(?:\s[^<>]*)?/?\s*>", re.I)
_FENCE = re.compile(r"^\s*(?:```|~~~)[\w-]*\s*$", re.M)
_ESCAPED = re.compile(r"\\([\[\]()_*#])")


def without_thinking(text: str) -> str:
    """What stands behind the thinking; all of a text that marks none.

    A closing mark without an opening one ends a thinking that the prompt's template has begun; an opening one without
    a closing one has been cut off, and nothing stands behind it.
    """
    kept, place = "", 0
    while place < len(text):
        opening, closing = _OPENING.search(text, place), _CLOSING.search(text, place)
        if closing and (opening is None or closing.start() < opening.start()):
            kept, place = "", closing.end()
            continue
        if opening is None:
            return kept + text[place:]
        kept += text[place : opening.start()] + "\n"
        closing = _CLOSING.search(text, opening.end())
        if closing is None:
            return kept
        place = closing.end()
    return kept


def plain(text: str) -> str:
    """The text behind the thinking, in narrow characters, without tags, fences and escapes around a verdict."""
    text = without_thinking(text).translate(_WIDE).translate(_INVISIBLE)
    text = _WRAPPED.sub("\n", _NAMED_END.sub("\n", _NAMED_WRAP.sub(r"\n\1: ", text)))
    text = _FENCE.sub("", _BREAK.sub("\n", _STYLE.sub("", text)))
    return _ESCAPED.sub(r"\1", text).strip()
