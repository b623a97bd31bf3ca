"""A damaged file of a run's folder is one line with its name, or is not needed."""

import json

import pytest

from vicuna_lit.run_folder import RunError, read_json
from vicuna_lit.train.result import result_in

DAMAGED = [b"", b"\x00\xff\x13", b"[]", b"null", b'{"status": "fin', b"[" * 100_000]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_named(damaged, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes(damaged)
    with pytest.raises(RunError, match=r"config\.json: is damaged \(.*; bring it back from a copy") as caught:
        read_json(tmp_path, "config.json")
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "result.json").write_bytes(damaged)
    assert result_in(tmp_path) is None
    assert capsys.readouterr().err == (
        f"note: {tmp_path}/result.json is damaged; the run goes on from its last checkpoint, or begins anew\n"
    )


@pytest.mark.parametrize("change", [{"x": 1}, {"val_by_step": {"a": 1}}, {"val_by_step": 3}])
def test_a_result_of_another_form_is_none(change, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    whole = {"status": "finished", "run_dir": "a", "val_by_step": {"3": 1.5}}
    (tmp_path / "result.json").write_text(json.dumps(whole))
    found = result_in(tmp_path)
    assert found is not None and found.val_by_step == {3: 1.5}
    (tmp_path / "result.json").write_text(json.dumps(whole | change))
    assert result_in(tmp_path) is None
    assert "result.json is damaged" in capsys.readouterr().err
