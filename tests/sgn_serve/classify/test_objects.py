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
from tests.sgn_serve.classify.google_server import google_server
from tests.sgn_serve.classify.object_server import BUCKET, DENIED, object_server
from tests.sgn_serve.sample_pictures import noise


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The folder whose files are the objects of the bucket, and the value for `store` and `google`."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "p" / "a").mkdir(parents=True)
    for number, name in enumerate(("a/0.png", "a.png", "b c?.png", "ü%20#.png", ".hidden.png")):
        Image.fromarray(noise(8, 8, number)).save(folder / "p" / name)
    (folder / "p" / "empty.png").write_bytes(b"")
    (folder / "p" / "notes.md").write_text("passed over")
    (folder / "q").mkdir()
    (folder / "q" / DENIED).write_bytes(b"x")
    (folder / "q" / "large.png").write_bytes(b"\0" * 3000)
    return folder


@pytest.fixture(scope="module")
def amazon_environment(bucket):
    with object_server(bucket) as environment:
        yield environment


@pytest.fixture(scope="module")
def google_environment(bucket):
    with google_server(bucket) as environment:
        yield environment


@pytest.fixture(params=["s3", "gs"])
def store(request, monkeypatch):
    """The address of the bucket, once in each kind of store."""
    lead(monkeypatch, request.getfixturevalue({"s3": "amazon_environment", "gs": "google_environment"}[request.param]))
    return f"{request.param}://{BUCKET}"


