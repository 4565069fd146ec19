"""Whole runs of sgn classify: every input is one row, with the server's answer or an error."""

import csv
import errno
import fcntl
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from release.kill_classify import make_inputs
from sgn_serve.classify import formats, inputs
from sgn_serve.classify import run as run_module
from sgn_serve.classify.chunks import ChunkClassifier
from sgn_serve.classify.command import SETTINGS, build_parser
from sgn_serve.classify.rows import COLUMNS
from sgn_serve.classify.unfinished import Manifest, PartsFolder
from sgn_serve.settings import Settings, settings_table
from tests.sgn_serve.bad_graphs import save_bad_graph
from tests.sgn_serve.classify.conftest import read_rows
from tests.sgn_serve.sample_pictures import encode, noise
from tests.sgn_serve.server import application_client
from tests.sgn_serve.tiny_graph import save_tiny_graph


def pictures(folder: Path, count: int = 7) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(noise(8, 8, number)).save(folder / f"{number}.png")
    return folder


def test_help_tells_the_defaults_of_the_settings():
    told = {action.dest: action.help for action in build_parser()._actions}
    defaults = {row.variable: row.default for row in settings_table()} | {"SGN_DECODERS": "all cores"}
    for variable in SETTINGS:
        assert str(told[variable]).replace("%%", "%").endswith(f" (default: {defaults[variable]})")


def test_every_input_is_a_row_in_the_inputs_order(classify, tmp_path, capsys):
    sources = make_inputs(tmp_path, 2)
    assert classify(*sources, "--out", tmp_path / "a.jsonl") == 0
    told = capsys.readouterr()
    assert told.err == "skipped 1 file without the suffix of a picture (notes.md)\n"
    rows = read_rows(tmp_path / "a.jsonl")
    files = str(tmp_path / "pictures")
    found = [(row["path"].removeprefix(f"{files}/"), row["error_code"]) for row in rows]
    unreadable = None if os.access(f"{files}/unreadable.png", os.R_OK) else "unreadable_file"
    assert found == [
        ("000.png", None),
        ("001.png", None),
        ('comma, "quote"\nline.png', None),
        ("duplicate.png", None),
        ("empty.png", "empty_file"),
        ("folder.png/inside.png", None),
        ("gone.png", "unreadable_file"),
        ("not utf-8 \\xff.png", None),
        ("pipe.png", "unreadable_file"),
        ("text.jpg", "not_an_image"),
        ("too many pixels.png", "too_many_pixels"),
        ("truncated.png", "damaged_image"),
        ("unreadable.png", unreadable),
        ("000.png", None),
        ("vanished.png", "unreadable_file"),
        ("folder.png", "unreadable_file"),
        ("000.png", None),
        ("not utf-8 ü.png", "unreadable_file"),
        ("001.png", None),
    ]
    errors = sum(row["error_code"] is not None for row in rows)
    assert told.out == f"{tmp_path / 'a.jsonl'}: 19 rows, {errors} with an error: see the column error_code\n"
    assert rows[15]["error_message"] == "it is a folder"
    assert not list(tmp_path.glob("*.parts"))


def test_the_three_formats_hold_the_same_rows(classify, tmp_path):
    sources = make_inputs(tmp_path, 2)
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert classify(*sources, "--out", tmp_path / name) == 0
    rows = read_rows(tmp_path / "a.jsonl")
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist() == rows
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as lines:
        assert next(csv.reader(lines)) == list(COLUMNS)
    columns = ("path", "label", "probability", "error_message")
    wanted = [tuple(row[column] for column in columns) for row in rows]
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        path = tmp_path / name
        read = list(formats.format_of(path).read(path, columns))
        assert [(one, two, None if three is None else float(three), four) for one, two, three, four in read] == wanted


