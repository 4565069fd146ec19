"""An error's message becomes one line, and an error without a message says what it is."""

import pytest

from sgn_serve.error_text import first_line, one_line, system_errors_as


def test_first_line():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_one_line():
    assert one_line(ValueError("one\n  two")) == "one two"
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert len(one_line(ValueError("x" * 1000), limit=20)) == 20
    assert one_line(ValueError()) == "ValueError"


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
