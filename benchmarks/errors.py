"""The error that a user of the benchmarks can put right."""


class BenchmarkError(Exception):
    """A benchmark cannot be run as asked. The message, one line, says why and names the fix."""

    exit_status = 2
