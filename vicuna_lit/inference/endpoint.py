"""A model behind an OpenAI-compatible server as a backend of the chat: its replies are streamed."""

from vicuna_lit.config.evaluate import EndpointConfig
from vicuna_lit.data.conversation import Conversation
from vicuna_lit.inference.backend import Sent, Settings, Stream
from vicuna_lit.inference.openai_client import OpenAIClient

LONGEST = 10
"""Times the limit to silence: how long a reply as a whole may take."""


class EndpointBackend:
    """A model behind a server.

    Args:
        timeout_seconds: without a word, after which the model is given up.
    """

    def __init__(self, endpoint: EndpointConfig, name: str, timeout_seconds: float):
        self.name, self._client = name, OpenAIClient(endpoint, timeout_seconds, LONGEST * timeout_seconds)

    def reply(self, conversation: Conversation, settings: Settings) -> Stream:
        """The model's next turn; closing the stream ends the request.

        Raises:
            BackendError: while the stream is read.
        """
        return self._client.stream(messages(conversation), settings.max_new_tokens, settings.temperature)

    def sent(self, conversation: Conversation) -> Sent:
        """The messages; the server puts them into the model's template."""
        return Sent(messages=tuple(messages(conversation)))

    def check(self) -> None:
        """
        Raises:
            BackendError: nobody answers at the address, the server is not well, or it refuses the key.
        """
        self._client.check()


def messages(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation as such servers read it."""
    return [{"role": turn.role, "content": turn.content} for turn in conversation.turns]
