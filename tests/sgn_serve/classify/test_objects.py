"""Pictures in an object store give the rows of the same pictures in a folder."""

import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image
from pyarrow import fs

from sgn_serve.classify import objects
from tests.sgn_serve.classify.conftest import read_rows
from tests.sgn_serve.classify.object_server import BUCKET, DENIED, object_server
from tests.sgn_serve.sample_pictures import noise


def fill(folder: Path) -> Path:
    (folder / "p" / "a").mkdir(parents=True)
    for number, name in enumerate(("a/0.png", "a.png", "b c?.png", "ü%20#.png", ".hidden.png")):
        Image.fromarray(noise(8, 8, number)).save(folder / "p" / name)
    (folder / "p" / "empty.png").write_bytes(b"")
    (folder / "p" / "notes.md").write_text("passed over")
    return folder


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    folder = fill(tmp_path / "objects")
    with object_server(folder) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield folder


def test_objects_give_the_rows_of_files(classify, bucket, tmp_path, capsys):
    assert classify(bucket / "p", "--out", tmp_path / "files.jsonl") == 0
    skipped = capsys.readouterr().err
    assert classify(f"s3://{BUCKET}/p", "--out", tmp_path / "objects.jsonl") == 0
    told = capsys.readouterr().err
    assert sorted(told.removeprefix("skipped ").strip().split(", ")) == sorted(
        skipped.removeprefix("skipped ").strip().split(", ")
    )
    files, objects = read_rows(tmp_path / "files.jsonl"), read_rows(tmp_path / "objects.jsonl")
    assert [row["path"].replace(str(bucket), f"s3://{BUCKET}") for row in files] == [row["path"] for row in objects]
    assert [{**row, "path": ""} for row in files] == [{**row, "path": ""} for row in objects]
    assert len(objects) == 5


def test_every_address_in_a_list_is_a_row(classify, bucket, tmp_path):
    (bucket / "p" / DENIED).write_bytes(b"x")
    (bucket / "p" / "large.png").write_bytes(b"\0" * 3000)
    names = ["p/a.png", "p/gone.png", f"p/{DENIED}", "p/large.png", "p/a.png", "p/b c?.png"]
    lines = [f"s3://{BUCKET}/{name}\n" for name in names]
    (tmp_path / "list.txt").write_text("".join(lines) + str(bucket / "p" / "a.png"))
    sources = [tmp_path / "list.txt", f"s3://{BUCKET}/p/a/0.png"]
    assert classify(*sources, "--out", tmp_path / "a.jsonl", "--max-bytes", 2048) == 0
    rows = read_rows(tmp_path / "a.jsonl")
    assert [(row["error_code"], row["error_message"]) for row in rows] == [
        (None, None),
        ("unreadable_file", "there is no such object"),
        ("unreadable_file", "access is denied"),
        ("body_too_large", "the file has 3000 bytes, more than 2048; SGN_MAX_BYTES raises the limit"),
        *[(None, None)] * 4,
    ]
    assert rows[0] == rows[4] == {**rows[6], "path": rows[0]["path"]}


