"""FastChat's own cleaning of a file, record by record; runs in FastChat's environment.

    <python with fschat> experiments/fastchat_rules/reference.py records.json decisions.json

Writes for each record the turns it kept and which of its steps changed each, or its reason to drop it.
"""

import html
import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from fastchat.data import clean_sharegpt  # pyright: ignore[reportMissingImports]
from fastchat.data.filter_wrong_format import should_skip  # pyright: ignore[reportMissingImports]

clean_html_one_sample = clean_sharegpt.clean_html_one_sample
REASONS = {
    "crashes with": "crashes",
    "is too short": "too short",
    "has a wrong format": "wrong format",
    "contains blocked words": "blocked words",
    "contains parser errors": "parser errors",
    "is an id duplication of": "duplicate id",
    "contains plugin": "plugins",
    "is a value duplication of": "duplicate first exchange",
}


def clean_or_crash(record: dict[str, Any]) -> tuple[dict[str, Any], int]:
    try:
        return clean_html_one_sample(record)
    except Exception as error:  # ends FastChat's whole run; here it costs the record, as a parser error
        return record | {"id": f"{record['id']} crashes with {type(error).__name__}"}, 4


def changes(value: str) -> list[str]:
    """The steps of `html_to_markdown` that change this text, one after the other; what markdownify does, in parts."""
    reference, out = clean_sharegpt, []
    tagless = reference.span_pattern.sub("", reference.div_pattern.sub("", value))
    if tagless != value:
        out.append("div and span tags deleted, also in code")
    converted = reference.markdownify.markdownify(tagless)
    if re.search(r"<[a-zA-Z/!?]", tagless):
        out.append("other tags and <addresses> converted or deleted")
    if converted.count("\\") > tagless.count("\\"):
        doubled = re.search(r"\\\\[_*]", converted) and re.search(r"\\[_*]", tagless)
        out.append("escapes of _ and * escaped again" if doubled else "_ and * escaped, also in code")
    if html.unescape(tagless) != tagless or re.search(r"&\w*$", tagless):
        out.append("entities decoded, also in code; & at the end lost")
    if re.search(r"[\t ]{2,}|\t", tagless):
        out.append("runs of blanks and tabs collapsed: indentation lost")
    coded = reference.reformat_code(converted.strip())
    if coded != converted.strip():
        out.append("code header rewritten")
    uncounted = coded[found.end() :] if (found := reference.regenerate_pattern.match(coded)) else coded
    if uncounted != coded:
        out.append("number / number at the beginning deleted")
    uncopied = reference.copy_code_pattern.sub("", reference.copy_chars_pattern.sub("", uncounted))
    if uncopied != uncounted:
        out.append("copy label deleted")
    if "\n\n\n" in uncopied:
        out.append("three newlines joined to one")
    if not out:
        out.append("blanks at the ends stripped" if value.strip() == uncopied.strip() else "other")
    return out


def decisions(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, record in enumerate(records):
        record["number"] = number  # survives the cleaning, which ids that occur twice do not tell
    clean_sharegpt.clean_html_one_sample = clean_or_crash
    with redirect_stdout(io.StringIO()) as printed:
        kept = {record["number"]: record for record in clean_sharegpt.clean_html_all(records, None, None)}
    # It prints one line for each record that it drops, in their order.
    reasons = iter([line for line in printed.getvalue().splitlines() if line.startswith("id ")])
    out = []
    for number, record in enumerate(records):
        if number not in kept:
            line = next(reasons)
            out.append({"reason": next(short for text, short in REASONS.items() if f" {text}" in line)})
        elif should_skip(kept[number]):
            out.append({"reason": "broken list"})
        else:
            before = [turn["value"] for turn in record["conversations"]]
            before = before[record["conversations"][0]["from"] != "human" :]
            turns = [turn["value"] for turn in kept[number]["conversations"]]
            pairs = zip(before, turns)  # noqa: B905 (it cuts turns at the end)
            out.append({"reason": None, "turns": turns, "changes": [changes(b) if a != b else [] for b, a in pairs]})
    return out


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(decisions(json.loads(Path(sys.argv[1]).read_text()))))
