"""The console script: its help, its commands, and what it says of a mistake."""

import shlex

import pytest

from sgn.command import COMMANDS, HELP, main
from sgn_serve.command import build_parser as serve_parser
from training.evaluate.command import build_parser as judge_parser
from training.options import build_parser as train_parser


def test_help_fits_a_screen_and_shows_the_way_from_a_folder_to_curl(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == HELP
    assert len(HELP.splitlines()) <= 24
    assert max(map(len, HELP.splitlines())) <= 88
    shown = [line.split()[:2] for line in HELP.splitlines() if line.startswith("  sgn ")]
    assert [command for _, command in shown] == ["train", "judge", "export", "serve"]
    assert HELP.index("sgn serve") < HELP.index("curl -F image=@")
    assert all(f"  {name} " in HELP for name in COMMANDS)


def test_the_commands_of_the_help_are_parsed():
    parsers = {"train": train_parser, "judge": judge_parser, "serve": serve_parser}
    for line in HELP.splitlines():
        if line.startswith("  sgn "):
            _, name, *options = shlex.split(line)
            if name in parsers:
                parsers[name]().parse_args(options)


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out == HELP


def test_help_may_be_asked_for_as_a_command(capsys):
    assert main(["help"]) == 0
    assert capsys.readouterr().out == HELP


def test_errors_call_the_program_as_it_was_called(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([name, "--no-such-option"])
        assert ended.value.code == 2
        error, usage = capsys.readouterr().err.splitlines()
        assert error.startswith("error: unknown option --no-such-option")
        assert usage.startswith(f"usage: sgn {name} ")
        assert usage.endswith(f"; all options: sgn {name} --help")
