"""Tell which version of this project is running."""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "self-gradient-networks"
"""Name of this project in pyproject.toml, where its version stands."""


def package_version() -> str:
    """Return the version of the installed package, "unknown" in a Bento, which carries the code without it."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
