"""Tell which version of this project is running."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the version of the installed package, "unknown" in a Bento, which carries the code without it."""
    try:
        return version("self-gradient-networks")
    except PackageNotFoundError:
        return "unknown"
