"""The console script: its help, its commands, and what it says of a mistake."""

import shlex

import pytest

from sgn.command import COMMANDS, HELP, main
from sgn_serve.command import SHOWN
from sgn_serve.command import build_parser as serve_parser
from sgn_serve.settings import flag_of, settings_table
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


def serve_help(monkeypatch, capsys, option: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        main(["serve", option])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_of_serve_shows_the_settings_that_matter_alone(monkeypatch, capsys):
    printed = serve_help(monkeypatch, capsys, "--help")
    flags = {row.variable: flag_of(row) for row in settings_table() if not row.secret}
    assert {variable for variable, flag in flags.items() if f"  {flag} VALUE" in printed} == set(SHOWN)
    assert {"SGN_MODEL", "SGN_SELF_GRADIENT", "SGN_ENGINE", "SGN_THREADS"} <= set(SHOWN)
    assert "SGN_MAX_BATCH" not in SHOWN
    assert "  --help-all " in printed
    assert len(printed.splitlines()) <= 50


def test_help_all_of_serve_shows_every_setting_but_the_secret(monkeypatch, capsys):
    printed = serve_help(monkeypatch, capsys, "--help-all")
    rows = settings_table()
    assert any(row.secret for row in rows)
    for row in rows:
        assert (f"  {flag_of(row)} VALUE" in printed) is not row.secret, row.variable
    assert "  --max-batch VALUE" in printed


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
