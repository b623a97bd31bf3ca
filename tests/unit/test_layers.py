"""The direction of imports, and that checking a config does not cost an import of torch."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import vicuna_lit

PACKAGE = Path(vicuna_lit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ORDER = (
    "paths", "whole_files", "signals", "config", "hub", "run_folder", "file_hashes", "machine", "intervals", "pages",
    "errors", "notebook", "tracking", "records", "data", "models", "inference", "prepare", "evaluate", "compare",
    "estimate", "train", "chat", "cli", "__main__",
)  # fmt: skip
"""Rooms and loose modules, each of which imports those before it alone."""
WITHOUT = {
    "config": {"torch", "transformers", "lightning"},
    "cli": {"torch", "transformers", "lightning"},
    "compare": {"torch", "transformers", "lightning"},
    "prepare": {"torch", "transformers", "lightning"},
    "whole_files": {"vicuna_lit"},
    "run_folder": {"torch", "transformers", "lightning"},
    "hub": {"torch", "transformers", "lightning"},
    "machine": {"torch", "transformers", "lightning"},
    "errors": {"torch", "transformers", "lightning", "hydra"},
    "intervals": {"vicuna_lit"},
    "tracking": {"torch", "transformers", "lightning"},
    "wandb_workspace": {"torch", "transformers", "lightning", "vicuna_lit"},
    "notebook": {"vicuna_lit"},
    "records": {"torch", "transformers", "lightning"},
    "records/exports.py": {"vicuna_lit"},
    "data/chat_template.py": {"torch", "transformers", "lightning"},
    "records/json_stream.py": {"orjson", "vicuna_lit"},
}
"""What must start fast, or be read alone, does without these."""
ONLY_IN = {
    "lightning": {"train", "data/datamodule.py"},
    "hydra": {"config/compose.py", "config/search_path.py", "config/from_run.py", "cli"},
    "omegaconf": {"config/compose.py", "config/from_run.py", "cli", "data/chat_template.py"},
    "wandb": {"tracking", "train/tracking", "evaluate/tracking.py", "wandb_workspace.py"},
    "wandb_workspaces": {"wandb_workspace.py"},
    "openai": {"inference/openai_client.py"},
    "gradio": {"chat/web.py", "chat/server.py"},
    "uvicorn": {"chat/server.py"},
    "fastapi": {"chat/server.py"},
    "nh3": {"chat/markup.py"},
    "markdown_it": {"chat/markup.py"},
    "matplotlib": {"compare/figures.py"},
    "IPython": {"notebook.py"},
    "scipy": {"intervals.py"},
    "huggingface_hub": {"hub.py", "paths.py", "cli/push.py"},
}


TEXTS = re.compile(r"""\.(?:read_text|write_text)\((?!.*(?:encoding=|"ascii"))|\.open\("[awx]"(?!.*encoding=)""")


def test_no_text_is_read_or_written_as_the_locale_says():
    """Whose files they are decides, not on which machine they are read; tools such as `open` default to the locale."""
    found = [f"{path.name}: {line.strip()}" for path in MODULES for line in path.read_text().splitlines()
             if TEXTS.search(line)]  # fmt: skip
    assert not found, found


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def all_imports(path: Path) -> set[str]:
    """Of a module and of all of ours that it imports, however far behind."""
    found, open_ones = set(), {path}
    while open_ones:
        names = imports(open_ones.pop()) - found
        found |= names
        places = [PACKAGE.parent / name.replace(".", "/") for name in names if within(name, "vicuna_lit")]
        parts = {
            p
            for place in places
            for p in (place.with_suffix(".py"), *(a / "__init__.py" for a in (place, place.parent)))
        }
        open_ones |= {part for part in parts if part.is_file() and part != PACKAGE / "__init__.py"}
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def room_of(path: Path) -> str:
    place = path.relative_to(PACKAGE)
    return "__main__" if place.name == "__main__.py" else place.parts[0].removesuffix(".py")


def test_imports_point_one_way():
    """No import runs back up, and so none in a circle: what is tested is every one, those inside functions too."""
    for path in MODULES:
        place, room, names = path.relative_to(PACKAGE), room_of(path), imports(path)
        above = ORDER[ORDER.index(room) + 1 :] if room in ORDER else ()
        assert not {n for n in names for other in above if within(n, f"vicuna_lit.{other}")}, f"{place} imports it"
        without = WITHOUT.get(room, set()) | WITHOUT.get(str(place), set())
        assert not {n for n in names for other in without if within(n, other)}, f"{place} imports it"
        for library, places in ONLY_IN.items():
            if not any(place.is_relative_to(p) for p in places):
                assert not {n for n in names if within(n, library)}, f"{place} imports it"


def test_a_plan_needs_no_lightning():
    """All that `vicuna-train dry_run=true` imports, inside functions too."""
    for place in ("cli/train_sweep.py", "train/setup.py"):
        assert "torch" in (names := all_imports(PACKAGE / place))
        assert not {name for name in names if within(name, "lightning")}


def test_the_tree_of_the_documentation_is_the_tree():
    """Every module stands in it, and nothing that is gone."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    tree = page[page.index("\nvicuna_lit/ ") : page.index("\nexperiments/ ")]
    named = set(re.findall(r"\b\w+(?=\.py\b)", tree)) - {"test_layers"}
    commands = {"prepare", "train", "estimate", "evaluate", "compare", "chat"}  # "a file for each command"
    assert {path.stem for path in MODULES if not path.stem.startswith("__")} == named | commands


def test_every_room_has_its_place():
    assert {room_of(path) for path in MODULES} - {"__init__", "wandb_workspace"} == set(ORDER)


def test_files_and_functions_stay_small():
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 400, path
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 60, (path, node.name)


def test_checking_a_config_does_not_import_torch():
    code = "import sys; from vicuna_lit import load; load('train'); load('chat', 'model=x'); "
    code += "assert not {'torch', 'gradio', 'openai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
