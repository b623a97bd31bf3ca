"""What a key may hold that names a file or a folder: the types of such keys."""

import errno
import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

EMPTY = "the name is empty (an unset variable?); . is the folder that you are in"


def _is_no_blank(path: str) -> str:
    if not path.strip():  # `Path` would take it for the current folder
        raise ValueError(EMPTY)
    return path


AnyPath = Annotated[str, AfterValidator(_is_no_blank)]
"""A path of any form: a file or folder, `package://name/file`, or a name on the Hub."""
FilePath = Annotated[AnyPath, AfterValidator(os.path.expanduser)]
"""A path of a file or folder that we write, or read ourselves; `~` is the user's home."""


def _can_be_a_folder(path: str) -> str:
    """What a folder's name can never be, whoever asks; whether it may be made is seen where it is."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            longest = max(len(os.fsencode(part)) for part in Path(path).parts)
            raise ValueError(f"a name of {longest:,} bytes is too long for a folder; 255 is the most") from None
        if error.errno == errno.ENOTDIR:
            file = next(str(above) for above in Path(path).parents if above.is_file())
            raise ValueError(f"{path}: cannot be a folder, for {file} is a file") from None
    except ValueError as error:
        raise ValueError(f"{path!r} is no path: {error}") from None
    return path


NewFolder = Annotated[FilePath, AfterValidator(_can_be_a_folder)]
"""A folder that may be there, or is to be made."""
