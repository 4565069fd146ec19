"""python -m export, as it is run: what it prints, what it returns, what it leaves behind."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import onnx
import pytest
import torch

import export.exporter
import export.formats.table
from export.check.verify import Verification
from export.command import main
from export.figures import judge_command
from sgn_serve.common.graph_format import file_sha256
from sgn_serve.inference.graph import read_graph
from sgn_serve.pictures.files import read_rgb
from sgn_serve.serving.examples import read_examples
from sgn_serve.serving.model_card import model_card
from sgn_serve.settings import Settings
from tests.export.conftest import Exported, Printed
from tests.export.evaluations import report_of
from tests.export.networks import checkpoint_info, randomise
from tests.export.processes import start_export
from tests.export.stage_lines import lines_but_stages, stages
from training.checkpoint import build_model, save_checkpoint
from training.evaluate.command import build_parser


def export_command(project_root: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export", *map(str, arguments)],
        cwd=project_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_writes_a_checked_graph_beside_the_checkpoint(project_root: Path, checkpoint: Path, tmp_path: Path) -> None:
    own = Path(shutil.copy(checkpoint, tmp_path / "model.safetensors"))
    result = export_command(project_root, "--ckpt", own, "--onnx")

    assert result.returncode == 0, result.stderr
    assert lines_but_stages(result.stderr) == []
    seconds, names = zip(*stages(result.stderr), strict=True)
    assert list(names) == [
        "try the network in PyTorch",
        "capture the passes",
        "rewrite the graph",
        "write an ONNX graph",
        "compare it with PyTorch",
        "check the second pass on extreme self-gradients",
        "done",
    ]
    assert list(seconds) == sorted(seconds)
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:-2]] == [
        [batch, output] for batch in ("1", "4", "7") for output in ("logits", "plain_logits", "self_gradient")
    ]
    assert lines[-2].startswith(f"wrote {tmp_path / 'model.onnx'} (")
    assert lines[-1] == (
        "no figures go with it, for its checkpoint was not judged: python -m training.evaluate --ckpt "
        f"{own} --data-root DIR, then export it again"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.safetensors"]


def test_the_command_that_judges_weights_of_another_program_names_the_reader_of_their_pictures(tmp_path: Path) -> None:
    weights = tmp_path / "net.pt"
    torch.save({"fc.weight": torch.zeros(2, 2)}, weights)
    command = judge_command(weights).split()[3:]
    (tmp_path / "DIR").mkdir()
    arguments = build_parser().parse_args([word.replace("DIR", str(tmp_path / "DIR")) for word in command])
    assert (arguments.ckpt, arguments.dataset) == (weights, "image-folder")
    assert "--dataset" not in judge_command(tmp_path / "model.safetensors")


def one_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = lines_but_stages(capsys.readouterr().err)
    assert line.startswith("error: ")
    return line


def test_a_foreign_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "model.safetensors"
    foreign.write_bytes(b"something else altogether")
    assert main(["--ckpt", str(foreign), "--onnx"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: {foreign}: not a safetensors file")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.usefixtures("ready_made")
@pytest.mark.parametrize(
    ("value", "complaint", "status"),
    [(float("nan"), "its weights are not finite", 2), (3e38, "the network's own", 1)],
    ids=["weights", "logits"],
)
def test_a_network_that_answers_with_nan_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, complaint: str, status: int
) -> None:
    checkpoint, info = tmp_path / "model.safetensors", checkpoint_info()
    state = randomise(build_model(info)).state_dict()
    for name in ("norm.bias", "classifier.weight"):
        state[f"backbone.{name}"].fill_(value)
    save_checkpoint(checkpoint, state, info)
    assert main(["--ckpt", str(checkpoint), "--onnx"]) == status
    assert complaint in one_error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.usefixtures("ready_made")
def test_an_architecture_that_no_machine_can_build_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, info = tmp_path / "model.safetensors", checkpoint_info()
    save_checkpoint(checkpoint, build_model(info).state_dict(), replace(info, architecture="wrn-10-1000000"))
    assert main(["--ckpt", str(checkpoint), "--onnx"]) == 2
    assert "wrn-10-1000000 has 64000000 channels, and the file's tensors at most" in one_error_line(capsys)
    assert sorted(tmp_path.iterdir()) == [checkpoint]


def test_a_missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", str(tmp_path / "none" / "model.safetensors"), "--onnx"]) == 2
    assert "none/model.safetensors: no such file" in one_error_line(capsys)


def test_an_output_that_cannot_be_written(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "none" / "model.onnx")]) == 2
    assert "its folder does not exist" in one_error_line(capsys)
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path)])
    assert "is a folder; name a file in it" in capsys.readouterr().err
    assert main(["--ckpt", str(checkpoint), "--onnx", "/proc/model.onnx"]) == 2
    assert "/proc/model.onnx: cannot be written" in one_error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_is_not_replaced_by_its_graph(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copy(checkpoint, tmp_path / "model.safetensors"))
    (tmp_path / "link").symlink_to(own)
    for target in (own, tmp_path / "link"):
        assert main(["--ckpt", str(own), "--onnx", str(target)]) == 2
        assert f"{target}: is the checkpoint itself" in one_error_line(capsys)
    assert own.read_bytes() == checkpoint.read_bytes()


@pytest.mark.parametrize("option", ["--onnx", "--torchscript"])
def test_a_path_that_is_no_utf8(option, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / os.fsdecode(b"m\xff") / "model"
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", str(checkpoint), option, str(target)])
    assert "is not UTF-8; give a path that is" in capsys.readouterr().err.splitlines()[0]


def test_two_formats_with_one_path(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, same = tmp_path / "model", tmp_path / "." / "model"
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", str(checkpoint), "--onnx", str(target), "--torchscript", str(same)])
    assert f"--onnx and another format would both be written to {target}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch, captured_once: None, exported: Exported) -> None:
    """An exporter that writes a wrong gradient."""
    model = exported.model()
    index, last = next(item for item in enumerate(model.graph.node) if "self_gradient" in item[1].output)
    last.output[0] = "the_right_one"
    model.graph.node.insert(index + 1, onnx.helper.make_node("Neg", ["the_right_one"], ["self_gradient"]))
    monkeypatch.setattr(export.formats.table, "to_onnx", lambda *_: model)


@pytest.mark.usefixtures("ready_made")
def test_a_network_too_large_for_one_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 1000)
    assert main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "model.onnx")]) == 2
    assert "over 2 GiB, more than one ONNX file can hold" in one_error_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ready_made")
def test_pictures_of_ones_own(
    project_root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "model.onnx"), "--pictures"]
    assert main([*arguments, str(tmp_path / "none")]) == 2
    assert "no such folder; a folder of at least 28 pictures" in one_error_line(capsys)
    assert main([*arguments, str(project_root / "examples")]) == 0
    assert "28/28" in capsys.readouterr().out


def test_nothing_to_write(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", str(checkpoint)])
    assert "say what to write: --onnx, --openvino, --torchscript, --aot" in capsys.readouterr().err


@pytest.mark.usefixtures("captured_once")
def test_a_graph_that_onnx_runtime_refuses_is_one_line(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exported: Exported,
) -> None:
    model = exported.model()
    model.opset_import[0].version = 99
    monkeypatch.setattr(export.formats.table, "to_onnx", lambda *_: model)
    assert main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "model.onnx")]) == 1
    line = one_error_line(capsys)
    assert "ONNX Runtime cannot load the graph: " in line
    assert "official support for domain ai.onnx is till opset" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("spoilt")
def test_a_mismatch_leaves_no_file(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "model.onnx")]) == 1
    captured = capsys.readouterr()
    assert "MISMATCH" in captured.out
    assert "differ from PyTorch's" in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("spoilt")
def test_a_mismatch_keeps_the_older_file(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"an earlier good graph")
    assert main(["--ckpt", str(checkpoint), "--onnx", str(target)]) == 1
    assert target.read_bytes() == b"an earlier good graph"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.usefixtures("ready_made")
@pytest.mark.parametrize("file_format", ["--onnx", "--torchscript"])
def test_a_full_disk_is_one_line_and_leaves_no_file(
    file_format: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fill_the_disk(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # write() knows no file's name either

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    target = tmp_path / "model"
    assert main(["--ckpt", str(checkpoint), file_format, str(target)]) == 2
    assert one_error_line(capsys) == f"error: {target}: No space left on device; {target} was not written"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["export.exporter.rewrite", "export.export.Companions.write"])
@pytest.mark.usefixtures("ready_made")
def test_a_system_error_that_no_writing_caused_keeps_its_traceback(
    place: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, Mock(side_effect=FileNotFoundError("a mistake of ours")))
    with pytest.raises(FileNotFoundError, match="a mistake of ours"):
        main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "model.onnx")])


@pytest.mark.usefixtures("ready_made")
def test_an_interrupt_leaves_no_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> Verification:
        raise KeyboardInterrupt

    monkeypatch.setattr(export.exporter, "verify", interrupt)
    assert main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "model.onnx")]) == 130
    assert "interrupted" in one_error_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_kill_leaves_no_file(number: signal.Signals, checkpoint: Path, tmp_path: Path) -> None:
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("the signal is ignored here, as under nohup")
    target, told = tmp_path / "graph" / "model.onnx", tmp_path / "told"
    target.parent.mkdir()
    told.mkdir()
    process = start_export(["--ckpt", str(checkpoint), "--onnx", str(target)], told)
    deadline = time.monotonic() + 120
    while not list(target.parent.iterdir()):  # it has not begun to write yet
        assert time.monotonic() < deadline
        assert process.is_alive(), (told / "error.txt").read_text()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(timeout=120)
    assert process.exitcode == 130
    (line,) = lines_but_stages((told / "error.txt").read_text())
    assert line == f"error: interrupted; {target} was not written"
    assert not list(target.parent.iterdir())


def test_a_network_without_block_has_one_output(exported_plain: Printed) -> None:
    assert len(exported_plain.lines) == 2 + 3 + 2
    model = onnx.load(exported_plain.graph)
    assert [output.name for output in model.graph.output] == ["plain_logits"]
    assert {item.key for item in model.metadata_props} == {"self_gradient_network", "checkpoint_sha256"}


@pytest.mark.usefixtures("ready_made")
def test_figures_beside_the_checkpoint_go_with_the_graph(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copy(checkpoint, tmp_path / "model.safetensors"))
    graph, figures = tmp_path / "m.onnx", tmp_path / "m.json"
    report_of(file_sha256(own), graph_sha256="a" * 64).save(tmp_path / "evaluation.json")
    assert main(["--ckpt", str(own), "--onnx", str(graph)]) == 0
    told = capsys.readouterr()
    assert lines_but_stages(told.err) == []
    assert told.out.splitlines()[-1] == (
        f"wrote {figures} (figures of {tmp_path / 'evaluation.json'}, but for 1 measured on another exported graph)"
    )
    card = model_card(read_graph(graph), Settings(model_path=graph))
    assert card.measured is not None
    assert card.measured.lowest == {"block on": 0.5, "block off": 1.0}

    # A report of another checkpoint is no reason to write no graph, unless it was asked for.
    report_of("f" * 64).save(tmp_path / "evaluation.json")
    assert main(["--ckpt", str(own), "--onnx", str(graph)]) == 0
    (line,) = lines_but_stages(capsys.readouterr().err)
    assert line.startswith(
        f"warning: no figures go with the graph: {tmp_path / 'evaluation.json'}: is of another check"
    )
    figures.unlink()
    graph.unlink()
    assert main(["--ckpt", str(own), "--onnx", str(graph), "--evaluation", str(tmp_path)]) == 2
    assert "is of another checkpoint" in one_error_line(capsys)
    assert not graph.exists()


@pytest.mark.usefixtures("ready_made")
def test_figures_never_replace_another_file(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "evaluation.json"
    report_of(file_sha256(checkpoint)).save(report)
    before = report.read_bytes()
    command = ["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "evaluation.onnx"), "--evaluation", str(report)]
    assert main(command) == 2
    assert f"{report}: is no file of figures" in one_error_line(capsys)
    assert report.read_bytes() == before


@pytest.mark.usefixtures("ready_made")
def test_figures_of_an_older_graph_are_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "m.json"
    stale.write_text('{"format": "self-gradient-figures/1", "graph_sha256": "abc"}')
    assert main(["--ckpt", str(checkpoint), "--onnx", str(tmp_path / "m.onnx")]) == 0
    (line,) = lines_but_stages(capsys.readouterr().err)
    assert line.startswith(f"warning: {stale} has the figures of an older graph, which will not be shown")


def same_answers(exported: Exported, path: Path) -> bool:
    """Return whether the network answers a picture the same with its block and without."""
    pixels = read_rgb(path, exported.info.image_size, resize=exported.info.resize)
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    on, off = (exported.network(images, self_gradient=state).argmax(1).item() for state in (True, False))
    return bool(on == off)


@pytest.mark.usefixtures("ready_made")
def test_examples_go_with_the_graph(
    project_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], exported: Exported
) -> None:
    agreed = next(path for path in sorted((project_root / "examples").glob("*.png")) if same_answers(exported, path))
    for label in exported.info.class_names:
        (tmp_path / "data" / "test" / label).mkdir(parents=True)
        shutil.copy(agreed, tmp_path / "data" / "test" / label / "x.png")
    command = ["--ckpt", str(exported.checkpoint), "--onnx", str(tmp_path / "m.onnx"), "--examples", "2"]
    command += ["--data-root", str(tmp_path / "data"), "--dataset", "image-folder"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "only 1 pictures are classified rightly, so there are as many examples" in told.out
    assert f"wrote {tmp_path / 'm.examples.json'} (" in told.out
    given = read_examples(read_graph(tmp_path / "m.onnx"))
    assert (given.count, given.note) == (1, None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--onnx", "--examples", "3"], "name its folder with --data-root"),
        (["--onnx", "--data-root", "d"], "--data-root is for --examples and --auto-agreement; leave it out"),
        (["--onnx", "--dataset", "cifar10"], "--dataset is for --examples and --auto-agreement; leave it out"),
        (["--torchscript", "--examples", "3", "--data-root", "d"], "--onnx or --openvino"),
        (["--onnx", "--examples", "0", "--data-root", "d"], "0 is not a number of pictures from 1 to 20"),
        (["--onnx", "--examples", "21", "--data-root", "d"], "21 is not a number of pictures from 1 to 20"),
    ],
)
def test_options_of_examples_that_do_not_fit(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--ckpt", "x.safetensors", *options])
    assert told in capsys.readouterr().err
