"""The console script: its help, its commands, and what it says of a mistake."""

import importlib
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


@pytest.mark.parametrize("name", COMMANDS)
def test_no_argument_of_any_command_may_be_empty(name, capsys):
    """An empty path would mean the current folder, and nobody would say so."""
    parser = importlib.import_module(COMMANDS[name].module).build_parser()
    checked = 0
    for action in parser._actions:
        if action.nargs == 0 or action.dest == "help":
            continue
        flag = action.option_strings[:1]
        with pytest.raises(SystemExit):
            parser.parse_args([*flag, ""])
        error = capsys.readouterr().err.splitlines()[0]
        assert error.startswith("error: argument ")
        assert ": empty; " in error
        checked += 1
    assert checked > 2


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ["--data-root=x", "--init-from"]),
        ("train", ["--data-root=x", "--pretrained"]),
        ("train", ["--data-root"]),
        ("judge", ["--data-root=x", "--ckpt"]),
        ("judge", ["--data-root=x", "--module"]),
        ("convert", ["--classes=a,b", "--out=y", "--weights"]),
        ("export", ["--onnx", "--ckpt"]),
        ("report", ["--truth"]),
    ],
)
def test_a_path_that_cannot_be_is_one_line(name, arguments, capsys):
    with pytest.raises(SystemExit):
        main([name, *arguments, "n" * 300])
    assert "is no path here (File name too long); name another" in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("export", ["--ckpt=x", "--onnx"]),
        ("export", ["--ckpt=x", "--openvino"]),
        ("export", ["--ckpt=x", "--torchscript"]),
        ("export", ["--ckpt=x", "--aot"]),
        ("convert", ["--weights=x", "--classes=a,b", "--out"]),
        ("classify", ["x", "--out"]),
    ],
)
def test_a_folder_is_no_file_to_write(name, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in (".", "..", "new/", str(tmp_path)):
        with pytest.raises(SystemExit):
            main([name, *arguments, folder])
        error, _ = capsys.readouterr().err.splitlines()
        assert error == f"error: argument {arguments[-1]}: {folder!r} is a folder; name a file in it"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["report", "x.csv", "--truth=y.csv"], ["reproduce", "table2"]])
def test_a_file_is_no_folder_to_write(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main([*arguments, "--out=file"])
    assert capsys.readouterr().err.splitlines()[0] == "error: argument --out: 'file' is a file; name a folder"


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


BROKEN = {
    "train": ("training.command", ["--data-root=data", "--device=cpu"], "training.train.load_pictures"),
    "convert": (
        "training.convert.command",
        ["--weights=file", "--classes=a,b", "--out=out.safetensors"],
        "training.convert.convert.convert",
    ),
    "judge": ("training.evaluate.command", ["--ckpt=file", "--data-root=data"], "training.evaluate.evaluate.prepare"),
    "export": ("export.command", ["--ckpt=file", "--onnx=out.onnx"], "export.export.Companions"),
    "classify": ("sgn_serve.classify.command", ["data", "--out=out.csv"], "sgn_serve.classify.run.classify"),
    "report": (
        "sgn_serve.classify.report.command",
        ["file", "--truth=file", "--out=report"],
        "sgn_serve.classify.report.write.write_report",
    ),
    "serve": ("sgn_serve.command", [], "sgn_serve.command.Settings.from_environment"),
    "reproduce": (
        "training.reproduce.command",
        ["table2", "--data-root=data"],
        "training.reproduce.reproduce.reproduce",
    ),
    "defend": (
        "training.defend",
        ["--ckpt=file", "--defence=energy-step", "--out=out.safetensors"],
        "training.defend.load_checkpoint",
    ),
}
"""A module with a main function, arguments that pass its checks, and what then fails, by the command."""


@pytest.mark.parametrize("name", BROKEN)
def test_a_programming_error_keeps_its_traceback(name, tmp_path, monkeypatch):
    """Mistakes that a user can put right, and no others, become one line."""

    def broken(*_, **__):
        raise ValueError("a mistake of ours")

    module, arguments, function = BROKEN[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
    monkeypatch.setattr(function, broken)
    with pytest.raises(ValueError, match="a mistake of ours"):
        importlib.import_module(module).main(arguments)


def test_every_command_is_broken_once():
    assert set(BROKEN) == {*COMMANDS, "defend"}
    assert all(BROKEN[name][0] == command.module for name, command in COMMANDS.items())
