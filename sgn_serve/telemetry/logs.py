"""Write the logs of the supervisor and of its workers as JSON lines."""

import logging
import warnings

from pythonjsonlogger.json import JsonFormatter

_LOGGERS = ("", "bentoml", "uvicorn.error", "circus")


def log_json_lines() -> None:
    """Write each log record of this process as one line of JSON from now on."""
    formatter = JsonFormatter(
        ["levelname", "name", "message"], timestamp="time", rename_fields={"levelname": "level", "name": "logger"}
    )
    for handler in {handler for name in _LOGGERS for handler in logging.getLogger(name).handlers}:
        handler.setFormatter(formatter)
        handler.filters.clear()  # BentoML's filter adds fields of its own, among them a request_id that is not ours
    ignore_pillow()


def ignore_pillow() -> None:
    """Drop Pillow's warnings about odd pictures.

    They are not JSON, and Python keeps every warning with a new text in memory. Nothing is lost: a picture that cannot
    be read raises an exception, which is answered.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
