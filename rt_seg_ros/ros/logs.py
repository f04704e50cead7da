"""What the library below tells, in the logs of this process's nodes: once, in that of the node that it is about."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_library = logging.getLogger("rt_seg_ros")
_thread = threading.local()


class _Handler(logging.Handler):
    """Passes records on to the node that the thread works for; those of other threads to the node that came first."""

    def __init__(self) -> None:
        super().__init__()
        self.loggers: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record; one call for each level, as rclpy ties a level to the place of the call."""
        logger = getattr(_thread, "logger", None) or next(iter(self.loggers), None)
        if logger is None:  # the last node went while a thread spoke
            return
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            logger.error(text)
        elif record.levelno >= logging.WARNING:
            logger.warning(text)
        elif record.levelno >= logging.INFO:
            logger.info(text)
        else:
            logger.debug(text)


_handler = _Handler()
_changing = threading.Lock()


def add(logger: Any) -> None:
    """Have the library's records in a node's log from now on."""
    with _changing:
        _handler.loggers.append(logger)
        _library.addHandler(_handler)
        _library.setLevel(logging.INFO)


def remove(logger: Any) -> None:
    """Take back :func:`add`, where that was done."""
    with _changing:
        if logger in _handler.loggers:
            _handler.loggers.remove(logger)
        if not _handler.loggers:
            _library.removeHandler(_handler)


def work_for(logger: Any) -> None:
    """Say that this thread works for a node, from now on."""
    _thread.logger = logger


@contextmanager
def working_for(logger: Any) -> Iterator[None]:
    """Say that this thread works for a node meanwhile."""
    former = getattr(_thread, "logger", None)
    _thread.logger = logger
    try:
        yield
    finally:
        _thread.logger = former
