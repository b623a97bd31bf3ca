"""`fit(data=…)`: records in a list, or one line that says what was given instead."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.runs import COMMON
from vicuna_lit.config.compose import load
from vicuna_lit.records.conversation import Conversation
from vicuna_lit.records.readers import read
from vicuna_lit.run_folder import RunError
from vicuna_lit.train.extensions import with_data

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


class Frame:
    """Iterates over the names of its columns, as a table of pandas does."""

    columns = ("messages",)

    def __iter__(self):
        return iter(self.columns)


class Rows:
    """A set of `datasets`."""

    columns = column_names = ("messages",)

    def __iter__(self):
        return iter([{"messages": TURNS}])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("chats.jsonl", "a str is no list of conversations; a file is named in the config"),
        (Path("chats.jsonl"), "a file is named in the config: data.path"),
        ({"train": [], "test": []}, "one of its values: 'train', 'test'"),
        (Frame(), "a Frame is no list of conversations; its rows are: data=<it>.to_dict('records')"),
        (["Q", "A"], "record 1 is a str, neither a Conversation nor a dict: 'Q'"),
        ([{"messages": TURNS}, None], "record 2 is a NoneType"),
        ([{"messages": {1, 2}}], "cannot be kept as JSON: Type is not JSON serializable: set"),
        ([], "there is no conversation in it"),
    ],
)
def test_what_is_no_list_of_records_is_said(tmp_path, given, said):
    with pytest.raises(RunError) as error:
        with_data(load("train", *COMMON, f"run.dir={tmp_path / 'run'}"), given)
    assert said in str(error.value)


def test_records_come_in_any_form_that_can_be_iterated(tmp_path):
    config = load("train", *COMMON, f"run.dir={tmp_path / 'run'}")
    record = {"messages": TURNS}
    arrays = {"messages": np.array(TURNS, dtype=object), "id": np.int64(7)}  # a row of Parquet, by pandas
    for given in ([record], iter([record]), Rows(), [TURNS], [arrays], [Conversation.of("Q", "A")]):
        kept = Path(str(with_data(config, given).data.path)).read_text().splitlines()
        assert len(kept) == 1
        assert "Q" in kept[0]
    assert [one.id for one in read(str(with_data(config, [record]).data.path))] == ["fit(data=…):1"]
    toy = with_data(load("train", f"run.dir={tmp_path / 'toy'}"), [record]).data
    assert (toy.validation_path, toy.validation_fraction) == (None, 0.01)
    assert json.loads(Path(str(with_data(config, [arrays]).data.path)).read_text()) == record | {"id": 7}
