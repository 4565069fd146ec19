"""timm is optional for users, so it is for the tests; `make test` installs it."""

from importlib.util import find_spec

import pytest

NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def backbones(*names: str) -> list[object]:
    """Architectures for pytest.mark.parametrize; those of timm are skipped without it."""
    return [pytest.param(name, marks=NEEDS_TIMM if name.startswith("timm:") else ()) for name in names]
