"""Put an error's message on one line. It needs nothing but Python, so that every package can use it."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an error's message on one line, cut after `limit` characters, or its type where it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
