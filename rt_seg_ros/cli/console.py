"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console

UNBOUNDED = 1000  # columns, where nobody sees them


def unbounded_console() -> Console:
    """Return a console for standard output, as wide as it takes where that is no terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = UNBOUNDED
    return console
