"""Counts the names that a quickstart model recalls: `recall.py runs/quickstart/hf`."""

import sys

from write import NAMES

from vicuna_lit import Chat


def main(folder: str) -> None:
    opened = Chat.load(folder)
    right = []
    for name in NAMES:
        chat = Chat(opened.model, opened.encoder)
        chat.say(f"My name is {name}.")
        right.append(name in chat.say("What is my name?"))
    print(f"{sum(right)} of {len(right)} names recalled")


if __name__ == "__main__":
    main(sys.argv[1])
