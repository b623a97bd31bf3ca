"""Writes the generated pages: `python docs/generate.py`. A test says whether they are up to date.

reference.md holds every key of every job, from the config classes and `conf/`; coming_from.md the names of other
tools, from `vicuna_lit/config/renamed.py`; data.md the columns that are known, from `vicuna_lit/records/columns.py`;
api.md the public names with their first sentence; evidence.md and the README the figures of results.yaml.
"""

import re
from inspect import getdoc
from pathlib import Path

import yaml

import vicuna_lit
from vicuna_lit.config.compose import JOBS
from vicuna_lit.config.reference import Entry, entries
from vicuna_lit.config.renamed import ELSEWHERE, RENAMED
from vicuna_lit.records.columns import FORMS

DOCS = Path(__file__).parent
MOST_OF_A_DEFAULT = 44
TITLES = {
    "train": "The defaults are the quickstart's; those of `experiment=vicuna` (the article) stand beside them.",
    "prepare": "From raw dumps to a training set.",
    "estimate": "All keys of `vicuna-train`, and these.",
    "evaluate": "Who is better, and how sure is that?",
    "chat": "A page, or the terminal.",
}


def code(text: str) -> str:
    """In a cell of a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def default(entry: Entry) -> str:
    """Cut where it is long: the YAML has it whole."""
    text = entry.default
    if text == "must be given":
        return text
    return code(text if len(text) <= MOST_OF_A_DEFAULT else text[: MOST_OF_A_DEFAULT - 2].rstrip() + " …")


def meaning(entry: Entry) -> str:
    """The text, with the choices and the condition after it."""
    parts = [entry.text.replace("|", "\\|")]
    if entry.choices:
        parts.append(f"*Choices:* {', '.join(map(code, entry.choices))}.")
    if entry.needs:
        without = entry.needs.removeprefix("not ")
        parts.append(f"*{'Not with' if without != entry.needs else 'Only with'}* {code(without)}.")
    return " ".join(parts)


def rows(found: list[Entry], article: dict[str, str]) -> list[str]:
    """A table of keys; what the article's recipe has otherwise stands beside the default."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for entry in found:
        other = article.get(entry.key, entry.default)
        beside = f"; article: {code(other)}" if other not in (entry.default, "must be given") else ""
        beside += f"; {entry.elsewhere}" if entry.elsewhere else ""
        kind = "" if entry.type == "group" else entry.type
        lines.append(f"| {code(entry.key)} | {kind} | {default(entry)}{beside} | {meaning(entry)} |")
    return lines


def reference() -> str:
    """The page of all keys."""
    lines = [
        "# Reference of all keys",
        "",
        "Written by `python docs/generate.py` from the config classes and `conf/`; do not edit.",
        "A key is typed as `key=value`; `--cfg job` prints the values of a command.",
        "",
    ]
    shared = {entry.key for entry in entries("train")}
    for job in ("train", *(job for job in JOBS if job != "train")):
        found = [entry for entry in entries(job) if job != "estimate" or entry.key not in shared]
        lines += [f"## vicuna-{job}", "", TITLES[job], ""]
        if job != "train":
            lines += [*rows(found, {}), ""]
            continue
        article = {entry.key: entry.default for entry in entries("train", "experiment=vicuna")}
        kept = {key: article[key] for key in article if not key.startswith(("model.", "data.", "run.", "samples."))}
        for part, says in (
            ("recipe", "What is computed: a difference is another experiment."),
            ("layout", "How it lies on the hardware: speed and memory, no loss."),
            ("run settings", "Where it is kept and how it is watched."),
        ):
            lines += [f"### {part.capitalize()}", "", says, ""]
            lines += [*rows([entry for entry in found if entry.part == part], kept), ""]
    return "\n".join(lines)


def names() -> str:
    """The table of other tools' keys, and that of our own earlier ones."""
    lines = ["| another tool's | ours |", "|---|---|"]
    lines += [f"| `{theirs}` | {ours} |" for theirs, ours in sorted(ELSEWHERE.items())]
    lines += ["", "Keys that had another name here before:", "", "| before | now |", "|---|---|"]
    lines += [f"| `{old}` | `{new}` |" for old, new in RENAMED.items()]
    return "\n".join(lines)


def api() -> str:
    """The public names with the first sentence of each, and all of it for mkdocstrings."""
    homes, lines = vicuna_lit._HOMES, ["| name | what |", "|---|---|"]
    for name in vicuna_lit.__all__:
        text = " ".join((getdoc(getattr(vicuna_lit, name)) or "").partition("\n\n")[0].split())
        first = re.split(r"(?<=\.) (?=[A-Z`])", text)[0].replace("|", "\\|")
        lines.append(f"| [`{name}`](../vicuna_lit/{homes[name].replace('.', '/')}.py) | {first} |")
    blocks = (f"::: vicuna_lit.{homes[name]}.{name}" for name in vicuna_lit.__all__)
    return "\n\n".join(["\n".join(lines), *blocks])


def results(part: str) -> str:
    """A table of results.yaml; a command that is that of the row above is `the same`."""
    lines, before = ["| what | result | command |", "|---|---|---|"], ""
    for row in yaml.safe_load((DOCS / "results.yaml").read_text())[part]:
        command = row["command"] if row["command"] != before else "the same"
        before = row["command"]
        lines.append(f"| {row['what']} | {row['result']} | {command} |")
    return "\n".join(lines)


def columns() -> str:
    """The pairs of columns that are read without being named."""
    lines = ["| question | what it is about | answer |", "|---|---|---|"]
    for form in FORMS:
        others = (f"{code(form[key])} ({key})" for key in ("reasoning", "calls", "tools") if key in form)
        answer = ", ".join(filter(None, (code(form.get("response", "")), *others)))
        lines.append(f"| {code(form['prompt'])} | {code(form.get('context', ''))} | {answer} |")
    return "\n".join(lines)


def between(text: str, name: str, content: str) -> str:
    """The text with other content between the marks of that name."""
    begin, end = f"<!-- generated: {name} -->", "<!-- /generated -->"
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def pages() -> dict[Path, str]:
    """Every generated page with its content."""
    coming, public, data, evidence = (DOCS / f"{name}.md" for name in ("coming_from", "api", "data", "evidence"))
    readme = DOCS.parent / "README.md"
    return {
        DOCS / "reference.md": reference(),
        coming: between(coming.read_text(), "names", names()),
        public: between(public.read_text(), "names", api()),
        data: between(data.read_text(), "columns", columns()),
        evidence: between(evidence.read_text(), "results", results("evidence")),
        readme: between(readme.read_text(), "results", results("readme")),
    }


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content)
