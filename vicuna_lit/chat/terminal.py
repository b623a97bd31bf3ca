"""The same conversation in the terminal."""

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from vicuna_lit import notebook
from vicuna_lit.chat.service import ChatService, ChatSession, Refused
from vicuna_lit.inference.backend import Settings
from vicuna_lit.pages import visible

HELP = "/retry  /clear  /quit; Ctrl-C stops a reply"


def converse(service: ChatService, read: Callable[[str], str] = input) -> None:
    """Reads prompts and streams replies until /quit or the end of the input."""
    with suppress(ImportError):  # a line is edited, of any length, and what is pasted is one prompt, lines and all
        import readline  # noqa: F401
    out, talk, settings = notebook.console(highlight=False), service.begin(), service.config.settings
    how = Settings(settings.temperature, settings.max_new_tokens)
    _print(out, f"{service.names(talk)[0]}. {HELP}")
    if kept := service.kept:
        _print(out, f"{kept} in {service.config.run.dir}.")
    while True:
        try:
            text = read("> ").strip()
            if not sys.stdin.isatty():  # a terminal shows what is typed in it
                _print(out, text)
        except UnicodeDecodeError as error:
            _print(out, f"That is no {error.encoding} text; nothing was sent.", "yellow")
            continue
        except (EOFError, KeyboardInterrupt):
            _print(out, "")  # the prompt has no end of its own
            return
        again = ""
        try:
            match text:
                case "/quit":
                    return
                case "/help":
                    _print(out, HELP)
                    continue
                case "/clear":
                    talk = service.begin()
                    _print(out, "A new conversation.")
                    continue
                case "/retry":
                    text = again = service.take_back(talk)
                case _ if re.fullmatch(r"/[A-Za-z]+", text):
                    raise Refused(f"{text}: no such command; {HELP}")
                case _:
                    pass
            _say(service, talk, text, how, out)
        except Refused as refusal:
            talk.asked = talk.asked or again  # /retry asks it later
            _print(out, str(refusal), "yellow")


def _say(service: ChatService, talk: ChatSession, text: str, how: Settings, out: Console) -> None:
    side, shown = talk.sides[0], 0
    with _stopping(talk.stop):
        for _ in service.answer(talk, text, how, "terminal"):
            said = side.reply or (side.conversation.turns[-1].content if not side.running and not side.failed else "")
            said = said.lstrip()  # as the finished reply is
            _print(out, said[shown:], end="")
            shown = max(shown, len(said))
    out.print()
    if side.notice:
        _print(out, side.notice, "yellow")


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C stops the reply, which is then kept as far as it came; a second one ends the command.

    An exception in the middle of an exchange would tear it, and lose what was said.
    """

    def stop_or_end(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGINT, stop_or_end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _print(out: Console, text: str, style: str | None = None, end: str = "\n") -> None:
    """A text as it is: the terminal breaks its lines, and obeys nothing in it."""
    out.print(visible(text), end=end, style=style, markup=False, soft_wrap=True)
