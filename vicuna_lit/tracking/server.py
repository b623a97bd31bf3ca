"""Whether W&B can be reached, and takes this user's key: asked once a run, before anything is loaded; and whether it
has refused the run later."""

import json
import math
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from vicuna_lit.config.tracking import WandbConfig
from vicuna_lit.run_folder import RunError
from vicuna_lit.tracking.watch import WATCH

PATIENCE = "10"
"""Seconds that the server has for its first answer, as W&B's variable wants it."""
FRESH = 600.0
"""Seconds for which an answer counts: a command checks more than once before it begins."""
_answers: dict[str, tuple[float, tuple[str | None, str | None]]] = {}
NO_ANSWER = ("did not respond in time", "is not running", "timed out", "connection refused", "no such host")
"""Of W&B's messages: the server was not heard. Others are what it has said."""


def check_wandb(config: WandbConfig) -> None:
    """
    Raises:
        RunError: nobody is logged in on this machine, the server refuses the key, or W&B has no such setting. A
            server that does not answer is no error: the run goes on offline.
    """
    if config.mode == "disabled" or os.environ.get("RANK", "0") != "0":
        return
    _check_settings(config)
    if config.mode == "online" and (said := _answer()[0]):
        raise RunError(
            f"wandb.mode=online: {said}; `wandb login`, or WANDB_API_KEY, or wandb.mode=offline, which `wandb sync` "
            "uploads later"
        )


def check_login(what: str) -> None:
    """
    Args:
        what: wants to write to W&B now.

    Raises:
        RunError: nobody is logged in, or the server refuses the key or does not answer.
    """
    refused, silent = _answer()
    if refused:
        raise RunError(f"{what}: {refused}; `wandb login`, or WANDB_API_KEY")
    if silent:
        raise RunError(f"{what}: {silent}")


def unheard() -> str | None:
    """Why the server was not heard when it was asked; None: it answered."""
    return _answer()[1]


def _check_settings(config: WandbConfig) -> None:
    if not config.settings:
        return
    import wandb
    from pydantic import ValidationError

    try:
        wandb.Settings(**config.settings)
    except ValidationError as error:
        one = error.errors()[0]
        key = ".".join(map(str, one["loc"]))
        unknown = "wandb.Settings has no such field" if one["type"] == "extra_forbidden" else one["msg"]
        raise RunError(f"wandb.settings.{key}: {unknown}") from None


def _answer() -> tuple[str | None, str | None]:
    """What is wrong with the login, and why the server was not heard; a login that is wrong is looked at anew."""
    address = os.environ.get("WANDB_BASE_URL", "")
    at, answer = _answers.get(address, (-math.inf, (None, None)))
    if time.monotonic() - at > FRESH or answer[0]:
        with WATCH.over():
            answer = _ask(address)
        _answers[address] = time.monotonic(), answer
    return answer


def _ask(address: str) -> tuple[str | None, str | None]:
    """The same of the server itself; W&B asks nobody on the terminal here."""
    import wandb
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    before = os.environ.get("WANDB_HTTP_TIMEOUT")
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", PATIENCE)
    host: object = address
    try:
        base: str = wandb_setup.singleton().settings.base_url
        host = wbauth.HostUrl(address or base)
        found = wbauth.authenticate_session(host=host, source="wandb", verify=True, prompt=False, update_session=False)
        return (None if found else "nobody is logged in on this machine"), None
    except (AuthenticationError, wandb.Error) as error:
        said = one_line(error)
        if any(words in said.lower() for words in NO_ANSWER):
            return None, f"{host} does not answer"
        return said, None
    except Exception as error:  # W&B's own process does not start, or a file of its settings is broken
        return None, f"W&B cannot ask its server: {one_line(error)}"
    finally:
        if before is None:
            del os.environ["WANDB_HTTP_TIMEOUT"]


def refused(folder: Path) -> str | None:
    """Why an online run's uploads ended for good: its server refused one (a quota, a key that was revoked).

    W&B prints a warning then, and tells the caller nothing; its own log says it at a level above ERROR.

    Args:
        folder: W&B's of the run.
    """
    with suppress(OSError, ValueError, KeyError):
        for line in (folder / "logs" / "debug-internal.log").read_text(encoding="utf-8", errors="replace").splitlines():
            if '"level":"ERROR+4"' in line:
                return one_line(re.sub(r" url=\S+", "", json.loads(line)["msg"]))
    return None


def one_line(error: BaseException | str) -> str:
    """What an error of W&B's says, short."""
    return " ".join(str(error).split())[:200] or type(error).__name__