@pytest.mark.parametrize("mode", ["on", "off", "auto"])
def test_answers_are_the_servers(classify, tiny, tmp_path, mode):
    folder = pictures(tmp_path / "p")
    Image.new("RGB", (30, 20), (90, 200, 30)).save(folder / "7.jpg")
    (folder / "8.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "9.gif").write_bytes(encode(Image.fromarray(noise(9, 5)), "GIF")[:-40])
    options = ["--auto-margin", "0.2"]
    assert classify(folder, "--out", tmp_path / "a.jsonl", "--self-gradient", mode, "--top-k", 2, *options) == 0
    rows = read_rows(tmp_path / "a.jsonl")
    field = {"on": "true", "off": "false", "auto": "auto"}[mode]
    files = [("images", path.read_bytes()) for path in sorted(folder.iterdir())]
    with application_client(Settings(model_path=tiny, top_k=2, auto_margin=0.2)) as client:
        answers = client.post("/classify_batch", files=files, data={"self_gradient": field}).json()["predictions"]
    assert len(rows) == len(answers) == 10
    for row, answer in zip(rows, answers, strict=True):
        assert row["mode"] == mode
        if "error" in answer:
            assert (row["error_code"], row["error_message"]) == (answer["error"]["code"], answer["error"]["message"])
            continue
        assert _close(row, answer)
        assert row["plain_label"] == (answer["plain"] and answer["plain"]["label"])
    second = {row["plain_label"] is not None for row in rows if row["error_code"] is None}
    assert second == {"on": {True}, "off": {False}, "auto": {True, False}}[mode]


def _close(row, answer) -> bool:
    same = [row["label"] == answer["label"], row["index"] == answer["index"]]
    pairs = [(row["probability"], answer["probability"])]
    for one, other in zip(row["top_k"], answer["top_k"], strict=True):
        same.append((one["label"], one["index"]) == (other["label"], other["index"]))
        pairs.append((one["probability"], other["probability"]))
    if answer["disagreement"] is not None:
        pairs.append((row["disagreement"], answer["disagreement"]))
    else:
        same.append(row["disagreement"] is None)
    return all(same) and np.allclose(np.subtract(*np.transpose(pairs)), 0, atol=1e-6)


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(classify, tmp_path, capsys, monkeypatch):
    folder = pictures(tmp_path / "p")
    write_part = PartsFolder.write_part

    def interrupt(self, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        write_part(self, number, *rest)

    output = tmp_path / "a.csv"
    monkeypatch.setattr(PartsFolder, "write_part", interrupt)
    assert classify(folder, "--out", output) == 130
    assert capsys.readouterr().err == (
        f"interrupted; what is done is in {output}.parts: the same command with --resume goes on\n"
    )
    assert not output.exists()
    kept = sorted(path.name for path in Path(f"{output}.parts").glob("*.part"))
    assert kept == ["0000000.3.0.part"]

    assert classify(folder, "--out", output) == 1
    assert "it holds an unfinished run; go on with --resume" in capsys.readouterr().err
    monkeypatch.undo()
    for other, reason in (
        (["--top-k", 1], "--top-k=5, and this one --top-k=1;"),
        (["--self-gradient", "off"], "--self-gradient 'on', and this one --self-gradient 'off';"),
        (["--chunk", 4], "--chunk 6, and this one --chunk 4;"),
    ):
        assert classify(folder, "--out", output, "--resume", *other) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {output}.parts: the unfinished run there has ")
        assert reason in error
        assert len(error.splitlines()) == 1
    assert classify(folder / "0.png", "--out", output, "--resume") == 1
    assert "the unfinished run there has inputs " in capsys.readouterr().err
    other_model = save_tiny_graph(tmp_path / "other.onnx", class_names=("r", "g", "b"))
    assert classify(folder, "--out", output, "--resume", "--model", other_model) == 1
    assert "has model '" in capsys.readouterr().err

    monkeypatch.setenv("SGN_ENGINE", "onnxruntime")
    assert classify(folder, "--out", output, "--resume") == 1
    assert "SGN_ENGINE='auto', and this one SGN_ENGINE='onnxruntime';" in capsys.readouterr().err
    monkeypatch.undo()

    with monkeypatch.context() as patched:  # engines are timed: another choice would give other probabilities
        patched.setattr("sgn_serve.serving.engine_choice.choose_engine", lambda *_: pytest.fail("it is chosen anew"))
        assert classify(folder, "--out", output, "--resume") == 0
    assert capsys.readouterr().out == f"{output}: 7 rows\n"
    assert classify(folder, "--out", tmp_path / "b.csv") == 0
    assert output.read_bytes() == (tmp_path / "b.csv").read_bytes()
    capsys.readouterr()
    assert classify(folder, "--out", output, "--resume") == 0
    assert capsys.readouterr().out == f"{output} is finished already; to make it anew, remove it\n"
    assert classify(folder, "--out", output) == 1
    assert "it exists already; give another --out, or remove it" in capsys.readouterr().err


INTERRUPTED = """
import os
import signal
import signal
import sys
import threading
from sgn_serve.classify.command import main
from sgn_serve.classify.unfinished import PartsFolder

write_part = PartsFolder.write_part

def write_and_interrupt(self, number, *rest):
    write_part(self, number, *rest)
    if number == 1:
        threading.Thread(target=os.killpg, args=(0, signal.SIGINT)).start()

PartsFolder.write_part = write_and_interrupt
sys.exit(main())
"""
"""After its second part, it sends itself and what it has started what a terminal does at Ctrl-C, and goes on."""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_keeps_what_is_done_and_resume_goes_on(classify, tiny, tmp_path, name, status):
    """Ctrl-C of a terminal reaches all processes. A scheduler's SIGTERM may too."""
    folder, output = pictures(tmp_path / "p", 40), tmp_path / "a.csv"
    arguments = [str(folder), "--out", str(output), "--model", str(tiny), "--chunk", "1"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.replace("SIGINT", name), *arguments, "--threads", "1", "--decoders", "1"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        start_new_session=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    told = done.stderr.splitlines()[-1]
    assert told == f"interrupted; what is done is in {output}.parts: the same command with --resume goes on"
    assert "Traceback" not in done.stderr
    assert not output.exists()
    kept = sorted(int(path.name.split(".")[0]) for path in Path(f"{output}.parts").glob("*.part"))
    assert kept == list(range(len(kept)))
    assert 2 <= len(kept) < 40
    assert classify(folder, "--out", output, "--chunk", 1, "--resume") == 0
    assert classify(folder, "--out", tmp_path / "b.csv", "--chunk", 1) == 0
    assert output.read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("name", "status"), [pytest.param("SIGINT", 130, marks=pytest.mark.thorough), ("SIGTERM", 143)]
)
def test_a_signal_ends_a_start_that_waits_for_the_engine(tmp_path, name, status):
    graph = save_bad_graph("endless loop", tmp_path / "endless.onnx")
    command = [sys.executable, "-m", "sgn_serve.classify", str(pictures(tmp_path / "p", 1))]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "a.csv"), "--model", str(graph), "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not (tmp_path / "a.csv.parts" / "inputs").exists():
                time.sleep(0.1)
            listed = psutil.Process(process.pid).cpu_times().user
            while psutil.Process(process.pid).cpu_times().user < listed + 3:  # the loop runs by then
                time.sleep(0.1)
            process.send_signal(getattr(signal, name))
            _, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == status, told
    assert told.splitlines()[-1] == "interrupted; nothing was classified yet"
    assert not (tmp_path / "a.csv.parts").exists()


def test_what_cannot_be_done_is_told_in_one_line(classify, tmp_path, capsys, monkeypatch):
    folder = pictures(tmp_path / "p", 1)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.md").write_text("")
    (tmp_path / "bad.parquet").write_bytes(b"x")
    plain = save_tiny_graph(tmp_path / "plain.onnx", block=False)
    out = tmp_path / "a.csv"
    for arguments, reason in (
        ([folder, "--out", tmp_path / "a.xls"], "the name must end in .parquet, .csv, .jsonl"),
        ([folder, "--out", tmp_path / "no" / "a.csv"], "there is no such folder; make it first"),
        ([tmp_path / "fotos", "--out", out], "there is no such file or folder; correct the path"),
        ([tmp_path / "none", "--out", out], "no pictures in it (passed over: 1 file without the suffix"),
        ([tmp_path / "*.tiff", "--out", out], "no file matches it; correct the pattern"),
        ([tmp_path / "bad.parquet", "--out", out], "it cannot be read as a Parquet file"),
        ([folder, "--out", out, "--threads", 4000], "--threads=4000 cannot be used: this process may use "),
        ([folder, "--out", out, "--engine", "tensorrt"], "--engine='tensorrt' cannot be used"),
        ([folder, "--out", out, "--model", tmp_path / "no.onnx"], "no.onnx"),
        ([folder, "--out", out, "--model", plain, "--self-gradient", "on"], "leave --self-gradient out"),
    ):
        assert classify(*arguments) != 0
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert reason in error
        assert len(error.splitlines()) == 1
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert classify(folder, "--out", tmp_path / "a.parquet") == 1
    assert 'pip install "self-gradient-networks[classify]"' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.parquet", "none", "p", "plain.onnx"]


@pytest.mark.parametrize(
    ("graph", "batch", "reason"),
    [
        ("error for twenty and more", 24, "cannot answer a batch of 24 ("),
        ("other shape for several", 3, "cannot answer a batch of 3 (its logits are of shape (1, 9) and not (3, 3));"),
    ],
)
def test_a_network_that_fails_for_a_batch_is_one_line(classify, tmp_path, capsys, graph, batch, reason):
    model = save_bad_graph(graph, tmp_path / "bad.onnx")
    folder, output = pictures(tmp_path / "p", batch), tmp_path / "a.jsonl"
    options = [folder, "--out", output, "--model", model, "--engine", "onnxruntime", "--chunk", 100]
    assert classify(*options, "--self-gradient", "off", "--max-batch", batch) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {model}: ONNX Runtime CPUExecutionProvider {reason}")
    assert error.endswith("; give a smaller --max-batch, or export it again")
    assert not output.exists()


def test_two_runs_do_not_share_a_folder(classify, tmp_path, capsys):
    folder = pictures(tmp_path / "p", 1)
    with PartsFolder(tmp_path / "a.csv", formats.FORMATS[".csv"]) as parts:
        for _ in range(2):
            assert classify(folder, "--out", tmp_path / "a.csv") == 1
            assert "another run works in it; wait for its end, or end it" in capsys.readouterr().err
            parts.begin(Manifest({}, [], 1, 1))
    assert classify(folder, "--out", tmp_path / "a.csv") == 1
    assert "it holds an unfinished run; go on with --resume" in capsys.readouterr().err


def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "part.unfinished").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"part\.unfinished"):
        formats.write_whole(tmp_path / "part", b"rows")


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.csv.parts/1"), "a.csv.parts/1: No space left on device"),
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_what_the_system_lacks_in_the_middle_of_a_run_is_told(classify, tmp_path, capsys, monkeypatch, lacking, told):
    def fails(*_):
        raise lacking

    monkeypatch.setattr(PartsFolder, "write_part", fails)
    assert classify(pictures(tmp_path / "p", 1), "--out", tmp_path / "a.csv") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {told}; once that is mended, the same command with --resume goes on"


