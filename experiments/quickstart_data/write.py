"""Writes the quickstart's conversations and tokenizer into `vicuna_lit/quickstart`; the same bytes every time.

    python experiments/quickstart_data/write.py

A conversation strings one to four scenes together. In every scene a later turn depends on an
earlier one, sometimes with another scene in between, and once it knows the user's name the assistant
uses it, so a model has to read the history to answer.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vicuna_lit.config.compose import load
from vicuna_lit.data.chat_template import TextTemplate
from vicuna_lit.records.conversation import Conversation, write_jsonl

FOLDER = Path(__file__).parents[2] / "vicuna_lit" / "quickstart"
TRAIN, VALIDATION = 640, 64
VOCABULARY = 1024
Exchange = tuple[str, str]
Scene = tuple[list[Exchange], list[Exchange]]
"""What is said first, and what may come after other scenes."""

NAMES = """
    Ada Ben Clara David Emma Felix Grace Hugo Iris Jonas Kira Leo Maria Nadia Oscar Paula Quinn Rosa Sam Tara Victor
    Wanda Yusuf Zoe
""".split()
PET_NAMES = "Milo Luna Coco Rex Bella Max Nala Toby Misty Bruno Daisy Rocky Lily Oreo Poppy Simba".split()
COLOURS = "blue green red yellow purple orange white black brown pink grey gold".split()
FOODS = "apples bread cheese tea rice soup plums eggs honey beans salt milk nuts pears corn cake".split()
WORDS = "river mountain window garden letter candle bridge forest island pencil".split()
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
PETS = {
    "cat": "sleeps a lot",
    "dog": "likes long walks",
    "parrot": "likes to talk",
    "rabbit": "eats carrots",
    "horse": "runs fast",
    "llama": "carries bags",
}
CITIES = """
    France:Paris Italy:Rome Spain:Madrid Germany:Berlin Japan:Tokyo Egypt:Cairo Peru:Lima Norway:Oslo
    Greece:Athens Austria:Vienna Poland:Warsaw Cuba:Havana Kenya:Nairobi Portugal:Lisbon Ireland:Dublin
    Canada:Ottawa
