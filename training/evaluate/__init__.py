"""Judge a checkpoint or any module: run attacks, measure diagnostics, and write the robustness report."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.evaluate.judging import judge

__all__ = ["judge"]


def __getattr__(name: str) -> Any:
    """Import `judge` once somebody asks for it: --help of the command line does without PyTorch."""
    if name == "judge":
        from training.evaluate.judging import judge

        return judge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
