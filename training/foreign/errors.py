"""The error that a user of other programs' weights can put right."""

from collections.abc import Sequence

from training.common.errors import TrainingError


class WeightsError(TrainingError):
    """Weights of another program that cannot be used. The message, one line, names the file and the fix.

    Attributes:
        details: Lines to print before the message, such as one for each tensor that does not fit.
    """

    def __init__(self, message: str, details: Sequence[str] = ()):
        """Make an error with the lines that say more."""
        super().__init__(message)
        self.details = tuple(details)
