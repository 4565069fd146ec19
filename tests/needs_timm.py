"""timm is optional for users, so it is for the tests; `make test` installs it."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import pytest

NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def backbones(*names: str, parts: Mapping[str, str] | None = None, thorough: Sequence[str] = ()) -> list[object]:
    """Architectures for pytest.mark.parametrize; those of timm are skipped without it.

    Args:
        names: Their names.
        parts: Which part of a network a test takes, for its id, by name. Other networks are taken whole.
        thorough: Those of them that are left to `make test-thorough`.
    """
    return [
        pytest.param(
            name,
            marks=[
                *([NEEDS_TIMM] if name.startswith("timm:") else []),
                *([pytest.mark.thorough] if name in thorough else []),
            ],
            id=f"{name} of {parts[name]}" if parts and name in parts else name,
        )
        for name in names
    ]
