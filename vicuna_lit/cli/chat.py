"""`vicuna-chat`: see `vicuna-chat --help`."""

import sys
from importlib.util import find_spec
from pathlib import Path

from vicuna_lit.cli import app as cli
from vicuna_lit.cli.busy import wait_asleep_where_busy
from vicuna_lit.config.chat import ChatConfig
from vicuna_lit.hub import fetched


def main() -> None:
    """The command; `--terminal` is short for `terminal=true`."""
    sys.argv[1:] = ["terminal=true" if argument == "--terminal" else argument for argument in sys.argv[1:]]
    cli.main("chat", _run)


def _run(config: ChatConfig) -> int:
    return cli.guarded(lambda: _chat(fetched(config)), config.run.dir)


def _chat(config: ChatConfig) -> None:
    from vicuna_lit.run_folder import locked

    wait_asleep_where_busy()
    with locked(Path(config.run.dir), patience=5.0):
        _converse(config)


def _converse(config: ChatConfig) -> None:
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
        if service.files:
            print(f"  {config.run.dir}  {', '.join(service.files)}", flush=True)
        serve(service, place)


if __name__ == "__main__":
    main()
