"""Reading a column of a Parquet file in a confined process: what a hostile or damaged file costs."""

import errno
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from sgn_serve.classify import table_connection, table_messages, table_process
from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.items import Item
from sgn_serve.classify.reading import Reader, Unread
from sgn_serve.classify.table_connection import TableProcess
from sgn_serve.classify.table_process import Refused, describe
from sgn_serve.classify.tables import CellTooLarge, CellUnreadable, TableReader, TableUnreadable, table_items
from sgn_serve.process import bare_program

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
    monkeypatch.setattr(table_connection, "MEMORY", 100 * MIB)
    bomb = [b"\0" * (8 * MIB)] * 16  # together 128 MiB, and one of them in the file
    cells = [*bomb, b"first", b"\0" * (120 * MIB), *[b"."] * 14, b"last"]
    path = write(tmp_path / "t", cells, row_group_size=16, compression="zstd")
    assert os.path.getsize(path) < MIB
    found = contents(reader_of(path), range(33))
    assert found[:16] + found[32:] == [8 * MIB] * 16 + [b"last"]
    # The whole group is lost with it, for its contents are in one page.
    assert all("damaged from row 16 on (" in str(text) and "MiB of memory)" in str(text) for text in found[16:32])


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
    read = TableProcess.read

    def crash(process, group, wanted):
        answer = read(process, group, wanted)
        if any(cell == b"E" for cell in answer[1]):
            os.kill(process._program.pid, number)
            process._program.wait()
            return read(process, group, wanted)
        return answer

    monkeypatch.setattr(TableProcess, "read", crash)
    found = contents(reader_of(path), range(9))
    assert found[:4] + found[6:] == cells[:4] + cells[6:]
    assert all(
        str(text).startswith("the table is damaged from row 4 on (") and reason in str(text) for text in found[4:6]
    )


@pytest.mark.parametrize("when", ["open", "read"])
def test_a_process_that_is_killed_again_and_again_ends_the_run_and_costs_no_row(tmp_path, monkeypatch, reader_of, when):
    """Somebody kills it, or the kernel for want of memory. The table is not to blame."""
    reader = reader_of(write(tmp_path / "t", [b"a", b"b"], row_group_size=1))
    assert reader.cell(0) == b"a"
    if when == "open":
        reader.close()
    with monkeypatch.context() as patched:
        killed = kill_before(patched, when)
        with pytest.raises(
            ClassifyError, match=r"t: it cannot be read now \(its reader was killed, perhaps for want of"
        ):
            reader.cell(1)
    assert len(killed) == 3
    assert [reader.cell(0), reader.cell(1)] == [b"a", b"b"]


def kill_before(patched, when: str) -> list[int]:
    """Have every process killed before it is asked, and return a list of them."""
    ask, killed = getattr(TableProcess, when), []

    def kill(process, *given):
        process.kill()
        process._program.wait()
        killed.append(process._program.pid)
        return ask(process, *given)

    patched.setattr(TableProcess, when, kill)
    return killed


def test_a_limit_of_the_shell_is_no_fault_of_the_table(tmp_path, monkeypatch, reader_of):
    path = write(tmp_path / "t", [b"\0" * (40 * MIB)])
    monkeypatch.setattr(table_connection, "MEMORY", 1)
    for limit, size, wanted in ((700, 0, 1029), (3000, 1 << 30, 4096)):
        if size:
            os.truncate(path, size)
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit * MIB, limit * MIB))
        with pytest.raises(ClassifyError, match=rf"\(ulimit -v allows {limit} MiB, and it may take {wanted}\)"):
            reader_of(path).cell(0)


