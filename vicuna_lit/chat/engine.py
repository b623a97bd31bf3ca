"""A model that answers, with exactly the prompt it was trained on."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from vicuna_lit.conversation import Conversation
from vicuna_lit.data.tokenize import Encoder
from vicuna_lit.tokenizer_template import TokenizerTemplate


class Chat:
    """A conversation in progress; `say` adds a user's turn and returns the reply."""

    def __init__(self, model: PreTrainedModel, encoder: Encoder, system: str | None = None):
        self.model, self.encoder = model, encoder
        self.conversation = Conversation.of(system=system)

    @classmethod
    def load(cls, folder: str | Path, system: str | None = None) -> "Chat":
        """Opens an exported Hugging Face folder; its chat template gives the prompt."""
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True)
        stops = model.generation_config.stop_strings or ()
        return cls(model.eval(), Encoder(tokenizer, TokenizerTemplate(tokenizer, stop_strings=stops)), system)

    def say(self, text: str, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """Adds a user's turn, generates the reply, keeps and returns it."""
        self.conversation = self.conversation.say("user", text)
        answer = reply(self.model, self.encoder, self.conversation, max_new_tokens, temperature)
        self.conversation = self.conversation.say("assistant", answer)
        return answer


@torch.no_grad()  # not inference mode: sharded weights gathered in it could not be trained on afterwards
def reply(
    model: PreTrainedModel,
    encoder: Encoder,
    conversation: Conversation,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
) -> str:
    """The model's next turn, up to the template's stop string; greedy at temperature 0."""
    prompt = torch.tensor([encoder.prompt_ids(conversation)], device=model.device)
    tokenizer, stop = encoder.tokenizer, encoder.template.stop
    stop_id = tokenizer.get_vocab().get(stop)
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    output: torch.Tensor = model.generate(  # pyright: ignore[reportCallIssue]
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=stop_id if stop_id is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **({} if stop_id is not None else {"stop_strings": [stop], "tokenizer": tokenizer}),
        **sampling,
    )
    text = encoder.decode(output[0, prompt.shape[1] :].tolist())
    return text.split(stop)[0].removesuffix(tokenizer.eos_token).strip()
