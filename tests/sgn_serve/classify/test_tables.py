"""Reading a column of a Parquet file in a confined process: what a hostile or damaged file costs."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from sgn_serve.classify import tables
from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.table_process import Refused, describe
from sgn_serve.classify.tables import CellTooLarge, CellUnreadable, TableReader, TableUnreadable, table_items

MIB = 1 << 20


def write(path: Path, cells: Sequence[bytes | None], **options) -> bytes:
    """Write a table with a column of pictures, and return its path."""
    table = pyarrow.table({"image": pyarrow.array(cells, pyarrow.binary())})
    pyarrow.parquet.write_table(table, path, **options)
    return os.fsencode(path)


def contents(reader: TableReader, rows: range) -> list[bytes | int | str | None]:
    """Return what the rows hold: content, the length of what is too large, or why there is none."""
    found: list[bytes | int | str | None] = []
    for row in rows:
        try:
            found.append(reader.cell(row))
        except CellTooLarge as error:
            found.append(error.length)
        except CellUnreadable as error:
            found.append(str(error))
    return found


@pytest.fixture
def reader_of():
    """A function that opens a reader, which is closed in the end."""
    readers = []

    def make(path: bytes, most_bytes: int = 100) -> TableReader:
        readers.append(TableReader(path, "image", most_bytes))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def test_a_small_file_of_gigabytes_costs_the_rows_that_take_too_much(tmp_path, monkeypatch, reader_of):
    monkeypatch.setattr(tables, "_MEMORY", 256 * MIB)
    bomb = [b"\0" * (20 * MIB)] * 16  # together 320 MB, and one of them in the file
    cells = [*bomb, b"first", b"\0" * (300 * MIB), *[b"."] * 14, b"last"]
    path = write(tmp_path / "t", cells, row_group_size=16, compression="zstd")
    assert os.path.getsize(path) < MIB
    found = contents(reader_of(path), range(33))
    assert found[:16] + found[32:] == [20 * MIB] * 16 + [b"last"]
    # The whole group is lost with it, for its contents are in one page.
    assert all("damaged from row 16 on (" in str(text) and "MB of memory)" in str(text) for text in found[16:32])


def test_cells_are_read_in_any_order_and_large_ones_are_told(tmp_path, reader_of):
    cells = [bytes([row]) * (1 + row) for row in range(70)]
    path = write(tmp_path / "t", [*cells, None, b"x" * 101], row_group_size=50)
    reader = reader_of(path)
    wanted = [*cells, None, 101]
    assert contents(reader, range(72)) == wanted
    for row in (3, 60, 59, 70, 0, 49, 50, 71):
        assert contents(reader, range(row, row + 1)) == wanted[row : row + 1]
    assert contents(reader, range(72, 73)) == ["the table has 72 rows now"]


def test_a_process_that_crashes_once_costs_no_row(tmp_path, monkeypatch, reader_of):
    cells: list[bytes | None] = [bytes([65 + row]) for row in range(40)]
    path = write(tmp_path / "t", cells, row_group_size=20)
    for number in (signal.SIGSEGV, signal.SIGKILL):
        reader = reader_of(path)
        assert reader.cell(0) == b"A"
        assert reader._process is not None
        os.kill(reader._process._program.pid, number)
        reader._process._program.wait()
        assert contents(reader, range(40)) == cells


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSEGV, "its reader has crashed, or reading it takes more than"),
        (signal.SIGPROF, "takes more than 60 s"),
    ],
)
def test_a_row_that_crashes_its_process_is_lost_with_the_rest_of_its_group(
    tmp_path, monkeypatch, reader_of, number, reason
):
    cells: list[bytes | None] = [bytes([65 + row]) for row in range(9)]
    path = write(tmp_path / "t", cells, row_group_size=6)
    read = tables._Process.read

    def crash(process, group, wanted):
        answer = read(process, group, wanted)
        if any(cell == b"E" for cell in answer[1]):
            os.kill(process._program.pid, number)
            process._program.wait()
            return read(process, group, wanted)
        return answer

    monkeypatch.setattr(tables._Process, "read", crash)
    found = contents(reader_of(path), range(9))
    assert found[:4] + found[6:] == cells[:4] + cells[6:]
    assert all(
        str(text).startswith("the table is damaged from row 4 on (") and reason in str(text) for text in found[4:6]
    )


def test_a_process_that_is_killed_again_and_again_ends_the_run(tmp_path, monkeypatch, reader_of):
    reader = reader_of(write(tmp_path / "t", [b"a"]))
    read = tables._Process.read

    def kill(process, group, wanted):
        process.kill()
        process._program.wait()
        return read(process, group, wanted)

    monkeypatch.setattr(tables._Process, "read", kill)
    with pytest.raises(
        ClassifyError, match=r"the process that reads it was killed 3 times; free memory, and go on with"
    ):
        reader.cell(0)


def test_a_wait_can_be_given_up(tmp_path, reader_of):
    reader = reader_of(write(tmp_path / "t", [b"a"]))
    assert reader._process is not None
    os.kill(reader._process._program.pid, signal.SIGSTOP)
    failed = []

    def wait() -> None:
        with pytest.raises(ClassifyError) as raised:
            reader.cell(0)
        failed.append(str(raised.value))

    thread = threading.Thread(target=wait)
    thread.start()
    reader.give_up()
    thread.join(60)
    assert len(failed) == 1


@pytest.mark.parametrize("sent", [b"", b"\xff" * 100, b"\x02" + b"\0" * 8, b"\x01\x02" + b"\0" * 7 + b"{}"])
def test_a_process_that_makes_no_sense_is_a_table_that_cannot_be_read(tmp_path, monkeypatch, sent):
    def start(file, far_end):
        program = f"import socket; socket.socket(fileno={far_end.fileno()}).sendall({sent!r})"
        return subprocess.Popen([sys.executable, "-I", "-c", program], pass_fds=[far_end.fileno()])

    monkeypatch.setattr(tables, "_start_program", start)
    path = write(tmp_path / "t", [b"a"])
    with pytest.raises(TableUnreadable, match=r"t: it cannot be read as a Parquet file \(its reader (has|tells)"):
        table_items(path, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has a filter of system calls")
def test_the_process_is_confined(tmp_path, reader_of):
    reader = reader_of(write(tmp_path / "t", [b"a"]))
    assert reader.cell(0) == b"a"
    assert reader._process is not None
    folder = Path("/proc") / str(reader._process._program.pid)
    assert "Seccomp:\t2" in (folder / "status").read_text()
    limits = {line[:26].strip(): line[26:].split()[0] for line in (folder / "limits").read_text().splitlines()}
    assert limits["Max open files"] == "0"
    assert limits["Max address space"] != "unlimited"


def test_row_groups_that_have_other_rows_than_the_table_are_told():
    groups = SimpleNamespace(num_row_groups=1, num_rows=2, row_group=lambda group: SimpleNamespace(num_rows=1))
    with pytest.raises(Refused, match="it is damaged, for its row groups have other rows than it has"):
        describe(SimpleNamespace(schema_arrow=pyarrow.schema([]), metadata=groups), None)
