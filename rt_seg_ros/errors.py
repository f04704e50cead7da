"""The error that is a person's to mend, errors in words, and the nearest to what a person may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something a user can put right: the message names what is wrong, the value, and the remedy.

    Command lines print the message alone (exit status 2); the node logs it in one line.
    """


class NoGraph(UserError):
    """A model's graph for other runtimes cannot be made here: one that takes none may serve."""


def in_words(error: Exception) -> str:
    """Return what an error says; of one that nobody foresaw its type as well."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def did_you_mean(word: str, known: Iterable[str], count: int = 1) -> str:
    """Return " (did you mean 'that'?)", to stand behind a word that is not among those known; "" where none is near.

    :param count: so many at most
    """
    names = list(known)
    begun = [name for name in names if word and name.lower().startswith(word.lower())]  # a family's: csrnet
    near = begun[:count] or get_close_matches(word.lower(), names, count)
    return f" (did you mean {' or '.join(repr(one) for one in near)}?)" if near else ""
