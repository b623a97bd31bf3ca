"""`vicuna-chat`: see `vicuna-chat --help`.

Imports at the top are those of a few milliseconds: a signal that comes before the command listens kills it.
"""

import os
import stat
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vicuna_lit.cli.stops import stops_in_one_line

if TYPE_CHECKING:
    from vicuna_lit.config.chat import ChatConfig


def main() -> None:
    """The command; `--terminal` is short for `terminal=true`."""
    sys.argv[1:] = ["terminal=true" if argument == "--terminal" else argument for argument in sys.argv[1:]]
    with stops_in_one_line():
        from vicuna_lit.cli import app as cli

        cli.main("chat", _run)


def _run(config: "ChatConfig") -> int:
    from vicuna_lit.cli import app as cli

    return cli.guarded(lambda: _chat(config), config.run.dir, resumes=False)


def _chat(config: "ChatConfig") -> None:
    from vicuna_lit.cli.busy import wait_asleep_where_busy
    from vicuna_lit.hub import fetched
    from vicuna_lit.run_folder import locked

    config = fetched(config)
    wait_asleep_where_busy()
    with locked(Path(config.run.dir), patience=5.0):
        _converse(config)


def _converse(config: "ChatConfig") -> None:
    from vicuna_lit.chat.log import ChatLog
    from vicuna_lit.chat.moderation import make_moderator
    from vicuna_lit.chat.service import ChatService
    from vicuna_lit.inference.backend import open_backends
    from vicuna_lit.run_folder import RunError

    if config.terminal:
        from vicuna_lit.chat.terminal import converse

        converse(ChatService(config, open_backends(config), make_moderator(config.moderation), ChatLog(config)))
        return
    for name in ("gradio", "nh3", "markdown_it"):
        if find_spec(name) is None:
            said = "pip install -e '.[chat]', or talk in the terminal with --terminal"
            raise RunError(f"the page needs {name}, which is not installed: {said}")
    from vicuna_lit.chat.server import is_loopback, listen, serve

    with listen(config.host, config.port) as place:
        service = ChatService(config, open_backends(config), make_moderator(config.moderation), ChatLog(config))
        shown = f"[{config.host}]" if ":" in config.host else config.host
        print(f"http://{shown}:{config.port}  (Ctrl-C ends it)", flush=True)
        if not is_loopback(config.host):
            print("note: whoever reaches this machine can use the page: it asks for no login, and is sent unencrypted; "
                  "docs/chat.md says what to put in front", file=sys.stderr)  # fmt: skip
        if sys.stdin is not None and stat.S_ISFIFO(os.fstat(0).st_mode):
            print("note: the page reads nothing from the pipe; --terminal answers its lines", file=sys.stderr)
        if service.files:
            print(f"  {config.run.dir}  {', '.join(service.files)}", flush=True)
        serve(service, place)


if __name__ == "__main__":
    main()
