"""The files that answers and reviews stand for; where one has changed, they are another evaluation's."""

from collections.abc import Iterable
from pathlib import Path

from vicuna_lit.config.evaluate import EvaluateConfig, FolderSource
from vicuna_lit.data.files import find_files
from vicuna_lit.evaluate.questions import BUNDLED
from vicuna_lit.file_hashes import Hashes, hashes_of, model_files
from vicuna_lit.paths import locate

REFERENCES = "reference_answer"


def files_read(config: EvaluateConfig, asked: Iterable[str]) -> Hashes:
    """The sha256 of questions, files of answers, models and a judge on this machine, as they are now.

    Args:
        asked: paths of the models that answer here; the other folders and files of `models` hold answers.

    Raises:
        DataError, MissingPath: a path leads nowhere.
    """
    judge, models = config.judge, set(asked)
    given = {source.path for source in config.models if isinstance(source, FolderSource)} - models
    files: dict[str, Path] = {}
    for path in (*sorted(given), config.questions or BUNDLED):
        place = locate(path)
        if place.is_file() and (place.parent / REFERENCES).is_dir():  # read_questions looks there
            beside = find_files(place.parent / REFERENCES)
            files |= {f"{REFERENCES}/{name} beside {path}": file for file, name in beside}
        files |= {path if place.is_file() else f"{path}/{name}": file for file, name in find_files(place)}
    for path in (*sorted(models), *([judge.path] if judge.kind == "local" else [])):
        files |= model_files(path)
    return hashes_of(files)
