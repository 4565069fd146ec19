"""The summary that is printed last."""

from typing import Any

from release.gpu.plan import PLAN
from release.gpu.stage import Settings


def test_the_summary_is_a_line_a_stage(rehearsal: tuple[dict[str, Any], Settings]) -> None:
    lines = rehearsal[0]["summary"]
    assert [line.split(": ")[0] for line in lines] == list(rehearsal[0]["stages"])
    assert len(PLAN) == 10
    assert "planted failure: failed" in lines[1]
    assert lines[1].endswith(": planted")
