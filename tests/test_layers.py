"""The direction of imports, and that checking a config does not cost an import of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vicuna_lit

PACKAGE = Path(vicuna_lit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FORBIDDEN = {
    "config": {"torch", "hydra", "omegaconf", "transformers", "lightning", "vicuna_lit"},
    "conversation": {"torch", "transformers", "lightning", "hydra", "vicuna_lit"},
    "formats": {"torch", "transformers", "lightning", "hydra"},
    "trees": {"torch", "transformers", "lightning", "hydra", "vicuna_lit"},
    "template": {"torch", "transformers", "lightning", "hydra", "vicuna_lit.data", "vicuna_lit.train"},
    "compose": {"torch", "transformers", "lightning", "vicuna_lit.train", "vicuna_lit.data"},
    "dashboard": {"torch", "transformers", "lightning", "hydra", "vicuna_lit"},
    "cli": {"torch", "transformers", "lightning", "vicuna_lit.train", "vicuna_lit.data"},
    "json_values": {"orjson", "vicuna_lit"},
    "folder": {"torch", "transformers", "lightning", "hydra"},
    "tokenizer": {"lightning", "hydra", "vicuna_lit.train", "vicuna_lit.chat"},
    "masks": {"lightning", "hydra", "vicuna_lit.train", "vicuna_lit.chat"},
    "notebook": {"vicuna_lit"},
    "prepare": {
        "torch",
        "transformers",
        "lightning",
        "hydra",
        "omegaconf",
        "wandb",
        "vicuna_lit.train",
        "vicuna_lit.chat",
    },
    "data": {"hydra", "omegaconf", "wandb", "transformers", "vicuna_lit.train", "vicuna_lit.chat"},
    "estimate": {"hydra", "omegaconf", "lightning", "wandb", "vicuna_lit.chat", "vicuna_lit.prepare"},
    "evaluate": {"hydra", "omegaconf", "lightning", "vicuna_lit.train", "vicuna_lit.prepare"},
    "compare": {
        "torch",
        "transformers",
        "lightning",
        "hydra",
        "omegaconf",
        "wandb",
        "vicuna_lit.train",
        "vicuna_lit.data",
    },
    "chat": {"hydra", "omegaconf", "wandb", "lightning", "vicuna_lit.train", "vicuna_lit.prepare"},
    "train": {"hydra", "omegaconf"},
}
ONLY_IN = {
    "lightning": {"train", "data/datamodule.py"},
    "hydra": {"compose.py", "cli.py"},
    "wandb": {"train/history.py", "train/artifacts.py", "evaluate/board.py", "dashboard.py"},
    "wandb_workspaces": {"dashboard.py"},
    "openai": {"evaluate/client.py", "chat/endpoint.py"},
    "gradio": {"chat/page.py", "chat/server.py"},
    "uvicorn": {"chat/server.py"},
    "fastapi": {"chat/server.py"},
    "nh3": {"chat/markup.py"},
    "markdown_it": {"chat/markup.py"},
    "matplotlib": {"compare/figures.py"},
    "IPython": {"notebook.py"},
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path):
    place = path.relative_to(PACKAGE)
    forbidden = FORBIDDEN.get(place.parts[0].removesuffix(".py"), set())
    names = {n for n in imports(path) if ".config" not in n}  # configs hold no code; anyone may read them
    bad = {name for name in names for f in forbidden if within(name, f)}
    assert not bad
    for library, places in ONLY_IN.items():
        if not any(place.is_relative_to(p) for p in places):
            assert not {n for n in imports(path) if within(n, library)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_checking_a_config_does_not_import_torch():
    code = "import sys; from vicuna_lit import load; load('train'); load('chat', 'model=x'); "
    code += "assert not {'torch', 'gradio', 'openai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
