"""The page: gradio's components, and what their events do with a person's `ChatSession`."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from vicuna_lit.chat import markup
from vicuna_lit.chat.exchange import ModelPane
from vicuna_lit.chat.service import ChatService, ChatSession, Refused
from vicuna_lit.evaluate.reviews import Choice
from vicuna_lit.inference.backend import BackendError, Settings

CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
VOTES: dict[Choice, str] = {"left": "← Left", "right": "Right →", "tie": "Tie", "both bad": "Both bad"}


class Page:
    """The components of the page of a service; `blocks` is what gradio serves."""

    def __init__(self, service: ChatService):
        self.service = service
        config, names = service.config, service.names(service.begin())
        two = len(names) == 2
        with gr.Blocks(title="vicuna_lit chat", analytics_enabled=False, fill_width=True) as self.blocks:
            self.talk = gr.State(None)
            kept = f" {service.kept} on the server." if service.kept else ""
            about = "Two models, one prompt: which is better?" if two else names[0]
            gr.Markdown(markup.plain("vicuna_lit chat", "title") + markup.plain(about + kept, "about"))
            with gr.Row(elem_classes=["two"] if two else []):
                self.chats = [
                    gr.Chatbot(
                        label=name, elem_classes=["chat"], elem_id=f"chat{i}", buttons=[], latex_delimiters=[],
                        layout="bubble", placeholder="Ask something.", min_width=260, allow_file_downloads=False,
                        feedback_options=None,
                    )
                    for i, name in enumerate(names)
                ]  # fmt: skip
            with gr.Row(elem_id="votes", visible=two):
                self.votes = [gr.Button(text, interactive=False, size="sm", min_width=70) for text in VOTES.values()]
            self.status = gr.Markdown("", elem_id="status")
            with gr.Row(equal_height=True):
                self.box = gr.Textbox(
                    placeholder="Your prompt", show_label=False, container=False,
                    lines=1, max_lines=8, scale=8, elem_id="ask", autofocus=True, min_width=160,
                    max_length=config.limits.prompt_characters,
                )  # fmt: skip
                self.send = gr.Button("Send", variant="primary", scale=1, min_width=80, elem_id="send")
                self.halt = gr.Button("Stop", variant="stop", scale=1, min_width=80, visible=False, elem_id="stop")
            with gr.Row(elem_id="small"):
                retry, edit, clear, show = (
                    gr.Button(text, size="sm", min_width=70) for text in ("Retry", "Edit", "Clear", "Prompt")
                )
            self.sent = gr.Markdown("", elem_id="sent")
            with gr.Accordion("Settings", open=False):
                self.temperature = gr.Slider(
                    0, config.limits.temperature, config.settings.temperature, step=0.05, label="Temperature",
                    info="0: the most likely token each time",
                )  # fmt: skip
                self.length = gr.Slider(
                    1, config.limits.new_tokens, config.settings.max_new_tokens, step=1, label="Longest reply, tokens"
                )
            self._connect(retry, edit, clear, show)

    def _connect(self, retry: gr.Button, edit: gr.Button, clear: gr.Button, show: gr.Button) -> None:
        shown = [self.talk, *self.chats, self.box, self.send, self.halt, *self.votes, self.status, self.sent]
        settings = [self.temperature, self.length]
        replies: dict[str, Any] = {
            "outputs": shown,
            "concurrency_id": "replies",
            "concurrency_limit": self.service.config.limits.at_once,
            "show_progress": "minimal",
            "show_progress_on": self.status,
            "trigger_mode": "once",
        }
        # Out of the queue: a page closes its stream when an event ends, and loses one that is just joining it.
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        asked = [self.talk, self.box, *settings]
        gr.on([self.send.click, self.box.submit], self._ask, asked, api_name="ask", **replies)
        retry.click(self._retry, [self.talk, *settings], api_visibility="private", **replies)
        self.halt.click(self._stop, self.talk, None, **quick)
        edit.click(self._edit, self.talk, shown, **quick)
        clear.click(self._clear, self.talk, shown, **quick)
        show.click(self._show, [self.talk, self.sent], [self.status, self.sent], **quick)
        for button, choice in zip(self.votes, get_args(Choice), strict=True):
            button.click(self._voter(choice), self.talk, shown, **quick)

    def _ask(
        self, talk: ChatSession | None, text: str, temperature: float, length: float, request: gr.Request
    ) -> Iterator[list[Any]]:
        talk = talk or self.service.begin()
        yield from self._answer(talk, text, _settings(temperature, length), request)

    def _retry(
        self, talk: ChatSession | None, temperature: float, length: float, request: gr.Request
    ) -> Iterator[list[Any]]:
        talk = talk or self.service.begin()
        try:
            text = self.service.take_back(talk)
        except Refused as refusal:
            yield self._view(talk, status=markup.plain(str(refusal), "refused"))
            return
        yield from self._answer(talk, text, _settings(temperature, length), request)

    def _answer(self, talk: ChatSession, text: str, settings: Settings, request: gr.Request) -> Iterator[list[Any]]:
        client = request.client.host if request.client else ""
        try:
            for _ in self.service.answer(talk, text or "", settings, client):
                if talk.successor:  # gradio shows the last item once more when it ends
                    yield self._view(talk.successor, box="")
                    return
                yield self._view(talk, box="")
        except Refused as refusal:
            yield self._view(talk, box=text, status=markup.plain(str(refusal), "refused"))

    def _stop(self, talk: ChatSession | None) -> None:
        if talk:
            talk.stop.set()

    def _edit(self, talk: ChatSession | None) -> list[Any]:
        talk = talk or self.service.begin()
        try:
            return self._view(talk, box=self.service.take_back(talk))
        except Refused as refusal:
            return self._view(talk, status=markup.plain(str(refusal), "refused"))

    def _clear(self, talk: ChatSession | None) -> list[Any]:
        fresh = self.service.begin()
        if talk:
            talk.successor = fresh
            talk.stop.set()
        return self._view(fresh, box="")

    def _show(self, talk: ChatSession | None, shown: str) -> tuple[str, str]:
        if shown:
            return "", ""
        talk = talk or self.service.begin()
        try:
            parts = zip(self.service.names(talk), self.service.sent(talk), strict=True)
            return "", "".join(markup.sent(name, what) for name, what in parts)
        except (Refused, BackendError) as error:
            return markup.plain(str(error), "refused"), ""

    def _voter(self, choice: Choice) -> Any:
        def vote(talk: ChatSession | None) -> list[Any]:
            talk = talk or self.service.begin()
            try:
                self.service.vote(talk, choice)
            except Refused as refusal:
                return self._view(talk, status=markup.plain(str(refusal), "refused"))
            thanks = f"Thank you: {choice}. {', '.join(self.service.names(talk))}."
            return self._view(talk, status=markup.plain(thanks, "thanks"))

        return vote

    def _view(self, talk: ChatSession, box: str | None = None, status: str = "") -> list[Any]:
        """All that is shown of a conversation, in the order of `shown`."""
        running = any(side.running for side in talk.sides)
        chats = [
            gr.update(value=_messages(talk, side), label=name)
            for side, name in zip(talk.sides, self.service.names(talk), strict=True)
        ]
        votes = [gr.update(interactive=talk.can_vote)] * len(self.votes)
        written = gr.skip() if box is None else box
        buttons = [gr.update(visible=not running), gr.update(visible=running)]
        return [talk, *chats, written, *buttons, *votes, status, ""]


def _settings(temperature: float, length: float) -> Settings:
    """As a request has them; no number at all is as wrong as no token."""
    return Settings(float(temperature), int(length) if math.isfinite(length) else 0)


def _messages(talk: ChatSession, side: ModelPane) -> list[dict[str, str]]:
    """The finished exchanges and the one under way, as the chat component takes them."""
    found = [
        {"role": turn.role, "content": markup.plain(turn.content)}
        if turn.role == "user"
        else {"role": turn.role, "content": markup.finished(turn.content)}
        for turn in side.conversation.turns
        if turn.role != "system"
    ]
    notice = markup.plain(side.notice, "notice") if side.notice else ""
    if talk.asked:
        found.append({"role": "user", "content": markup.plain(talk.asked)})
        text = side.reply + (" ▍" if side.running else "")
        found.append({"role": "assistant", "content": (markup.markdown(text) if text else "") + notice})
    elif found:
        found[-1]["content"] += notice
    return found
