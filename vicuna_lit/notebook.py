"""What a notebook shows in place of a terminal's bar."""

from typing import Any


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
