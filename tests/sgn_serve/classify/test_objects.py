"""Pictures in an object store give the rows of the same pictures in a folder."""

import socket
from pathlib import Path

import pytest
from PIL import Image

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
