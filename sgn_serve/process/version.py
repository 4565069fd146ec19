"""Which version of this project is running."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Of the installed package; a Bento carries the code without it."""
    try:
        return version("self-gradient-networks")
    except PackageNotFoundError:
        return "unknown"
