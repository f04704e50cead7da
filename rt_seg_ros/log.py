"""Loggers of this package."""

from __future__ import annotations

import logging


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, whose records go on to those above it.

    Where ROS 2's ``launch`` was loaded before, loggers are of its own class, which keeps them to itself.
    """
    logger = logging.getLogger(name)
    logger.propagate = True
    return logger
