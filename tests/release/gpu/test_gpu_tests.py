"""The stage that runs the tests that need a GPU."""

import ast
from pathlib import Path

from release.gpu import gpu_tests


def marked_gpu(file: Path) -> bool:
    """Whether a file uses pytest.mark.gpu, or has a test with the fixture `device`, one of whose values is marked."""
    tree = ast.parse(file.read_text())
    marks = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "gpu")
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    return any(ast.unparse(mark.value).split(".")[-1] == "mark" for mark in marks) or any(
        argument.arg == "device" for test in tests for argument in test.args.args
    )


def test_the_stage_tests_runs_every_test_that_is_marked_gpu(project_root: Path) -> None:
    marked = {
        file.relative_to(project_root) for file in (project_root / "tests").rglob("test_*.py") if marked_gpu(file)
    }
    for place in map(Path, {*gpu_tests.FOLDERS, *gpu_tests.REHEARSED}):
        assert (project_root / place).exists()
        assert any(file.is_relative_to(place) for file in marked), f"{place} has no test that is marked gpu"
    assert not [file for file in marked if not any(file.is_relative_to(place) for place in gpu_tests.FOLDERS)]


def test_a_junit_report_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite name="pytest">'
        '<testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><failure message="wrong">...</failure></testcase>'
        '<testcase classname="a" name="three"><skipped message="needs a GPU">...</skipped></testcase>'
        '<testcase classname="a" name="four"><skipped message="needs a GPU">...</skipped></testcase>'
        '<testcase classname="a" name="five"><error message="no module">...</error></testcase>'
        "</testsuite></testsuites>"
    )
    assert gpu_tests.counts(report) == {
        "counts": {"passed": 1, "failed": 1, "skipped": 2, "errors": 1},
        "skipped_because": {"needs a GPU": 2},
        "failures": {"a::two": "wrong", "a::five": "no module"},
    }
