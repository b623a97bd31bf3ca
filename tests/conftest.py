"""Shapes and types are enforced while the tests run; real data is used where it is present.

It imports nothing large: pytest's controller reads it too, and runs no test.
"""

import gc
import os
import shutil
from pathlib import Path

from jaxtyping import install_import_hook

import tests.helpers.checker

os.environ.setdefault("WANDB_MODE", "offline")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ARRAYS = ("batch", "datamodule", "dataset", "encoder", "mask_view", "packing", "plan", "source", "splitting")
CHECKED = [f"vicuna_lit.{package}" for package in ("models", "inference", "train", "chat")]
CHECKED += [f"vicuna_lit.data.{module}" for module in (*ARRAYS, "token_bytes")]  # texts have no shapes
hook = install_import_hook(CHECKED, f"{tests.helpers.checker.__name__}.check")

import pytest  # noqa: E402

from tests.helpers.yaml_once import parse_once  # noqa: E402

parse_once()

pytest.register_assert_rewrite("tests.helpers.runs")

from tests.helpers.commands import FOLDER, new_session  # noqa: E402
from tests.helpers.examples import QUICK  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the checkout; tests that need it skip where it is absent."""
    from tests.helpers.runs import SHARED

    if not SHARED.exists():
        pytest.skip("no shared data on this machine")
    return SHARED


def pytest_addoption(parser):
    """`--golden` writes the golden files anew; read the difference before committing it."""
    parser.addoption("--golden", action="store_true", help="write tests/golden anew")


def pytest_configure(config):
    """What pytest's workers share with their controller: a folder for commands and caches, and whether slow tests are
    left out."""
    if not hasattr(config, "workerinput"):
        new_session()
        os.environ["VICUNA_LIT_CACHE"] = f"{os.environ[FOLDER]}/cache"
        if config.option.markexpr == "not slow":
            os.environ[QUICK] = "1"


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)
        os.environ.pop(QUICK, None)
        os.environ.pop("VICUNA_LIT_CACHE", None)


def pytest_collection_finish():
    """What was imported stays: to look for garbage among its 900,000 objects takes half a second, again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """CUDA's warnings (cuDNN's strides, deterministic fallbacks) fail no test of a GPU; all others fail any test."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default::UserWarning"), append=False)
    items[:] = slow_files_first(items)


def slow_files_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of two processes each gets half of the list, and takes from the other's end when it has done its own.

    So both begin with files that have slow tests, and quick ones fill the gaps at the end.
    """
    slow = list(dict.fromkeys(item.path for item in items if item.get_closest_marker("slow")))
    first, second = ([item for item in items if item.path in slow[i::2]] for i in range(2))
    quick = [item for item in items if item.path not in slow]
    fill = max(0, len(items) // 2 - len(first))
    return first + quick[:fill] + second + quick[fill:]
