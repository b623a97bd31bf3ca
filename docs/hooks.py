"""Lets the site hold what the pages link to outside `docs/`: experiments, notebooks, contributing, tables, code.

In the repository a page says `../experiments/…`, so that it can be read as plain Markdown. On the site the same
file lies at `experiments/…`.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(\]\(|src=\")([^)\s\"#]+)")


def on_files(files, config):
    """Adds every file that a page links to, and what those link to in turn."""
    waiting = [ROOT / "docs" / file.src_uri for file in files if file.is_documentation_page()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for _, target in _LINK.findall(page.read_text()):
            found = (page.parent / target).resolve()
            if "://" in target or found in seen or not found.is_relative_to(ROOT) or not found.is_file():
                continue
            seen.add(found)
            if found == ROOT / "README.md" or found.is_relative_to(ROOT / "docs"):
                continue
            files.append(File.generated(config, str(found.relative_to(ROOT)), abs_src_path=str(found)))
            if found.suffix == ".md":
                waiting.append(found)
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns a link as it is in the repository into one of the site."""
    inside = not Path(page.file.abs_src_path).is_relative_to(ROOT / "docs")

    def moved(link):
        target = link[2].removeprefix("docs/") if inside else link[2].removeprefix("../")
        return link[1] + target.replace("../docs/", "../")

    return _LINK.sub(moved, markdown)