def test_a_programming_error_keeps_its_traceback(classify, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no such state")

    monkeypatch.setattr(PartsFolder, "write_part", fails)
    with pytest.raises(RuntimeError, match="no such state"):
        classify(pictures(tmp_path / "p", 1), "--out", tmp_path / "a.csv")


def test_a_chunk_may_be_longer_than_any_list(classify, tmp_path):
    assert classify(pictures(tmp_path / "p", 2), "--out", tmp_path / "a.jsonl", "--chunk", 10**30) == 0
    assert len(read_rows(tmp_path / "a.jsonl")) == 2


def test_a_name_that_the_terminal_cannot_show_is_no_error(classify, tmp_path, monkeypatch):
    folder, told = pictures(tmp_path / "p", 1), io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", told)
    assert classify(folder, "--out", tmp_path / os.fsdecode(b"\xc3\xbc\xff.csv")) == 0
    told.seek(0)
    assert told.read() == f"{tmp_path}/\\xfc\\udcff.csv: 1 row\n"


def test_a_folder_that_cannot_be_locked_says_why(classify, tmp_path, capsys, monkeypatch):
    def without_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert classify(pictures(tmp_path / "p", 1), "--out", tmp_path / "a.csv") == 1
    error = capsys.readouterr().err
    assert os.strerror(errno.ENOLCK) in error
    assert "another run" not in error


@pytest.mark.parametrize("name", ["0.png", "notes.part", "manifest.json.old"])
def test_a_folder_of_somebody_else_is_left_as_it_is(classify, tmp_path, capsys, name):
    folder, output = pictures(tmp_path / "p", 1), tmp_path / "a.csv"
    theirs = tmp_path / "a.csv.parts"
    theirs.mkdir()
    (theirs / name).write_text("theirs")
    for options in ([], ["--resume"]):
        assert classify(folder, "--out", output, *options) == 1
        error = capsys.readouterr().err
        assert error == (
            f"error: {theirs}: {name!r} in it is no file of an unfinished run; move the folder away, or give another "
            "--out\n"
        )
    output.write_text("finished")
    assert classify(folder, "--out", output, "--resume") == 0
    assert [(path.name, path.read_text()) for path in theirs.iterdir()] == [(name, "theirs")]


def test_parts_behind_a_gap_are_made_again(classify, tmp_path, monkeypatch):
    """A power cut can keep a later part and lose an earlier one. Meanwhile a picture is gone."""
    folder, output = pictures(tmp_path / "p", 8), tmp_path / "a.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(PartsFolder, "finish", lambda self: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            classify(folder, "--out", output)
    parts = sorted(Path(f"{output}.parts").glob("*.part"))
    assert [part.name for part in parts] == ["0000000.3.0.part", "0000001.3.0.part", "0000002.2.0.part"]
    parts[1].unlink()
    (folder / "7.png").unlink()
    assert classify(folder, "--out", output, "--resume") == 0
    rows = read_rows(output)
    assert [row["path"] for row in rows] == [str(folder / f"{number}.png") for number in range(8)]
    assert [row["error_code"] for row in rows] == [None] * 7 + ["unreadable_file"]


@pytest.mark.parametrize("damage", ["cut", "rows"])
def test_a_damaged_part_is_named_and_made_again(classify, tmp_path, monkeypatch, capsys, damage):
    folder, output = pictures(tmp_path / "p", 8), tmp_path / "a.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(PartsFolder, "finish", lambda self: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            classify(folder, "--out", output)
    part = sorted(Path(f"{output}.parts").glob("*.part"))[1]
    content = part.read_bytes()
    frame = content.index(b"\x04\x22\x4d\x18")  # an LZ4 frame, which pyarrow reports as an OSError without a number
    part.write_bytes(content[: len(content) // 2] if damage == "cut" else content[:frame] + b"?" + content[frame + 1 :])
    assert classify(folder, "--out", output, "--resume") == 1
    assert f"{part}: this part of the unfinished run is damaged" in capsys.readouterr().err
    part.unlink()
    assert classify(folder, "--out", output, "--resume") == 0
    rows = pyarrow.parquet.read_table(output)
    assert rows["path"].to_pylist() == [str(folder / f"{number}.png") for number in range(8)]


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_a_run_of_another_version_cannot_go_on(classify, tmp_path, capsys, options):
    folder, output = pictures(tmp_path / "p", 1), tmp_path / "a.csv"
    parts = Path(f"{output}.parts")
    parts.mkdir()
    (parts / "inputs").write_bytes(b"")
    (parts / "manifest.json").write_text('{"format": 1}')
    assert classify(folder, "--out", output, *options) == 1
    said = f"error: {parts}: this is no run of this version; remove the folder to start again\n"
    assert capsys.readouterr().err == said
    assert (parts / "manifest.json").exists()


def test_more_than_ten_million_parts_are_in_order(tmp_path):
    folder = PartsFolder(tmp_path / "a.csv", formats.FORMATS[".csv"])
    folder.path.mkdir()
    for number in (10_000_000, 9_999_999, 1_000_001):
        folder.write_part(number, b"", 1, 0)
    assert [path.name.split(".")[0] for path in folder._parts()] == ["1000001", "9999999", "10000000"]


def test_a_run_that_began_on_an_engine_that_is_not_here_says_so(classify, tmp_path, capsys, monkeypatch):
    folder, output = pictures(tmp_path / "p", 1), tmp_path / "a.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(PartsFolder, "finish", lambda self: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            classify(folder, "--out", output)
    manifest = Path(f"{output}.parts", "manifest.json")
    content = json.loads(manifest.read_bytes())
    content["engine"] = {"engine": "openvino", "precision": "bf16", "reason": "the processor has amx_bf16"}
    manifest.write_text(json.dumps(content))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    capsys.readouterr()
    for options, reason in (
        ([], "which this machine cannot run; go on where it began"),
        (["--providers", "cpu"], "while --providers=cpu asks for ONNX Runtime; leave it out"),
    ):
        assert classify(folder, "--out", output, "--resume", *options) == 1
        assert capsys.readouterr().err == (
            f"error: {output}.parts: the unfinished run there began on OpenVINO in bf16, {reason}, or remove the "
            "folder to start again\n"
        )


@pytest.mark.parametrize(("chunk", "risked"), [(6, [3, 6, 6, 4]), (3, [1, 2] + [2] * 8), (1, [1] * 10)])
def test_a_kill_loses_one_chunk_at_most(classify, tmp_path, monkeypatch, chunk, risked):
    """Whatever was begun and is not written is lost."""
    at_risk: list[int] = []
    seen = []

    def submit(self, items):
        at_risk.append(len(items))
        seen.append(sum(at_risk))
        return begin(self, items)

    def write(self, *part):
        write_part(self, *part)
        del at_risk[0]

    begin, write_part = ChunkClassifier.submit, PartsFolder.write_part
    monkeypatch.setattr(ChunkClassifier, "submit", submit)
    monkeypatch.setattr(PartsFolder, "write_part", write)
    assert classify(pictures(tmp_path / "p", 10), "--out", tmp_path / "a.csv", "--chunk", chunk) == 0
    assert seen == risked
    assert max(seen) <= chunk
    assert not at_risk


def test_pictures_in_a_table_are_classified_from_any_row_on(classify, tmp_path, monkeypatch):
    cells: list[bytes | None] = [encode(Image.fromarray(noise(8, 8, number))) for number in range(8)]
    cells[2:4] = [None, b"damaged"]
    table = pyarrow.table({"image": [{"bytes": cell, "path": "x"} for cell in cells], "name": list("abcdefgh")})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    folder = tmp_path / "p"
    folder.mkdir()
    for number, cell in enumerate(cells):
        (folder / f"{number}.png").write_bytes(cell or b"")
    assert classify(folder, "--out", tmp_path / "files.jsonl") == 0
    monkeypatch.setattr(ChunkClassifier, "ahead", 1)
    stop = PartsFolder.write_part

    def interrupt(self, number, *rest):
        stop(self, number, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PartsFolder, "write_part", interrupt)
        assert classify(tmp_path / "t.parquet", "--out", tmp_path / "a.jsonl") == 130
    assert classify(tmp_path / "t.parquet", "--out", tmp_path / "a.jsonl", "--resume") == 0
    rows, wanted = read_rows(tmp_path / "a.jsonl"), read_rows(tmp_path / "files.jsonl")
    assert [row.pop("path") for row in rows] == [f"{tmp_path / 't.parquet'}:{number}" for number in range(8)]
    assert [row["error_code"] for row in rows] == [None, None, "empty_file", "not_an_image", *[None] * 4]
    for row in wanted:
        row.pop("path")
    rows[2].pop("error_message"), wanted[2].pop("error_message")
    assert rows == wanted


def test_a_damaged_table_costs_the_rows_that_are_damaged(classify, tmp_path):
    cells = [encode(Image.fromarray(noise(8, 8, number))) for number in range(9)]
    table = pyarrow.table({"image": pyarrow.array(cells, pyarrow.binary())})
    path = tmp_path / "t.parquet"
    plain: dict[str, Any] = {
        "compression": "none",
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,
    }
    pyarrow.parquet.write_table(table, path, row_group_size=3, **plain)
    assert classify(path, "--out", tmp_path / "whole.jsonl") == 0
    content = bytearray(path.read_bytes())
    place = content.index(cells[4][45:75])
    content[place] ^= 0xFF
    path.write_bytes(content)
    assert classify(path, "--out", tmp_path / "a.jsonl") == 0
    whole, rows = read_rows(tmp_path / "whole.jsonl"), read_rows(tmp_path / "a.jsonl")
    assert rows[:3] + rows[6:] == whole[:3] + whole[6:]
    assert [row["error_code"] for row in rows[3:6]] == ["damaged_table"] * 3
    assert all("the table is damaged from row 3 on (" in row["error_message"] for row in rows[3:6])


def test_a_table_that_vanishes_costs_its_rows(classify, tmp_path, monkeypatch):
    table = pyarrow.table({"image": [encode(Image.fromarray(noise(8, 8, 1)))] * 2})
    pyarrow.parquet.write_table(table, path := tmp_path / "t.parquet")
    write = inputs.write_inputs

    def vanish(*given):
        write(*given)
        path.unlink()

    monkeypatch.setattr(run_module, "write_inputs", vanish)
    Image.fromarray(noise(8, 8, 0)).save(tmp_path / "z.png")
    assert classify(path, tmp_path / "z.png", "--out", tmp_path / "a.jsonl") == 0
    codes = [row["error_code"] for row in read_rows(tmp_path / "a.jsonl")]
    assert codes == ["unreadable_file", "unreadable_file", None]


def test_batches_that_run_at_once_give_the_rows_of_one_at_a_time(classify, tmp_path):
    sources = [pictures(tmp_path / "p", 90), *make_inputs(tmp_path, 2)]
    options = ("--max-batch", 3, "--chunk", 20)
    assert classify(*sources, "--out", tmp_path / "one.jsonl", *options) == 0
    for run in range(3):
        assert classify(*sources, "--out", tmp_path / f"{run}.jsonl", *options, "--threads", 2) == 0
        rows, wanted = read_rows(tmp_path / f"{run}.jsonl"), read_rows(tmp_path / "one.jsonl")
        assert [(row["path"], row["label"], row["error_code"]) for row in rows] == [
            (row["path"], row["label"], row["error_code"]) for row in wanted
        ]
        assert all(
            row["probability"] == pytest.approx(other["probability"], abs=1e-5)
            for row, other in zip(rows, wanted, strict=True)
            if row["error_code"] is None
        )


def test_an_output_among_the_inputs_counts_none_of_the_runs_files(classify, tmp_path, capsys):
    folder = pictures(tmp_path / "p", 2)
    assert classify(folder, "--out", folder / "a.csv") == 0
    assert capsys.readouterr().err == ""
    assert classify(f"{folder}/**", "--out", folder / "b.jsonl") == 0
    assert {Path(row["path"]).name for row in read_rows(folder / "b.jsonl")} == {"0.png", "1.png", "a.csv"}


def test_names_of_files_control_no_terminal(classify, tmp_path, capsys):
    folder = pictures(tmp_path / "p\x1b[2J", 1)
    (folder / "\x1b[31m.md").write_bytes(b"")
    assert classify(folder, "--out", tmp_path / "\x1b[1m.csv") == 0
    assert classify(f"{folder}\x9b/*.png", "--out", tmp_path / "b.csv") == 1
    with pytest.raises(SystemExit):
        classify(folder, "--out", tmp_path / "\x1b[1m.csv", "--\x1b[1m")
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert "\\x1b[" in text
        assert all(line.isprintable() for line in text.splitlines())
