"""The parser of all command lines: the error first, the nearest name, one line of usage."""

from pathlib import Path

import pytest

from export import command as export
from sgn_serve.common.command_parser import CommandParser, did_you_mean, file_to_write, folder_to_write, path_text
from training.convert import command as convert
from training.evaluate import command as evaluate


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser("program")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--method", choices=("standard", "trades"))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("names", nargs="*", help="names")
    return parser


def refusal(parser: CommandParser, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    error, usage = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: program --weights FILE ")
    assert usage.endswith("[options]; all options: program --help")
    return error


def test_a_misspelled_option_is_told_before_what_is_missing(parser, capsys):
    assert refusal(parser, capsys, "--wieghts", "x") == "error: unknown option --wieghts; did you mean --weights?"
    assert refusal(parser, capsys, "--batchsize=3") == "error: unknown option --batchsize; did you mean --batch-size?"
    assert refusal(parser, capsys, "--zzz") == "error: unknown option --zzz"


def test_a_misspelled_choice_is_told_with_all_choices(parser, capsys):
    error = refusal(parser, capsys, "--weights=x", "--method=trade")
    assert error == "error: argument --method: unknown value 'trade'; did you mean trades? known are: standard, trades"


def test_what_is_no_number_is_told_as_such(parser, capsys):
    parser.add_argument("--rate", type=float)
    error = refusal(parser, capsys, "--weights=x", "--batch-size=1.5")
    assert error == "error: argument --batch-size: expected a whole number, not '1.5'"
    assert refusal(parser, capsys, "--weights=x", "--rate=fast").endswith("expected a number, not 'fast'")
    assert len(refusal(parser, capsys, "--weights=x", f"--batch-size={'9' * 10_000}")) < 150


def test_what_is_missing_is_named(parser, capsys):
    assert refusal(parser, capsys, "--method", "trades").startswith("error: the following arguments are required: --w")


def test_help_shows_what_is_required(capsys):
    parser = CommandParser("program")
    parser.add_argument("--weights", required=True)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert capsys.readouterr().out.startswith("usage: program [-h] --weights WEIGHTS\n")


def test_a_path_without_its_option_is_told_with_the_first_that_is_left(capsys):
    parser = CommandParser("program")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--out", type=file_to_write, required=True)
    assert refusal(parser, capsys, "x.pt") == "error: 'x.pt' is no option"
    parser.add_argument("--graph", type=path_text)
    parser.add_argument("--data", type=Path, required=True)
    assert refusal(parser, capsys, "x.pt") == "error: 'x.pt' is no option; write --graph x.pt"
    assert refusal(parser, capsys, "--graph", "a", "my x.pt") == "error: 'my x.pt' is no option; write --data 'my x.pt'"
    assert refusal(parser, capsys, "--graph=a", "--data=b", "x.pt") == "error: 'x.pt' is no option"
    assert refusal(parser, capsys, "word") == "error: 'word' is no option"
    parser.add_argument("--count", type=int)
    assert refusal(parser, capsys, "--count=x").startswith("error: argument --count: expected a whole number")
    with pytest.raises(SystemExit):
        parser.parse_args(["--graph", "a"])
    assert "the following arguments are required: --weights, --out, --data" in capsys.readouterr().err
    assert parser.parse_args(["--weights=a", "--out=b", "--data=c"]).data == Path("c")


@pytest.mark.parametrize(
    ("build", "word", "option"),
    [
        (evaluate.build_parser, "model.safetensors", "--ckpt"),
        (convert.build_parser, "weights.pt", "--weights"),
        (export.build_parser, "model.safetensors", "--ckpt"),
    ],
)
def test_the_option_that_is_meant_stands_first_in_every_command(build, word, option, capsys):
    with pytest.raises(SystemExit):
        build("program").parse_args([word])
    assert capsys.readouterr().err.startswith(f"error: {word!r} is no option; write {option} {word}\n")


def test_what_argparse_reads_is_still_read(parser):
    parsed = parser.parse_args(["--wei", "x", "--batch-size=-3", "--", "--zzz"])
    assert (parsed.weights, parsed.batch_size, parsed.names) == ("x", -3, ["--zzz"])


def test_nothing_may_be_empty(parser, capsys):
    parser.add_argument("--run", type=Path)
    assert refusal(parser, capsys, "--weights", "") == "error: argument --weights: empty; give it a value"
    assert refusal(parser, capsys, "--weights=x", "--method=") == (
        "error: argument --method: empty; give it a value, or leave it out"
    )
    assert refusal(parser, capsys, "--weights=x", "--run", " ") == (
        "error: argument --run: empty; name a file or a folder, or leave it out"
    )
    assert refusal(parser, capsys, "--weights=x", "a", "") == "error: argument names: empty; give it a value"


@pytest.mark.parametrize("kind", [Path, file_to_write, folder_to_write, path_text])
@pytest.mark.parametrize(("text", "fault"), [("n" * 300, "name too long"), ("a/\0b", "null byte"), ("self/x", "links")])
def test_a_path_that_the_system_does_not_take_is_refused(kind, text, fault, parser, capsys, tmp_path):
    (tmp_path / "self").symlink_to("self")
    parser.add_argument("--some", type=kind, nargs="+")
    error = refusal(parser, capsys, "--weights=x", "--some", "a", str(tmp_path / text))
    assert error.startswith("error: argument --some: '/")
    assert error.endswith("); name another")
    assert " is no path here (" in error
    assert fault in error
    assert len(error) < 200


def test_files_and_folders_to_write(parser, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("file").touch()
    parser.add_argument("--out", type=file_to_write)
    parser.add_argument("--folder", type=folder_to_write)
    for text in (".", "..", "/", "there", "new/", "there/.."):
        error = refusal(parser, capsys, "--weights=x", "--out", text)
        assert error == f"error: argument --out: {text!r} is a folder; name a file in it"
    error = refusal(parser, capsys, "--weights=x", "--folder=file")
    assert error == "error: argument --folder: 'file' is a file; name a folder"
    parsed = parser.parse_args(["--weights=x", "--out=new/file.txt", "--folder=."])
    assert (parsed.out, parsed.folder) == (Path("new/file.txt"), Path())
    assert parser.parse_args(["--weights=x", "--out", "file"]).out == Path("file")


def test_a_name_leaves_room_for_unfinished_files(parser, capsys, tmp_path):
    parser.add_argument("--out", type=file_to_write)
    assert parser.parse_args(["--weights=x", f"--out={tmp_path / ('n' * 231)}"])
    error = refusal(parser, capsys, "--weights=x", f"--out={tmp_path / ('n' * 232)}")
    assert " leaves no room for unfinished files beside it, " in error
    assert error.endswith(" (File name too long); give a shorter name")


def test_suggestions_ignore_case_and_leave_out_what_is_not_similar():
    assert did_you_mean("PGD-20", ["pgd-20", "fgsm"]) == "did you mean pgd-20? "
    assert did_you_mean("pdg", ["fgsm", "pgd-20", "pgd-100"]) == "did you mean pgd-20? "
    assert did_you_mean("vgg", ["pgd-20", "fgsm"]) == ""
