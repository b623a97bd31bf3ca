"""A claim counts where it was kept before the sweep; it stands beside what came out."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.compare.test_conclusions import BASE, sweep_of
from vicuna_lit.cli import compare as command
from vicuna_lit.compare.claims import claim_in_words, keep_claim, kept_claim
from vicuna_lit.compare.runs import read_sweep
from vicuna_lit.run_folder import RunError

JOBS = [{"optimizer.lr": lr, "seed": seed} for lr in ("5e-3", "1e-3", "2e-3", "3e-3", "4e-3") for seed in "01234"]
CLAIM = """metric: val_loss
margin: 0.01
settings: {lr=1e-3: better, optimizer.lr=2e-3: better, 3e-3: equal}
"""


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    (tmp_path / "claim.yaml").write_text(CLAIM)
    return tmp_path / "claim.yaml"


@pytest.mark.promise("What is claimed before a sweep is kept with its date, and stands beside what came out")
def test_a_claim_stands_beside_what_came_out(claim, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "s"
    keep_claim(claim, folder, JOBS)
    kept = kept_claim(folder)
    assert kept and (kept.claim.margin, len(kept.sha256)) == (0.01, 64)
    better, equal = [0.9, 1.01, 1.1, 1.19, 1.31], [1.001, 1.0995, 1.2, 1.3005, 1.3995]
    losses: dict[str, Sequence[float | None]] = {
        "5e-3": BASE,
        "1e-3": better,
        "2e-3": [2.0, 2.1, 2.2, 2.3, 2.45],
        "3e-3": equal,
    }
    sweep = sweep_of(folder, losses | {"4e-3": [1.3, 0.9, 1.2, 1.5, 1.2]})
    keep_claim(claim, folder, JOBS)  # the same command again
    said = claim_in_words(sweep)
    assert said[0].startswith(f"Claimed before the sweep, {kept.date} (claim.yaml, sha256 {kept.sha256[:12]})")
    assert said[1:] == [
        "  lr=1e-3 is better than lr=5e-3: it came out so.",
        "  optimizer.lr=2e-3 is better than lr=5e-3: it came out worse.",
        "  3e-3 is equal to lr=5e-3 within 0.01: it came out so.",
        "  not claimed before: lr=4e-3.",
    ]
    monkeypatch.setattr("sys.argv", ["vicuna-compare", str(folder)])
    command.main()
    out = capsys.readouterr().out
    assert "equal to lr=5e-3 within 0.01: validation loss" in out  # the claim's margin counts where none is given
    assert said[2] in out and said[2].strip() in (folder / "compare.html").read_text()
    early = {"status": "stopped", "steps": 2, "planned": 9, "val_loss": 2.0}
    for lr, found in {"2e-3": early, "3e-3": {"status": "failed"}, "5e-3": early}.items():
        for run in sweep.runs:
            if run.swept["optimizer.lr"] == lr:
                (run.folder / "result.json").write_text(json.dumps(found))
        said = claim_in_words(read_sweep(folder))
    assert said[1:4] == [
        "  lr=1e-3 is better than the baseline: the baseline was stopped early, after step 2.",
        "  optimizer.lr=2e-3 is better than the baseline: it was stopped early, after step 2.",
        "  3e-3 is equal to the baseline within 0.01: it has no finished run.",
    ]
    (folder / "claim.yaml").write_text(CLAIM.replace("better", "worse"))
    with pytest.raises(RunError, match="is not what was kept before the sweep"):
        kept_claim(folder)
    (folder / "claim.json").unlink()
    assert claim_in_words(sweep) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "wants keys: metric, settings, baseline, margin"),
        ("metric: [", "is no YAML"),
        ("metric: loss\nsettings: {1e-3: good}\nsurprise: 1", "metric: Input should be 'val_loss'; settings.*surprise"),
        ("metric: val_loss\nsettings: {}", "settings: Dictionary should have at least 1 item"),
        ("metric: val_loss\nsettings: {1e-3: equal}", "equal within which margin"),
        ("metric: val_loss\nmargin: -1\nsettings: {1e-3: equal}", "margin: Input should be greater than 0"),
        (
            "metric: val_loss\nsettings: {7e-3: better}",
            "7e-3: none of the sweep's settings; there are: lr=5e-3",
        ),
        ("metric: val_loss\nsettings: {5e-3: better}", "the baseline itself .lr=5e-3, the first"),
        ("metric: val_loss\nsettings: {1e-3: better, lr=1e-3: worse}", "twice"),
    ],
)
def test_a_claim_without_sense_is_refused_in_one_line(text: str, problem: str, claim, tmp_path):
    claim.write_text(text)
    with pytest.raises(RunError, match=problem) as refused:
        keep_claim(claim, tmp_path / "s", JOBS)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "s").exists()


def test_a_claim_comes_before_the_runs_and_stays(claim, tmp_path):
    folder = tmp_path / "s"
    with pytest.raises(RunError, match="No such file"):
        keep_claim(tmp_path / "none.yaml", folder, JOBS)
    with pytest.raises(RunError, match="the sweep has one setting"):
        keep_claim(claim, folder, JOBS[:5])
    keep_claim(claim, folder, JOBS, writes=False)
    assert not folder.exists()
    sweep_of(folder, {"5e-3": BASE})
    with pytest.raises(RunError, match="holds runs already"):
        keep_claim(claim, folder, JOBS)
    keep_claim(claim, tmp_path / "new", JOBS[:10], whole=False)
    claim.write_text(CLAIM.replace("0.01", "0.1"))
    date = json.loads((tmp_path / "new" / "claim.json").read_text())["date"]
    with pytest.raises(RunError, match=f"keeps another one of {date[:10]}"):
        keep_claim(claim, tmp_path / "new", JOBS)
