"""The same conversation in the terminal."""

from collections.abc import Callable

from rich.console import Console

from vicuna_lit.chat.service import ChatService, ChatSession, Refused
from vicuna_lit.inference.backend import Settings

HELP = "/retry  /clear  /quit; Ctrl-C stops a reply"


def converse(service: ChatService, read: Callable[[str], str] = input) -> None:
    """Reads prompts and streams replies until /quit or the end of the input."""
    out, talk, settings = Console(highlight=False), service.begin(), service.config.settings
    how = Settings(settings.temperature, settings.max_new_tokens)
    out.print(f"{service.names(talk)[0]}. {HELP}", markup=False)
    while True:
        try:
            text = read("> ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            match text:
                case "/quit":
                    return
                case "/clear":
                    talk = service.begin()
                    continue
                case "/retry":
                    text = service.take_back(talk)
            _say(service, talk, text, how, out)
        except Refused as refusal:
            out.print(str(refusal), markup=False, style="yellow")


def _say(service: ChatService, talk: ChatSession, text: str, how: Settings, out: Console) -> None:
    side, shown = talk.sides[0], ""
    answer = service.answer(talk, text, how, "terminal")
    while True:
        try:
            next(answer)
        except StopIteration:
            break
        except KeyboardInterrupt:
            talk.stop.set()
            continue
        said = side.reply or (side.conversation.turns[-1].content if not side.running and not side.failed else "")
        out.print(said[len(shown) :], end="", markup=False)
        shown = said
    out.print()
    if side.notice:
        out.print(side.notice, markup=False, style="yellow")
