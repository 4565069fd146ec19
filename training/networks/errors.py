"""The error of a network that cannot be built."""

from training.common.errors import TrainingError


class ArchitectureError(TrainingError):
    """A network cannot be built as asked. The message says why, and which ones can."""
