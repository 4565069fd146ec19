"""Commands under a time limit."""

import sys
from pathlib import Path

from release.gpu.supervise import supervise


def test_the_tail_is_what_a_terminal_would_show(tmp_path: Path) -> None:
    printed = "print('1%\\r50%\\r100%'); print(); print('  end  '); raise SystemExit(3)"
    outcome = supervise([sys.executable, "-c", printed], 60, tmp_path / "log")
    assert (outcome.status, outcome.overran, outcome.tail) == (3, False, ("100%", "  end"))
    assert outcome.reason == "  end"
    assert (tmp_path / "log").read_text() == "100%\n\n  end\n"


def test_a_command_without_output_is_named_by_its_status(tmp_path: Path) -> None:
    assert supervise([sys.executable, "-c", "raise SystemExit(4)"], 60, tmp_path / "log").reason == (
        "no output, exit status 4"
    )
