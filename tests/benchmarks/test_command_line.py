"""The command lines of benchmarks/, release/ and deploy/ answer --help and mistakes as the main commands do."""

import ast
import errno
import importlib
import json
import os
from pathlib import Path

import pytest

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, thread_count, write_result
from benchmarks.errors import BenchmarkError
from sgn_serve.process import cores
from training.common.files import WriteError

PACKAGES = ("benchmarks", "release", "deploy")
STAGE = "release.gpu.stage"
"""Its parser reads what another program writes."""


def _called(file: Path) -> set[str]:
    calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return {ast.unparse(function) for function in calls}


def _modules(*functions: str) -> list[str]:
    """Return the modules that call one of these functions."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if {*functions} & _called(file)]


PROGRAMS = [name for name in _modules("command_parser", "CommandParser") if name != "benchmarks.command_line"]


def ended(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run a program's main in this process, and return the status with which its parser ends it."""
    monkeypatch.setattr("sys.argv", [module, *arguments])
    with pytest.raises(SystemExit) as status:
        importlib.import_module(module).main()
    return status.value.code


def test_every_program_has_the_shared_parser():
    assert len(PROGRAMS) >= 29
    assert _modules("argparse.ArgumentParser", "ArgumentParser") == [STAGE]


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_names_the_program_and_what_it_does(module, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert ended(module, ["--help"], monkeypatch) == 0
    usage, told = capsys.readouterr().out.split("\n\n")[:2]
    assert usage.split()[:4] == ["usage:", "python", "-m", module.removesuffix(".command")]
    assert told == (importlib.import_module(module).__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("module", PROGRAMS)
def test_mistakes_are_refused_as_by_the_main_commands(module, monkeypatch, capsys):
    def refusal(argument: str) -> str:
        assert ended(module, [argument], monkeypatch) == 2
        error, usage = capsys.readouterr().err.splitlines()
        assert usage.startswith(f"usage: python -m {module.removesuffix('.command')} ")
        assert usage.endswith(f"[options]; all options: python -m {module.removesuffix('.command')} --help")
        return error

    assert refusal("--no\x1b[2Jsuch") == r"error: unknown option --no\x1b[2Jsuch"
    assert refusal("--hlep").startswith("error: unknown option --hlep; did you mean --help")
    assert refusal("") in (
        "error: '' is no option",
        *(f"error: argument {name}: empty; give it a value" for name in ("families", "runtime")),
        "error: argument pictures: empty; name a file or a folder",
    )
    if "add_out" in _called(ROOT / f"{module.replace('.', '/')}.py"):
        assert refusal("--out=") == "error: argument --out: empty; name a file or a folder, or leave it out"
        assert refusal("--out=.").endswith("'.' is a folder; name a file in it")


def test_the_default_of_out_is_shown_from_the_repository(capsys):
    parser = command_parser("some.program", "Do something.\n\nIn some way.")
    add_out(parser, ROOT / "results" / "x.json")
    assert parser.parse_args([]).out == ROOT / "results" / "x.json"
    assert parser.format_help().startswith("usage: python -m some.program [-h] [--out OUT]\n\nDo something.\n\n")
    assert "JSON file (default: results/x.json)" in parser.format_help()


def test_more_threads_than_the_cores_can_use_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    parser = command_parser("some.program", None)
    parser.add_argument("--threads", type=thread_count)
    assert parser.parse_args(["--threads", "16"]).threads == 16
    for given, told in (
        ("17", "give 16 at most"),
        ("0", "give 1 or more"),
        ("all", "'all' is not a number of threads"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(["--threads", given])
        assert told in capsys.readouterr().err


def test_a_result_is_written_with_its_folder(tmp_path):
    write_result(tmp_path / "new" / "x.json", {"a": [1]})
    assert (tmp_path / "new" / "x.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'
    write_result(tmp_path / "x.json", {"a": 1}, indent=2)
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'


def test_a_link_and_a_device_stay_what_they_are(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "x.json")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name in ("link", "pipe"):
        write_result(tmp_path / name, {"a": 1})
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "x.json").read_text()) == json.loads(os.read(reader, 100)) == {"a": 1}
    os.close(reader)


def test_a_full_disk_is_told_on_one_line_and_leaves_the_result_of_before(tmp_path, monkeypatch, capsys):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_result(tmp_path / "x.json", {"a": 1})
    monkeypatch.setattr("os.fsync", full)

    @errors_told
    def main() -> int:
        write_result(tmp_path / "x.json", {"a": 2})
        return 0

    assert main() == WriteError.exit_status
    told = f"error: {tmp_path}/x.json: cannot be written (No space left on device); free some space on that disk\n"
    assert capsys.readouterr().err == told
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_what_a_user_can_put_right_ends_a_program_with_its_status(capsys):
    @errors_told
    def main(status: int) -> int:
        if status:
            raise BenchmarkError("put it\x07 right")
        return status

    assert (main(0), main(1)) == (0, BenchmarkError.exit_status)
    assert capsys.readouterr().err == "error: put it\\x07 right\n"
