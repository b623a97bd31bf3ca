"""Models → answers: by a folder on this machine, by an endpoint, or as they stand in a file.

Answers are kept as they come, in `answers/<model>.jsonl` of the run folder; a later start asks for the rest.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicuna_lit.config.evaluate import AnswersConfig, EndpointSource, EvaluateConfig, FolderSource
from vicuna_lit.evaluate.answers import Answer, Answers, check_complete, complete, read_answers
from vicuna_lit.evaluate.questions import Question
from vicuna_lit.inference.backend import name_of, place_of_model
from vicuna_lit.inference.bodies import CUT
from vicuna_lit.inference.paid_client import Client, together
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.run_folder import RunError

Keep = Callable[[list[Answer]], None]


@dataclass(frozen=True)
class Model:
    """A model that is asked, and where its answers are kept."""

    name: str
    source: FolderSource | EndpointSource
    file: Path

    def answered(self) -> dict[str, Answer]:
        """What it has answered so far, by question.

        Raises:
            RunError: the file is another model's, or damaged.
        """
        rows: list[Any] = complete(self.file)
        try:
            if others := {row["model"] for row in rows} - {self.name}:
                raise RunError(f"{self.file}: holds answers of {', '.join(sorted(others))}, not of {self.name}")
            return {row["question_id"]: Answer(**row | {"turns": tuple(row["turns"])}) for row in rows}
        except (KeyError, TypeError) as error:
            said = "a line is no answer of this command; take it out, and the same command goes on"
            raise RunError(f"{self.file}: {said} ({error})") from None


def answers_file(folder: Path, name: str) -> Path:
    """Where a run keeps a model's answers; two names never share a file."""
    plain = re.sub(r"[^\w.-]", "_", name)[:100]
    if plain != name or name.startswith("."):
        plain = f"{plain.lstrip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
    return folder / "answers" / f"{plain}.jsonl"


def models_of(
    sources: Sequence[FolderSource | EndpointSource], questions: Sequence[Question] | None, folder: Path
) -> tuple[list[str], list[Model], Answers]:
    """Sorts the sources: the names of all in order, those that must be asked, and the answers that are there.

    Args:
        questions: which the answer files must hold; None: whatever they hold.

    Raises:
        RunError: two have the same name, or a path is no model and no file of answers.
        DataError: an answer file is broken, or lacks answers.
    """
    names: list[str] = []
    asked: list[Model] = []
    given: Answers = {}
    for source in sources:
        if isinstance(source, FolderSource) and _holds_answers(place := place_of_model(source)):
            found = read_answers(place, source.name)
            if questions is not None:
                check_complete(found, questions)
            given |= found
            names += found
            continue
        name = name_of(source)
        names.append(name)
        asked.append(Model(name, source, answers_file(folder, name)))
    folded = [name.casefold() for name in names]  # some file systems know no capitals
    if twice := [name for name in names if folded.count(name.casefold()) > 1]:
        raise RunError(
            f"models: two are called {twice[0]}; give each a name of its own, "
            "models=[{name: a, path: …},{name: b, path: …}]"
        )
    return names, asked, given


def _holds_answers(place: Path) -> bool:
    if place.is_file():
        return place.suffix in (".jsonl", ".json", ".gz")
    if (place / "config.json").exists():
        return False
    if any(place.glob("*.jsonl")):
        return True
    raise RunError(f"{place}: no model (config.json) and no answers (*.jsonl) are in this folder")


def by_folder(questions: Sequence[Question], model: Model, config: EvaluateConfig, keep: Keep) -> None:
    """Generates on this machine, a batch of questions at once, turn after turn.

    Batches are those of all questions, each with its own seed, so that a stop changes no sampled answer.
    """
    from vicuna_lit.inference.generate import common_dtype, load_noted

    assert isinstance(model.source, FolderSource)
    folders = [source for source in config.models if isinstance(source, FolderSource)]
    dtype = common_dtype([source.path for source in folders if not _holds_answers(place_of_model(source))])
    chat = load_noted(model.source.path, model.name, config.template, config.template_date, dtype)
    asked, done = config.answers, model.answered()
    for start in range(0, len(questions), asked.batch_size):
        batch = questions[start : start + asked.batch_size]
        if all(q.id in done for q in batch):
            continue
        said = _batch(chat, batch, asked, asked.seed + start)
        keep([_answer(model.name, q, said[q.id]) for q in batch if q.id not in done])


def _batch(chat: Any, batch: Sequence[Question], asked: AnswersConfig, seed: int) -> dict[str, list[tuple[str, bool]]]:
    """What the model says to each of some questions, turn after turn; the caller's random numbers stay."""
    import torch

    from vicuna_lit.inference.generate import replies

    talks = {q.id: Conversation.of() for q in batch}
    said: dict[str, list[tuple[str, bool]]] = {q.id: [] for q in batch}
    device = chat.model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for turn in range(max(len(q.turns) for q in batch)):
            now = [q for q in batch if turn < len(q.turns)]
            for q in now:
                talks[q.id] = talks[q.id].say("user", q.turns[turn])
            talking = [talks[q.id] for q in now]
            answered = replies(chat.model, chat.encoder, talking, asked.max_new_tokens, asked.temperature or 0.0)
            for q, out in zip(now, answered, strict=True):
                said[q.id].append(out)
                talks[q.id] = talks[q.id].say("assistant", out.text)
    return said


async def by_endpoint(
    questions: Sequence[Question], model: Model, config: AnswersConfig, client: Client, keep: Keep
) -> None:
    """Asks for all questions at once, as far as the client's limits allow; the turns of one follow each other."""

    async def one(question: Question) -> None:
        talk: list[dict[str, str]] = []
        said: list[tuple[str, bool]] = []
        for turn in question.turns:
            talk.append({"role": "user", "content": turn})
            seed = {"seed": config.seed} if config.temperature else {}
            reply = await client.ask(talk, config.max_new_tokens, config.temperature, **seed)
            said.append((reply.text, reply.finish == CUT))
            talk.append({"role": "assistant", "content": reply.text})
        keep([_answer(model.name, question, said)])

    await together(map(one, questions))


def _answer(model: str, question: Question, said: Sequence[tuple[str, bool]]) -> Answer:
    return Answer(model, question.id, tuple(text for text, _ in said), cut=sum(cut for _, cut in said))
