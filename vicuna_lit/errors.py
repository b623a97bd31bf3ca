"""What is printed of an error, by every command alike."""

import sys

from vicuna_lit.config.base import ConfigError
from vicuna_lit.machine import BAD_INPUT, exit_code, is_disk_full, is_out_of_memory
from vicuna_lit.pages import visible


def say(error: Exception | str) -> int:
    """Prints a line for each problem that an error holds, on stderr.

    Returns:
        The exit code of a command that ends with it; of a text 2, bad input.
    """
    lines = error.problems if isinstance(error, ConfigError) else [str(error) or type(error).__name__]
    if isinstance(error, Exception) and is_out_of_memory(error):
        lines = [f"out of memory: {lines[0].splitlines()[0]}"]
    elif isinstance(error, Exception) and is_disk_full(error):
        lines = [*lines[:-1], f"{lines[-1]}; make room there, then give the same command again"]
    # A message may cite what a file or a server says.
    print("\n".join(f"error: {visible(line)}" for line in lines), file=sys.stderr)
    return exit_code(error) if isinstance(error, Exception) else BAD_INPUT
