"""Errors that a user of training/ can put right."""


class TrainingError(Exception):
    """Base of what a user can put right: a file, a data set, a device or an option.

    The message is one line that names what is wrong and the fix. Command lines print it after "error: " and end with
    `exit_status`; every other exception is a programming error and keeps its traceback.
    """

    exit_status = 2


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """Return an error's whole message on one line, cut after 300 characters, or its type where it has no message."""
    return " ".join(str(error).split())[:300] or type(error).__name__
