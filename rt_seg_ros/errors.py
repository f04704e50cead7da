"""The error that is a person's to mend."""

from __future__ import annotations


class UserError(Exception):
    """Something a user can put right: the message names what is wrong, the value, and the remedy.

    Command lines print the message alone (exit status 2); the node logs it in one line.
    """
