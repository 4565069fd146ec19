"""Logs as JSON lines, of the supervisor and of its workers alike."""

import logging
import warnings

from pythonjsonlogger.json import JsonFormatter

_LOGGERS = ("", "bentoml", "uvicorn.error", "circus")


def log_json_lines() -> None:
    """From now on, in this process, everything that is logged is one JSON object a line."""
    formatter = JsonFormatter(
        ["levelname", "name", "message"], timestamp="time", rename_fields={"levelname": "level", "name": "logger"}
    )
    for handler in {handler for name in _LOGGERS for handler in logging.getLogger(name).handlers}:
        handler.setFormatter(formatter)
        handler.filters.clear()  # BentoML's adds fields for its own format, a request_id that is none among them
    ignore_pillow()


def ignore_pillow() -> None:
    """Drops Pillow's warnings of odd pictures: they are no JSON, and Python keeps each that is worded anew.

    What makes a picture unreadable is an exception, and is answered.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
