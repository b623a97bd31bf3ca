"""Output in a notebook: text as in a log, and a line in place of a terminal's bar."""

from typing import Any

from rich.console import Console


def console(**options: Any) -> Console:
    """A rich console that writes plain text to a notebook's cell, and `:100:` as it stands.

    There rich makes a page element of every line, and takes the kernel, which asks for colours, for a terminal.
    """
    options = {"emoji": False} | options
    usual = Console(**options)
    return Console(**options, force_jupyter=False, force_terminal=False, no_color=True) if usual.is_jupyter else usual


class Line:
    """A line of a cell's output that is written over; the last text stays."""

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        """Shows a text in place of the one before."""
        from IPython.display import display

        said = {"text/plain": text}
        if self._handle is None:
            self._handle = display(said, raw=True, display_id=True)
        else:
            self._handle.update(said, raw=True)
