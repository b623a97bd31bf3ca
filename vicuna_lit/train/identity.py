"""The files that decide a run besides its settings."""

from vicuna_lit.config.train import Computation
from vicuna_lit.data.source import Sources
from vicuna_lit.file_hashes import Hashes, hashes_of, model_files


def files_read(config: Computation) -> Hashes:
    """The sha256 of conversations, validation conversations, weights, tokenizer and template, as they are now.

    Raises:
        DataError, MissingPath: a path leads nowhere.
    """
    files = Sources(config).files_as_given
    for path in (config.model.path, config.model.tokenizer):
        files |= model_files(path) if path else {}
    return hashes_of(files)
