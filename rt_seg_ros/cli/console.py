"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console

UNBOUNDED = 1000  # columns, where nobody sees them


class TableConsole(Console):
    """A console for standard output, that tells by its error that nobody reads any more; rich would end the program."""

    def on_broken_pipe(self) -> None:
        """Raise what was raised."""
        raise


def unbounded_console() -> Console:
    """Return a console for standard output, as wide as it takes where that is no terminal."""
    console = TableConsole()
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console
