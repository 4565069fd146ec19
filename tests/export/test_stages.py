"""The lines that tell how far an export is."""

import pytest

from export.stages import begin, told_on_stderr


def test_each_stage_is_a_line_with_the_seconds_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([100.0, 100.04, 163.26])
    with told_on_stderr(lambda: next(seconds)):
        begin("capture the passes")
        begin("done")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "    0.0 s: capture the passes\n   63.3 s: done\n")


def test_a_program_that_exports_by_itself_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    begin("capture the passes")
    with pytest.raises(KeyboardInterrupt), told_on_stderr():
        raise KeyboardInterrupt
    begin("rewrite the graph")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
