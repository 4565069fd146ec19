"""Run the tests that are marked gpu, and count their outcomes."""

import importlib.util
import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

from release.gpu.stage import Run, Skip, main
from release.gpu.supervise import supervise

FOLDERS = (
    "tests/export/kernels",
    "tests/training/derivatives/test_double_backward.py",
    "tests/training/test_on_each_device.py",
    "tests/training/loop/test_one_step_methods.py",
    "tests/benchmarks/gpu/test_command.py",
    "tests/export/formats/test_aot.py",
)
"""Every place of a test marked gpu. Quick tests come first, because the tests done when the time is up still count."""
REHEARSED = ("tests/benchmarks/gpu/test_command.py",)
"""Tests of a rehearsal. Without a GPU they are collected and skipped."""
END_SECONDS = 5.0
"""Seconds kept for pytest to write its report after the interrupt."""


def test(run: Run) -> None:
    """Run pytest, interrupt it when the time is up, and record the tests by outcome.

    Raises:
        Skip: pytest is not installed.
        RuntimeError: pytest wrote no report.
    """
    if importlib.util.find_spec("pytest") is None:
        raise Skip("pytest is not installed")
    report = run.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", f"--junitxml={report}"]
    # Another PyTorch than the tested one may warn; a warning does not show that a kernel is wrong.
    command += ["-W", "default", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    outcome = supervise(
        [*command, *(REHEARSED if run.rehearse else FOLDERS)],
        run.seconds_left() - END_SECONDS,
        run.log,
        first_signal=signal.SIGINT,
    )
    if not report.is_file():
        raise RuntimeError(f"pytest wrote no report: {outcome.reason}")
    figures = counts(report)
    counted = figures["counts"]
    says = ", ".join(f"{number} {name}" for name, number in counted.items()) or "no test was found"
    if figures["skipped_because"]:
        says += f" ({max(figures['skipped_because'], key=figures['skipped_because'].get)})"
    run.record(says + (", interrupted when the time was up" if outcome.overran else ""), **figures)


def counts(report: Path) -> dict[str, Any]:
    """Return the figures of a JUnit report.

    Returns:
        "counts": tests by outcome; "skipped_because": skipped tests by reason; "failures": messages by test, cut after
        500 characters.
    """
    cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    failures = {}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        kind, message = "passed", ""
        for tag, meaning in (("failure", "failed"), ("error", "errors"), ("skipped", "skipped")):
            found = case.find(tag)
            if found is not None:
                kind, message = meaning, (found.get("message") or "").strip()
                break
        outcomes[kind] += 1
        if kind == "skipped":
            reasons[message] += 1
        elif kind != "passed":
            failures[name] = message[:500]
    return {"counts": dict(outcomes), "skipped_because": dict(reasons), "failures": failures}


if __name__ == "__main__":
    sys.exit(main(test))
