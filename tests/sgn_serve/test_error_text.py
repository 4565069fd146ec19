"""An error's message becomes one line, and an error without a message says what it is."""

from sgn_serve.error_text import first_line, one_line


def test_first_line():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_one_line():
    assert one_line(ValueError("one\n  two")) == "one two"
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert len(one_line(ValueError("x" * 1000), limit=20)) == 20
    assert one_line(ValueError()) == "ValueError"