@pytest.mark.parametrize("started", [True, False])
def test_a_wait_can_be_given_up(tmp_path, monkeypatch, started):
    """Also the wait for a process that has not opened its table yet."""
    path = write(tmp_path / "t", [b"a", b"b"], row_group_size=1)
    reader, stopped = Reader(100), threading.Event()
    items = list(table_items(path, None)[1])
    opened = TableProcess.open

    def stop(process):
        os.kill(process._program.pid, signal.SIGSTOP)
        stopped.set()
        return opened(process)

    if started:
        assert reader.read_some(items[:1], 1) == [b"a"]
        assert reader._table is not None
        assert reader._table._process is not None
        os.kill(reader._table._process._program.pid, signal.SIGSTOP)
        stopped.set()
    else:
        monkeypatch.setattr(TableProcess, "open", stop)
    failed = []

    def wait() -> None:
        try:
            reader.read_some(items[1:], 1)
        except ClassifyError as error:
            failed.append(str(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert stopped.wait(60)
    reader.give_up()
    thread.join(60)
    assert not thread.is_alive()
    assert len(failed) == 1
    reader.close()
    with pytest.raises(ClassifyError, match="it was given up"):
        reader.read_some(items[:1], 1)


def test_one_table_at_a_time_has_a_process(tmp_path):
    reader = Reader(100)
    processes = []
    for number in range(3):
        _, items = table_items(write(tmp_path / str(number), [bytes([number + 65])]), None)
        assert reader.read_some(list(items), 1) == [bytes([number + 65])]
        assert reader._table is not None
        assert reader._table._process is not None
        processes.append(reader._table._process._program)
    assert [process.poll() is None for process in processes] == [False, False, True]
    reader.close()
    assert processes[-1].poll() is not None


def test_a_table_that_cannot_be_opened_starts_no_process_for_each_row(tmp_path, monkeypatch):
    path = write(tmp_path / "t", [b"a"] * 3)
    items = list(table_items(path, None)[1])
    Path(os.fsdecode(path)).write_bytes(b"overwritten")
    started = []
    start = table_connection._start_program

    def count(*given):
        started.append(given)
        return start(*given)

    monkeypatch.setattr(table_connection, "_start_program", count)
    reader = Reader(100)
    assert {error.code for error in reader.read_some(items, 9)} == {"unreadable_file"}  # type: ignore[union-attr]
    assert len(started) == 1


@pytest.mark.parametrize("what", ["open", "socketpair"])
def test_what_the_system_lacks_is_no_fault_of_the_table(tmp_path, monkeypatch, reader_of, what):
    path = write(tmp_path / "t", [b"a"])

    def fail(*given):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        if what == "open":
            patched.setattr(os, "open", fail)
        else:
            patched.setattr(socket, "socketpair", fail)
        with pytest.raises(
            ClassifyError, match=r"it cannot be read now \(.*Too many open files\); mend that, and go on"
        ):
            reader_of(path).cell(0)
    assert reader_of(path).cell(0) == b"a"


READY = table_messages.HEAD.pack(0, 0)
NOTHING = b'{"column": "image", "holds": "bytes", "groups": [3]}'
OPENED = READY + table_messages.HEAD.pack(1, len(NOTHING)) + NOTHING


def cells_answer(count: int, *cells: tuple[int, int, bytes]) -> bytes:
    """Return an answer with cells: kind, length and content."""
    parts = [table_messages.COUNT.pack(count)]
    parts += [table_messages.CELL.pack(kind, length) + content for kind, length, content in cells]
    content = b"".join(parts)
    return OPENED + table_messages.HEAD.pack(2, len(content)) + content


def opened(about: object) -> bytes:
    content = json.dumps(about).encode()
    return READY + table_messages.HEAD.pack(1, len(content)) + content


@pytest.mark.parametrize(
    "sent",
    [
        READY + b"\xff" * 100,
        READY + b"\x02" + b"\0" * 8,
        READY + table_messages.HEAD.pack(1, 1 << 62),
        READY + table_messages.HEAD.pack(1, 100_000) + b"[" * 100_000,
        opened({}),
        opened([]),
        opened({"column": ["l"], "holds": "bytes", "groups": [1]}),
        opened({"column": "other", "holds": "bytes", "groups": [1]}),
        opened({"column": "image", "holds": "all", "groups": [1]}),
        opened({"column": "image", "holds": "bytes", "groups": ["x"]}),
        opened({"column": "image", "holds": "bytes", "groups": [-1, 2]}),
        opened({"column": "image", "holds": "bytes", "groups": [10**18]}),
        cells_answer(5),
        cells_answer(0),
        cells_answer(1),
        cells_answer(1, (0, 2, b"a")),
        cells_answer(1, (0, 101, b"a" * 101)),
        cells_answer(1, (2, 5, b"")),
        cells_answer(1, (9, 0, b"")),
        cells_answer(2, (0, 1, b"a")),
        OPENED + table_messages.HEAD.pack(2, 1 << 62),
    ],
    ids=range(21),
)
def test_an_answer_that_makes_no_sense_costs_rows_and_no_run(tmp_path, monkeypatch, reader_of, sent):
    def start(file, far_end):
        program = f"import socket; s = socket.socket(fileno={far_end.fileno()}); s.sendall({sent!r}); s.recv(9)"
        return subprocess.Popen([sys.executable, "-I", "-c", program], pass_fds=[far_end.fileno()])

    monkeypatch.setattr(table_connection, "_start_program", start)
    path = write(tmp_path / "t", [b"a"] * 3)
    (error,) = Reader(100).read_some([Item("t:0", table=path, column="image")], 1)
    assert isinstance(error, Unread)
    if sent.startswith(OPENED):
        assert error.code == "damaged_table"
        assert error.message == "the table is damaged from row 0 on (its reader tells nothing that makes sense)"
    else:
        assert error.code == "unreadable_file"
        assert re.search(
            "its reader tells nothing that makes sense|it says that it has 1000000000000000000", error.message
        )


def test_a_column_that_is_no_name_makes_no_sense(tmp_path, monkeypatch):
    sent = opened({"column": "\ud800", "holds": "bytes", "groups": [1]})

    def start(file, far_end):
        program = f"import socket; s = socket.socket(fileno={far_end.fileno()}); s.sendall({sent!r}); s.recv(9)"
        return subprocess.Popen([sys.executable, "-I", "-c", program], pass_fds=[far_end.fileno()])

    monkeypatch.setattr(table_connection, "_start_program", start)
    with pytest.raises(TableUnreadable, match="its reader tells nothing that makes sense"):
        table_items(write(tmp_path / "t", [b"a"]), None)


def test_a_process_that_does_not_start_is_no_fault_of_the_table(tmp_path, monkeypatch, reader_of):
    def start(file, far_end):
        return subprocess.Popen([sys.executable, "-I", "-c", "raise SystemExit(1)"], pass_fds=[far_end.fileno()])

    path = write(tmp_path / "t", [b"a"])
    with monkeypatch.context() as patched:
        patched.setattr(table_connection, "_start_program", start)
        with pytest.raises(
            ClassifyError, match=r"it cannot be read now \(the process that reads tables does not start"
        ):
            reader_of(path).cell(0)
    assert reader_of(path).cell(0) == b"a"


def test_a_table_that_has_another_column_now_costs_its_rows(tmp_path):
    path = write(tmp_path / "t", [b"a", b"b"])
    items = list(table_items(path, None)[1])
    pyarrow.parquet.write_table(pyarrow.table({"x": [1], "y": [2]}), tmp_path / "t")
    found = Reader(100).read_some(items, 9)
    assert [one.code for one in found if isinstance(one, Unread)] == ["unreadable_file"] * 2


def test_a_run_that_begins_anywhere_gives_the_rows_of_a_whole_one(tmp_path, reader_of):
    """Where a run was interrupted changes no row, also behind a damaged page."""
    cells = [bytes([65 + row]) * 40 for row in range(40)]
    path = write(
        tmp_path / "t",
        cells,
        row_group_size=25,
        use_dictionary=False,
        compression="none",
        data_page_size=200,
        write_batch_size=5,
        write_page_checksum=True,
    )
    content = bytearray(Path(os.fsdecode(path)).read_bytes())
    content[content.index(cells[12]) + 3] ^= 0xFF
    Path(os.fsdecode(path)).write_bytes(content)
    whole = contents(reader_of(path), range(40))
    lost = [row for row, cell in enumerate(whole) if cell != cells[row]]
    assert lost == list(range(10, 25))
    for begin in (3, 10, 11, 13, 24, 26):
        assert contents(reader_of(path), range(begin, 40)) == whole[begin:]


def test_what_a_process_says_is_short_and_printable(tmp_path, monkeypatch):
    text = ("\x1b[31m" + "x" * 5000).encode()

    def start(file, far_end):
        sent = READY + table_messages.HEAD.pack(4, len(text)) + text
        program = f"import socket; socket.socket(fileno={far_end.fileno()}).sendall({sent!r})"
        return subprocess.Popen([sys.executable, "-I", "-c", program], pass_fds=[far_end.fileno()])

    monkeypatch.setattr(table_connection, "_start_program", start)
    with pytest.raises(TableUnreadable) as raised:
        table_items(write(tmp_path / "t", [b"a"]), None)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 4200 + len(str(tmp_path))


def test_a_record_is_not_taken_for_a_column_with_a_dot(tmp_path, reader_of):
    table = pyarrow.table({"image": [{"bytes": b"record", "path": "x"}], "image.bytes": [b"flat"]})
    pyarrow.parquet.write_table(table, tmp_path / "t")
    path = os.fsencode(tmp_path / "t")
    reader = reader_of(path)
    assert reader.cell(0) == b"record"
    reader = TableReader(path, "image.bytes", 100)
    assert reader.cell(0) == b"flat"
    reader.close()


def test_reading_takes_no_longer_than_its_processor_time(tmp_path, monkeypatch, reader_of):
    source = Path(table_process.__file__).read_text()
    (tmp_path / "slow").mkdir()
    looping = source.replace("batch = next(self._batches, None)", "while True: pass")
    assert looping != source
    (tmp_path / "slow" / "looping.py").write_text(looping.replace("CPU_SECONDS)", "0.2)"))
    start = bare_program.start_bare

    def start_looping(module, *given, **options):
        monkeypatch.syspath_prepend(tmp_path / "slow")
        return start("looping", *given, **options)

    monkeypatch.setattr(table_connection, "start_bare", start_looping)
    found = contents(reader_of(write(tmp_path / "t", [b"a"])), range(1))
    assert found == ["the table is damaged from row 0 on (reading it takes more than 60 s)"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has a filter of system calls")
def test_the_process_is_confined_and_knows_no_secret(tmp_path, monkeypatch, reader_of):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    reader = reader_of(write(tmp_path / "t", [b"a"]))
    assert reader.cell(0) == b"a"
    assert reader._process is not None
    folder = Path("/proc") / str(reader._process._program.pid)
    assert "Seccomp:\t2" in (folder / "status").read_text()
    limits = {line[:26].strip(): line[26:].split()[0] for line in (folder / "limits").read_text().splitlines()}
    assert limits["Max open files"] == "0"
    assert limits["Max address space"] != "unlimited"
    assert (folder / "oom_score_adj").read_text().strip() == "1000"
    assert b"a-secret" not in (folder / "environ").read_bytes()
    assert len(list((folder / "fd").iterdir())) == 4  # the table, two of /dev/null, and the socket
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(reader._process._program.pid, number)
    assert reader._process._program.poll() is None


def test_row_groups_that_have_other_rows_than_the_table_are_told():
    groups = SimpleNamespace(num_row_groups=1, num_rows=2, row_group=lambda group: SimpleNamespace(num_rows=1))
    with pytest.raises(Refused, match="it is damaged, for its row groups have other rows than it has"):
        describe(SimpleNamespace(schema_arrow=pyarrow.schema([]), metadata=groups), None)
