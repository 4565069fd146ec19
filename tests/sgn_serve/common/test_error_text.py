"""An error's message becomes one line, and an error without a message says what it is."""

import ast
from pathlib import Path

import pytest

from sgn_serve.common.error_text import first_line, one_line, say, system_errors_as, visible


def test_first_line():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_one_line():
    assert one_line(ValueError("one\n  two")) == "one two"
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert len(one_line(ValueError("x" * 1000), limit=20)) == 20
    assert one_line(ValueError()) == "ValueError"


def test_what_controls_a_terminal_is_escaped():
    assert visible("a\x1b[2J\n\r\x9b\u202e\udcff") == r"a\x1b[2J\n\r\x9b\u202e\udcff"
    assert visible("Größe 大\u3000きさ\u202f5") == "Größe 大\u3000きさ\u202f5"


def test_a_line_for_people_is_one_line(capsys):
    say("error: a\x1b]0;b\n.png: no")
    assert capsys.readouterr().err == "error: a\\x1b]0;b\\n.png: no\n"


@pytest.mark.parametrize("package", ["sgn", "sgn_serve", "training", "export", "release", "benchmarks", "deploy"])
def test_every_line_for_people_goes_through_say(project_root: Path, package: str):
    """`print` would write control characters of a file's name to the terminal."""
    found = []
    for path in sorted((project_root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "print"):
                continue
            if any(ast.unparse(one.value) == "sys.stderr" for one in node.keywords):
                found.append(f"{path.relative_to(project_root)}: {ast.unparse(node.args[0])}")
    allowed = {
        "sgn_serve/common/error_text.py: visible(line)",
        # several lines, and none with names of the user's files
        "release/hostile/command.py: '\\nstopped; the same command goes on from here'",
        "release/hostile/command.py: '\\n'.join(lines) if lines else 'every bound holds'",
        "benchmarks/service/command.py: f'\\nMedian microseconds of a request\\n\\n{ledger_table(result)}'",
        "benchmarks/bento_size.py: _run([str(python), '-m', 'sgn_serve.check'], bento / 'src').strip()",
    }
    assert set(found) <= allowed


def test_what_the_system_refuses_is_an_error_of_the_command(tmp_path):
    @system_errors_as(LookupError, "make it first")
    def read(path):
        return path.read_text()

    with pytest.raises(LookupError) as raised:
        read(tmp_path / "nowhere")
    assert raised.value.args == (f"{tmp_path / 'nowhere'}: No such file or directory; make it first",)
    with (
        pytest.raises(LookupError, match=r"^no process; make it first$"),
        system_errors_as(LookupError, "make it first"),
    ):
        raise OSError("no process")
    with pytest.raises(ValueError, match="a programming error"), system_errors_as(LookupError, ""):
        raise ValueError("a programming error")
