"""Errors that a user of training/ can put right."""


class TrainingError(Exception):
    """Base of what a user can put right: a file, a data set, a device or an option.

    The message is one line that names what is wrong and the fix. Command lines print it after "error: " and end with
    `exit_status`; every other exception is a programming error and keeps its traceback.
    """

    exit_status = 2