def test_a_name_that_no_object_has_is_an_error_of_its_row(classify, bucket, tmp_path):
    names = [f"{BUCKET}", f"{BUCKET}/", "", "/p/a.png", f"{BUCKET}/p/", f"{BUCKET}/p//a.png", f"{BUCKET}/p/a.png"]
    (tmp_path / "list.txt").write_text("".join(f"s3://{name}\n" for name in names))
    assert classify(tmp_path / "list.txt", "--out", tmp_path / "a.jsonl") == 0
    rows = read_rows(tmp_path / "a.jsonl")
    assert [row["error_code"] for row in rows] == ["unreadable_file"] * 6 + [None]
    assert all(row["error_message"].startswith("it names no object") for row in rows[:-1])


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://localhost", "http://:9000", "http://[::1"])
def test_an_endpoint_that_is_no_server_is_told_and_not_passed_over(
    classify, bucket, tmp_path, capsys, monkeypatch, endpoint
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    (tmp_path / "list.txt").write_text(f"s3://{BUCKET}/p/a.png\n")
    for source in (f"s3://{BUCKET}/p", tmp_path / "list.txt"):
        assert classify(source, "--out", tmp_path / "a.jsonl") == 1
        (error,) = capsys.readouterr().err.splitlines()
        assert error == f"error: AWS_ENDPOINT_URL={endpoint}: this is no server; write it as https://HOST:PORT"


def test_what_is_not_in_the_store_is_told(classify, bucket, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a.jsonl"
    for source, reason in (
        ("nothing", "there is no such object or folder; correct the address"),
        ("list.txt", "lists and tables must be files of this machine; copy it first"),
        (f"p/{DENIED}", "access is denied; set credentials that may read and list it"),
        ("p//a.png", f"it is no address of an object (Empty path component in path {BUCKET}/p//a.png); correct it"),
    ):
        assert classify(f"s3://{BUCKET}/{source}", "--out", out) == 1
        assert capsys.readouterr().err == f"error: s3://{BUCKET}/{source}: {reason}\n"
    (tmp_path / "list.txt").write_text(f"s3://{BUCKET}/p/a.png\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        for source in (f"s3://{BUCKET}/p", tmp_path / "list.txt"):
            assert classify(source, "--out", out) == 1
            (error,) = capsys.readouterr().err.splitlines()
            assert "the object store does not answer (" in error
            assert error.endswith("); once it does, the same command with --resume goes on")


def test_a_bucket_that_is_not_there_is_told_as_such(classify, bucket, tmp_path, capsys):
    for source in ("s3://other", "s3://other/p/a.png"):
        assert classify(source, "--out", tmp_path / "a.jsonl") == 1
        assert capsys.readouterr().err == f"error: {source}: there is no such bucket; correct the address\n"


@pytest.fixture
def amazon(monkeypatch):
    """Answer the question for a bucket's region as pyarrow does. Amazon's own server needs a network."""
    regions = {"photos": "eu-west-3"}
    asked = []

    def resolve(name):
        asked.append(name)
        if name == "unreachable":
            raise OSError(f"When resolving region for bucket '{name}': AWS Error NETWORK_CONNECTION: no connection")
        if name not in regions:
            raise OSError(f"Bucket '{name}' not found")
        return regions[name]

    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(fs, "resolve_s3_region", resolve)
    return asked


def test_a_bucket_that_amazon_does_not_know_is_an_error_of_its_rows_and_asked_for_once(
    classify, amazon, tmp_path, capsys
):
    Image.fromarray(noise(8, 8, 0)).save(tmp_path / "a.png")
    lines = ["s3://other/a.png", str(tmp_path / "a.png"), "s3://other/b.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert classify(tmp_path / "list.txt", "--out", tmp_path / "a.jsonl") == 0
    rows = [(row["error_code"], row["error_message"]) for row in read_rows(tmp_path / "a.jsonl")]
    missing = ("unreadable_file", "there is no such bucket")
    assert rows == [missing, (None, None), missing]
    assert amazon == ["other"]
    capsys.readouterr()
    assert classify("s3://other/p", "--out", tmp_path / "b.jsonl") == 1
    assert capsys.readouterr().err == "error: s3://other/p: there is no such bucket; correct the address\n"
    assert classify("s3://unreachable/p", "--out", tmp_path / "b.jsonl") == 1
    assert "the object store does not answer (" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_is_that_of_the_bucket_and_a_variable_counts_where_it_cannot_be_found_out(
    amazon, monkeypatch, variable
):
    assert objects._open_store(b"s3://photos").region == "eu-west-3"
    monkeypatch.setenv(variable, "cn-north-1")
    assert objects._open_store(b"s3://photos").region == "eu-west-3"
    assert objects._open_store(b"s3://unreachable").region == "cn-north-1"
    assert objects._open_store(b"s3://in-china").region == "cn-north-1"  # Amazon's other servers do not know it
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert objects._open_store(b"s3://photos").region == "cn-north-1"


def google_at(server: socket.socket, home: Path) -> dict[str, str]:
    """Return the environment in which Google's client, without credentials, asks a server of this machine for them."""
    address = f"127.0.0.1:{server.getsockname()[1]}"
    return {
        "HOME": str(home),
        "GOOGLE_APPLICATION_CREDENTIALS": "",
        "GCE_METADATA_ROOT": address,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": f"http://{address}",
        "no_proxy": "127.0.0.1",
    }


def test_google_without_credentials_is_asked_for_a_while_and_not_for_minutes(classify, tmp_path, capsys, monkeypatch):
    assert timedelta(0) < objects.GCS_RETRIES < timedelta(minutes=1)
    monkeypatch.setattr(objects, "GCS_RETRIES", timedelta(seconds=1))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name, value in google_at(closed, tmp_path).items():
            monkeypatch.setenv(name, value)
        assert classify("gs://bucket/photos", "--out", tmp_path / "a.jsonl") == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: gs://bucket/photos: the object store does not answer (")


@pytest.mark.parametrize("source", ["gs://bucket/photos", "list.txt"])
def test_ctrl_c_ends_a_command_that_waits_for_a_silent_object_store(tiny, tmp_path, source):
    (tmp_path / "list.txt").write_text("gs://bucket/a.png\ngs://bucket/b.png\n")
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-m", "sgn_serve.classify", "--model", str(tiny), "--decoders", "1", "--threads", "1"]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(120)
        environment = {**os.environ, **google_at(silent, tmp_path / "home"), "PYTHONPATH": os.getcwd()}
        with subprocess.Popen(
            [*command, source, "--out", "a.jsonl"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                with silent.accept()[0]:  # it asks, and nobody answers
                    process.send_signal(signal.SIGINT)
                    _, told = process.communicate(timeout=60)  # pyarrow itself waits longer
            finally:
                process.kill()
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in told
