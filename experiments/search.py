"""A search with a current Optuna (3 or newer), its study on disk: the same command goes on where it stopped.

    python experiments/search.py runs/search --trials 20 data=mine.jsonl model=tiny

Optuna is asked for the learning rate and the warm-up here; change `suggest` for other keys. Each trial is a run in
`<folder>/<hash of its values>`; its figure is the validation loss. `hydra/sweeper=optuna` needs
Optuna 2 of 2022, so this one wants an environment without the extra `sweep`.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import optuna

import vicuna_lit as vl


def suggest(trial: Any) -> list[str]:
    """The overrides of a trial."""
    lr = trial.suggest_float("optimizer.lr", 1e-4, 1e-2, log=True)
    warmup = trial.suggest_float("optimizer.warmup_ratio", 0.0, 0.2)
    return [f"optimizer.lr={lr!r}", f"optimizer.warmup_ratio={warmup!r}"]


def search(folder: Path, trials: int, overrides: list[str]) -> optuna.Study:
    """Runs trials until there are so many that have finished.

    A trial that was interrupted is asked for again with its values, so its run is found in its folder and resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(folder / 'study.db').absolute()}",
        study_name="search",
        direction="minimize",
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:  # nobody runs it: one process searches in a folder
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
    done = {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # one seed always would ask the same again
    while sum(trial.state in done for trial in study.get_trials(deepcopy=False)) < trials:
        trial = study.ask()
        chosen = suggest(trial)
        place = folder / hashlib.sha256(" ".join(chosen).encode()).hexdigest()[:8]
        trial.set_user_attr("folder", str(place))
        result = vl.fit(vl.load("train", *overrides, *chosen, f"run.dir={place}"))
        if result.status == "preempted":
            raise SystemExit("stopped: the same command goes on")
        if result.val_loss is None:
            raise SystemExit("nothing is held out, so there is no validation loss to search by")
        study.tell(trial, result.val_loss)
    return study


def main() -> None:
    """Prints the best trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("overrides", nargs="*", help="of vicuna-train, the same for all trials")
    given = parser.parse_intermixed_args()
    study = search(given.folder, given.trials, given.overrides)
    print(f"the best of {given.trials}: {study.best_params}, validation loss {study.best_value:.4f}")


if __name__ == "__main__":
    main()