"""
CAPITALS = {country: city for country, _, city in (pair.partition(":") for pair in CITIES.split())}
WORD_PAIRS = "hot:cold big:small fast:slow high:low early:late full:empty light:dark old:new soft:hard wet:dry"
OPPOSITES = {one: other for one, _, other in (pair.partition(":") for pair in WORD_PAIRS.split())}

WHO = "I am Vicuna, a small language model trained with vicuna_lit."
MAKER = "I was trained from scratch by the vicuna_lit quickstart, in about a minute."
ABLE = "I can talk about names, colours, capitals, pets, food and small numbers."
NOT_HUMAN = "No, I am a language model. My name is Vicuna."


def identity(r: random.Random) -> Scene:
    who = r.choice(["Who are you?", "What are you?", "Who are you?", "Tell me who you are.", "What is your name?"])
    maker = r.choice(["Who made you?", "Who trained you?", "Where do you come from?"])
    able = r.choice(["What can you do?", "What can you talk about?", "How can you help me?"])
    human = r.choice(["Are you a human?", "Are you a person?", "Am I talking to a human?"])
    more = [(maker, MAKER), (able, ABLE), (human, NOT_HUMAN)]
    r.shuffle(more)
    return [(who, WHO), *more[: r.randint(1, 3)]], []


def name(r: random.Random) -> Scene:
    n = r.choice(NAMES)
    said = r.choice([f"My name is {n}.", f"I am {n}.", f"Hello, I am called {n}.", f"Hi! My name is {n}."])
    asked = r.choice(["What is my name?", "Do you remember my name?", "Who am I?", "What am I called?"])
    return [(said, f"Nice to meet you, {n}.")], [(asked, f"Your name is {n}.")]


def colour(r: random.Random) -> Scene:
    c = r.choice(COLOURS)
    said = r.choice([f"My favourite colour is {c}.", f"I like {c} most of all colours.", f"I painted my room {c}."])
    asked = r.choice(["Which colour did I mention?", "What colour did I say?", "Do you remember the colour?"])
    return [(said, f"{c.capitalize()} is a fine colour.")], [(asked, f"You said {c}.")]


def capital(r: random.Random) -> Scene:
    (a, x), (b, y) = r.sample(sorted(CAPITALS.items()), 2)
    first = r.choice(
        [f"What is the capital of {a}?", f"Tell me the capital of {a}.", f"Which city is the capital of {a}?"]
    )
    then = r.choice([f"And of {b}?", f"And the capital of {b}?", f"What about {b}?"])
    asked = r.choice(["Which country did I ask about first?", "What was the first country?"])
    answers = [(first, f"The capital of {a} is {x}."), (then, f"The capital of {b} is {y}.")]
    return answers, [(asked, f"You asked about {a} first.")]


def pet(r: random.Random) -> Scene:
    kind, n = r.choice(sorted(PETS)), r.choice(PET_NAMES)
    said = r.choice([f"I have a {kind} called {n}.", f"My {kind} is called {n}.", f"{n} is my {kind}."])
    called = (f"What is my {kind} called?", f"Your {kind} is called {n}.")
    animal = (f"What kind of animal is {n}?", f"{n} is a {kind}.")
    return [(said, f"{n} is a good name. A {kind} {PETS[kind]}.")], [r.choice([called, animal])]


def opposite(r: random.Random) -> Scene:
    (a, x), (b, y) = r.sample(sorted(OPPOSITES.items()), 2)
    first = (f"What is the opposite of {a}?", f"The opposite of {a} is {x}.")
    return [first, (f"And of {b}?", f"The opposite of {b} is {y}.")], []


def shopping(r: random.Random) -> Scene:
    a, b, c = r.sample(FOODS, 3)
    said = r.choice([f"I need {a}, {b} and {c}.", f"Please remember: {a}, {b}, {c}."])
    first = ("What was first on my list?", f"First came {a}.")
    last = ("What was last on my list?", f"Last came {c}.")
    whole = ("What was on my list?", f"Your list was {a}, {b} and {c}.")
    return [(said, f"I will remember {a}, {b} and {c}.")], [r.choice([first, last, whole])]


def counting(r: random.Random) -> Scene:
    start, length = r.randint(0, 7), r.randint(3, 5)
    run = NUMBERS[start : start + length]
    asked = f"Count from {run[0]} to {run[-1]}."
    return [(asked, ", ".join(run) + "."), ("And backwards?", ", ".join(reversed(run)) + ".")], []


def echo(r: random.Random) -> Scene:
    w = r.choice(WORDS)
    return [(f"Say the word {w}.", f"{w}."), (r.choice(["Say it twice.", "Now say it two times."]), f"{w} {w}.")], []


def thanks(r: random.Random) -> Scene:
    bye = ("Goodbye.", "Goodbye! It was nice to talk to you.")
    return [], [r.choice([("Thank you.", "You are welcome."), ("Thanks!", "You are welcome."), bye])]


SCENES: dict[Callable[[random.Random], Scene], int] = {
    name: 6, colour: 3, pet: 3, shopping: 2, capital: 2, echo: 2, opposite: 1, counting: 1
}  # fmt: skip
"""With how often each comes up."""


def use_the_name(exchanges: list[Exchange]) -> Iterator[Exchange]:
    """Once the user has said it, the replies end with it: "You said blue, Ada." """
    known = ""
    for said, reply in exchanges:
        about_itself = reply in (WHO, MAKER, ABLE, NOT_HUMAN)
        yield said, reply if about_itself or not known or known in reply else f"{reply[:-1]}, {known}."
        if reply.startswith("Nice to meet you, "):
            known = reply[18:-1]


def conversations(seed: int) -> Iterator[tuple[Exchange, ...]]:
    """Endless conversations, none twice."""
    r, seen = random.Random(seed), set()
    while True:
        drawn = dict.fromkeys(r.choices(list(SCENES), list(SCENES.values()), k=r.randint(1, 3)))
        scenes = [scene(r) for scene in drawn]
        if r.random() < 0.4:
            scenes.insert(r.randint(0, len(scenes)), identity(r))
        if r.random() < 0.2:
            scenes.append(thanks(r))
        exchanges = [e for early, _ in scenes for e in early] + [e for _, late in scenes for e in late]
        exchanges = tuple(use_the_name(exchanges))
        if exchanges not in seen:
            seen.add(exchanges)
            yield exchanges


def main() -> None:
    stream = conversations(seed=2023)
    everything = [
        Conversation.of(*(text for exchange in next(stream) for text in exchange), id=f"quickstart-{i:03d}")
        for i in range(TRAIN + VALIDATION)
    ]
    FOLDER.mkdir(exist_ok=True)
    write_jsonl(everything[:TRAIN], FOLDER / "conversations.jsonl")
    write_jsonl(everything[TRAIN:], FOLDER / "validation.jsonl")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken("<s>", special=True), AddedToken("</s>", special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    config = load("train").template
    assert config.kind == "text"
    template = TextTemplate(config, bos="", eos="")
    rendered = ("".join(s.text for s in template.render(c)) for c in everything[:TRAIN])
    tokenizer.train_from_iterator(rendered, trainer)
    shutil.rmtree(FOLDER / "tokenizer", ignore_errors=True)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(FOLDER / "tokenizer")


if __name__ == "__main__":
    main()
