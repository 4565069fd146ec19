"""A task of a cluster whose answers are large. Its module imports nothing, so that its worker starts fast."""


def large_answer(number: int) -> bytes:
    """Return thirty million bytes that a number stands for."""
    return bytes([number]) * 30_000_000