def lead(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_objects_give_the_rows_of_files(classify, bucket, store, tmp_path, capsys):
    assert classify(bucket / "p", "--out", tmp_path / "files.jsonl") == 0
    skipped = capsys.readouterr().err
    assert classify(f"{store}/p", "--out", tmp_path / "objects.jsonl") == 0
    told = capsys.readouterr().err
    assert sorted(told.removeprefix("skipped ").strip().split(", ")) == sorted(
        skipped.removeprefix("skipped ").strip().split(", ")
    )
    files, objects = read_rows(tmp_path / "files.jsonl"), read_rows(tmp_path / "objects.jsonl")
    assert [row["path"].replace(str(bucket), store) for row in files] == [row["path"] for row in objects]
    assert [{**row, "path": ""} for row in files] == [{**row, "path": ""} for row in objects]
    assert len(objects) == 5


def test_every_address_in_a_list_is_a_row(classify, bucket, store, tmp_path):
    names = ["p/a.png", "p/gone.png", f"q/{DENIED}", "q/large.png", "p/a.png", "p/b c?.png"]
    lines = [f"{store}/{name}\n" for name in names]
    (tmp_path / "list.txt").write_text("".join(lines) + str(bucket / "p" / "a.png"))
    sources = [tmp_path / "list.txt", f"{store}/p/a/0.png"]
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


def test_a_name_that_no_object_has_is_an_error_of_its_row(classify, store, tmp_path):
    scheme = store.partition("://")[0]
    names = [f"{BUCKET}", f"{BUCKET}/", "", "/p/a.png", f"{BUCKET}/p/", f"{BUCKET}/p//a.png", f"{BUCKET}/p/a.png"]
    (tmp_path / "list.txt").write_text("".join(f"{scheme}://{name}\n" for name in names))
    assert classify(tmp_path / "list.txt", "--out", tmp_path / "a.jsonl") == 0
    rows = read_rows(tmp_path / "a.jsonl")
    assert [row["error_code"] for row in rows] == ["unreadable_file"] * 6 + [None]
    assert all(row["error_message"].startswith("it names no object") for row in rows[:-1])


@pytest.mark.parametrize(
    "assignment",
    [
        *(f"AWS_ENDPOINT_URL={endpoint}" for endpoint in ("localhost:9000", "ftp://localhost", "http://:9000")),
        "AWS_ENDPOINT_URL=http://[::1",
        "STORAGE_EMULATOR_HOST=localhost:9000",
        "CLOUD_STORAGE_EMULATOR_ENDPOINT=localhost:9000",
    ],
)
def test_an_endpoint_that_is_no_server_is_told_and_not_passed_over(classify, tmp_path, capsys, monkeypatch, assignment):
    monkeypatch.setenv(*assignment.split("="))
    address = f"{'s3' if assignment.startswith('AWS') else 'gs'}://{BUCKET}/p"
    (tmp_path / "list.txt").write_text(f"{address}/a.png\n")
    for source in (address, tmp_path / "list.txt"):
        assert classify(source, "--out", tmp_path / "a.jsonl") == 1
        (error,) = capsys.readouterr().err.splitlines()
        assert error == f"error: {assignment}: this is no server; write it as https://HOST:PORT"


def test_what_is_not_in_the_store_is_told(classify, store, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a.jsonl"
    for source, reason in (
        ("nothing", "there is no such object or folder; correct the address"),
        ("list.txt", "lists and tables must be files of this machine; copy it first"),
        (f"q/{DENIED}", "access is denied; set credentials that may read and list it"),
        ("p//a.png", f"it is no address of an object (Empty path component in path {BUCKET}/p//a.png); correct it"),
    ):
        assert classify(f"{store}/{source}", "--out", out) == 1
        assert capsys.readouterr().err == f"error: {store}/{source}: {reason}\n"
    (tmp_path / "list.txt").write_text(f"{store}/p/a.png\n")
    monkeypatch.setattr(objects, "GCS_RETRIES", timedelta(seconds=1))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for variable in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{closed.getsockname()[1]}")
        for source in (f"{store}/p", tmp_path / "list.txt"):
            assert classify(source, "--out", out) == 1
            (error,) = capsys.readouterr().err.splitlines()
            assert "the object store does not answer (" in error
            assert error.endswith("); once it does, the same command with --resume goes on")


def test_a_bucket_that_is_not_there_is_told_as_such(classify, store, tmp_path, capsys):
    other = store.replace(BUCKET, "other")
    for source in (other, f"{other}/p/a.png"):
        assert classify(source, "--out", tmp_path / "a.jsonl") == 1
        assert capsys.readouterr().err == f"error: {source}: there is no such bucket; correct the address\n"


def test_a_whole_bucket_is_walked(classify, bucket, store, tmp_path):
    """Google's server refuses to tell about the bucket itself here, as it does to who may only view objects."""
    assert classify(store, "--out", tmp_path / "a.jsonl") == 0
    paths = [row["path"].removeprefix(f"{store}/") for row in read_rows(tmp_path / "a.jsonl")]
    assert paths[-2:] == [f"q/{DENIED}", "q/large.png"]
    assert len(paths) == 7


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


def test_credentials_go_to_google_and_never_to_a_server_without_encryption(monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "https://127.0.0.1:9")
    encrypted = objects._open_store(b"gs://bucket")
    assert encrypted == fs.GcsFileSystem(endpoint_override="127.0.0.1:9", retry_time_limit=objects.GCS_RETRIES)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert objects._open_store(b"gs://bucket") == fs.GcsFileSystem(
        anonymous=True, endpoint_override="127.0.0.1:9", scheme="http", retry_time_limit=objects.GCS_RETRIES
    )


@pytest.mark.parametrize("credentials", ["", "credentials.json"], ids=["none", "damaged"])
def test_google_without_credentials_is_asked_for_a_while_and_not_for_minutes(
    classify, tmp_path, capsys, monkeypatch, credentials
):
    assert timedelta(0) < objects.GCS_RETRIES < timedelta(minutes=1)
    monkeypatch.setattr(objects, "GCS_RETRIES", timedelta(seconds=1))
    monkeypatch.chdir(tmp_path)
    Path("credentials.json").write_text("{}")
    Path("list.txt").write_text("gs://bucket/photos")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        environment = {
            "HOME": str(tmp_path),
            "GOOGLE_APPLICATION_CREDENTIALS": credentials,
            "GCE_METADATA_ROOT": f"127.0.0.1:{closed.getsockname()[1]}",
            "no_proxy": "127.0.0.1",
        }
        lead(monkeypatch, environment)
        for source in ("gs://bucket/photos", "list.txt"):
            assert classify(source, "--out", "a.jsonl") == 1
            (error,) = capsys.readouterr().err.splitlines()
            assert error.startswith("error: gs://bucket/photos: Google gives no access to it (")
            assert "error_info" not in error
            assert "; let GOOGLE_APPLICATION_CREDENTIALS name a file of credentials, or run gcloud auth" in error


def wait_until_asked(server: socket.socket, about: bytes) -> socket.socket:
    """Answer requests as for a file, until one has a text in its first line. Return that one's connection."""
    body = b'{"kind": "storage#object", "bucket": "bucket", "name": "a.png", "size": "9", "generation": "1"}'
    while True:
        connection = server.accept()[0]
        connection.settimeout(120)
        if about in connection.recv(65536).partition(b"\r\n")[0]:
            return connection
        with connection:
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )


@pytest.mark.parametrize(
    ("source", "about"), [("gs://bucket/photos", b"/o/photos"), ("list.txt", b"alt=media")], ids=["listed", "read"]
)
def test_ctrl_c_ends_a_command_that_waits_for_a_silent_object_store(tiny, tmp_path, source, about):
    (tmp_path / "list.txt").write_text("gs://bucket/a.png\ngs://bucket/b.png\n")
    command = [sys.executable, "-m", "sgn_serve.classify", "--model", str(tiny), "--decoders", "1", "--threads", "1"]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(120)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {
            **os.environ,
            "STORAGE_EMULATOR_HOST": endpoint,
            "no_proxy": "127.0.0.1",
            "PYTHONPATH": os.getcwd(),
        }
        with subprocess.Popen(
            [*command, source, "--out", "a.jsonl"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                with wait_until_asked(silent, about):  # and nobody answers
                    process.send_signal(signal.SIGINT)
                    _, told = process.communicate(timeout=60)  # pyarrow itself waits longer
            finally:
                process.kill()
    assert process.returncode == 130
    assert told.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in told
