"""`vicuna-chat`: see `vicuna-chat --help`."""

import sys
from importlib.util import find_spec

from vicuna_lit import cli
from vicuna_lit.chat.config import ChatConfig


def main() -> None:
    """The command; `--terminal` is short for `terminal=true`."""
    sys.argv[1:] = ["terminal=true" if argument == "--terminal" else argument for argument in sys.argv[1:]]
    cli.main("chat", _run)


def _run(config: ChatConfig) -> int:
    return cli.guarded(lambda: _chat(config), config.run.dir)


def _chat(config: ChatConfig) -> None:
    from vicuna_lit.chat.backends import open_backends
    from vicuna_lit.chat.journal import Journal
    from vicuna_lit.chat.moderation import make_moderator
    from vicuna_lit.chat.talk import Service
    from vicuna_lit.folder import RunError

    if config.terminal:
        from vicuna_lit.chat.terminal import converse

        converse(Service(config, open_backends(config), make_moderator(config.moderation), Journal(config)))
        return
    if find_spec("gradio") is None:
        raise RunError("the page needs gradio: pip install 'vicuna_lit[chat]', or talk in the terminal with --terminal")
    from vicuna_lit.chat.server import listen, serve

    with listen(config.host, config.port) as place:
        service = Service(config, open_backends(config), make_moderator(config.moderation), Journal(config))
        print(f"http://{config.host}:{config.port}  (Ctrl-C ends it)", flush=True)
        if config.record:
            print(f"  {config.run.dir}  votes.jsonl, conversations.jsonl", flush=True)
        serve(service, place)


if __name__ == "__main__":
    main()
