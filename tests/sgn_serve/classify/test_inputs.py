"""The list of inputs: what each kind of source gives, and reading it from any number on."""

import os
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from sgn_serve.classify.errors import ClassifyError
from sgn_serve.classify.inputs import Found, identity_of, read_inputs, write_inputs
from sgn_serve.classify.reading import Reader, Unread


def listed(folder, *sources, column=None, start=0):
    target, found = BytesIO(), Found()
    write_inputs([str(source) for source in sources], column, target, found)
    (folder / "inputs").write_bytes(target.getvalue())
    assert len(list(read_inputs(folder / "inputs", found.tables, 0))) == found.count
    return list(read_inputs(folder / "inputs", found.tables, start))


def test_a_list_has_a_path_a_line_or_ended_by_nul(tmp_path):
    (tmp_path / "lines.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n\r\nb \xff.png\nlast")
    (tmp_path / "nul.txt").write_bytes(b"a\nb.png\0c.png\0")
    assert [item.file for item in listed(tmp_path, tmp_path / "lines.txt")] == [b"a.png", b"b \xff.png", b"last"]
    assert [item.file for item in listed(tmp_path, tmp_path / "nul.txt")] == [b"a\nb.png", b"c.png"]
    many = b"".join(b"%d.png\n" % number for number in range(20_000))  # more than one block
    (tmp_path / "many.txt").write_bytes(many)
    assert [item.name for item in listed(tmp_path, tmp_path / "many.txt", start=19_998)] == ["19998.png", "19999.png"]


def test_a_glob_gives_its_matches_sorted_and_folders_what_is_in_them(tmp_path):
    for name in ("b.png", "a.png", "c.jpg", "x.png/inside.gif"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_bytes(b"")
    found = [os.path.relpath(item.name, tmp_path / "p") for item in listed(tmp_path, tmp_path / "p" / "*.png")]
    assert found == ["a.png", "b.png", "x.png/inside.gif"]
    found = [os.path.relpath(item.name, tmp_path / "p") for item in listed(tmp_path, tmp_path / "p" / "**" / "*.gif")]
    assert found == ["x.png/inside.gif"]


def test_a_table_has_a_column_of_paths(tmp_path):
    table = pyarrow.table({"path": ["a.png", None, "b.png"], "other": ["x", "y", "z"], "n": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    items = listed(tmp_path, tmp_path / "t.parquet")
    assert [item.file for item in items] == [b"a.png", None, b"b.png"]
    (unread,) = Reader(100).read_some(items[1:2], 1)
    assert isinstance(unread, Unread)
    assert (unread.code, unread.message) == ("unreadable_file", "the cell holds no path")
    assert [item.name for item in listed(tmp_path, tmp_path / "t.parquet", column="other")] == ["x", "y", "z"]
    for column, reason in (("m", "no column 'm'; name one with --column: path, other, n"), ("n", "neither paths nor")):
        with pytest.raises(ClassifyError, match=reason):
            listed(tmp_path, tmp_path / "t.parquet", column=column)


def test_a_cell_that_is_not_utf8_is_a_path_like_any_other(tmp_path):
    texts = pyarrow.array([b"a.png", b"b \xff.png", b"c\0", b"x" * (1 << 17), b"d.png"], pyarrow.binary())
    offsets_and_texts = texts.buffers()
    column = pyarrow.StringArray.from_buffers(len(texts), *offsets_and_texts[1:])
    for name, cells in (("plain", column), ("dictionary", column.dictionary_encode())):
        pyarrow.parquet.write_table(pyarrow.table({"path": cells}), tmp_path / f"{name}.parquet")
        items = listed(tmp_path, tmp_path / f"{name}.parquet")
        assert [item.file for item in items] == [b"a.png", b"b \xff.png", None, None, b"d.png"]
        assert items[1].name == r"b \xff.png"
        assert {item.missing for item in items[2:4]} == {"the cell holds no path"}


def test_a_changed_list_or_table_has_another_identity(tmp_path):
    (tmp_path / "a.txt").write_text("a.png\n")
    before = identity_of(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_text("b.png\n")
    assert identity_of(str(tmp_path / "a.txt")) != before
    assert identity_of(str(tmp_path)) == ""
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a"]}), tmp_path / "t.parquet")
    before = identity_of(str(tmp_path / "t.parquet"))
    pyarrow.parquet.write_table(pyarrow.table({"path": ["b"]}), tmp_path / "t.parquet")
    assert identity_of(str(tmp_path / "t.parquet")) != before


def test_reading_stops_once_there_are_enough_bytes(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"x" * 40)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path / str(number)}.png\n" for number in range(4)))
    items = listed(tmp_path, tmp_path / "list.txt")
    reader = Reader(50)
    assert reader.read_some(items, 70) == [b"x" * 40] * 2
    (tmp_path / "0.png").write_bytes(b"x" * 51)
    (too_large,) = reader.read_some(items[:1], 1)
    assert isinstance(too_large, Unread)
    assert too_large.code == "body_too_large"
    assert "SGN_MAX_BYTES" in too_large.message


def test_odd_tables_are_read_or_refused_in_one_line(tmp_path):
    image = pyarrow.array([b"one", b"two"], pyarrow.binary())
    view = tmp_path / "view.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": image.cast(pyarrow.binary_view())}), view)
    assert [item.row for item in listed(tmp_path, view)] == [0, 1]
    double = tmp_path / "double.parquet"
    pyarrow.parquet.write_table(pyarrow.table([image, image], names=["image", "image"]), double)
    with pytest.raises(ClassifyError, match=r"it has several columns 'image'; give each another name"):
        listed(tmp_path, double, column="image")
    with pytest.raises(ClassifyError, match=r"it has several columns 'image'; give each another name"):
        listed(tmp_path, double)


@pytest.mark.parametrize("pattern", ["*.parquet", "*.txt", "t[a-z].lst"])
def test_a_pattern_for_lists_or_tables_is_refused(tmp_path, pattern):
    """Each of them would be a row that says that it is no picture."""
    for name in ("ta.parquet", "tb.txt", "tc.lst"):
        (tmp_path / name).write_text("a.png\n")
    with pytest.raises(ClassifyError, match="a pattern is for pictures; name each list or table"):
        listed(tmp_path, tmp_path / pattern)


def test_a_pattern_that_would_never_end_is_refused(tmp_path):
    (tmp_path / "p" / "q").mkdir(parents=True)
    (tmp_path / "p" / "a.png").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_bytes(b"")
    (tmp_path / "p" / "other").symlink_to(tmp_path / "elsewhere")
    names = [os.path.basename(item.name) for item in listed(tmp_path, tmp_path / "p" / "**" / "*.png")]
    assert names == ["a.png", "b.png"]
    for name in ("up", "upper"):
        (tmp_path / "p" / "q" / name).symlink_to(tmp_path / "p")
    with pytest.raises(ClassifyError, match="leads back to a folder that it is in; name the folder instead of"):
        listed(tmp_path, tmp_path / "p" / "**" / "*.none")


def test_a_list_in_utf16_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a.png\n", encoding="utf-16")
    with pytest.raises(ClassifyError, match="it is text in UTF-16; save it in UTF-8"):
        listed(tmp_path, tmp_path / "a.txt")


def test_a_table_without_columns_says_so(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({}), tmp_path / "t.parquet")
    with pytest.raises(ClassifyError, match="it has no columns; write paths or pictures into one"):
        listed(tmp_path, tmp_path / "t.parquet")


def test_a_run_does_not_find_its_own_files(tmp_path, monkeypatch):
    own = tmp_path / "a.csv.parts"
    for name in ("b.png", "notes.md", "a.csv.parts/inputs", "b.csv.parts/inputs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for source in (tmp_path, tmp_path / "*", tmp_path / "**"):
        target, found = BytesIO(), Found()
        write_inputs([str(source)], None, target, found, own)
        assert ".parts" not in target.getvalue().decode(), source
        assert b"b.png" in target.getvalue()
        if source == tmp_path:
            assert str(found.skipped) == "2 files without the suffix of a picture (inputs, notes.md)"
    monkeypatch.chdir(tmp_path)
    target, found = BytesIO(), Found()
    write_inputs(["*"], None, target, found, Path("a.csv.parts"))
    assert b".parts" not in target.getvalue()
    (tmp_path / "b.csv.parts" / "c.png").write_bytes(b"")  # no run makes it, so that it is the user's folder
    target = BytesIO()
    write_inputs(["**"], None, target, Found(), Path("a.csv.parts"))
    assert b"b.csv.parts/c.png" in target.getvalue()


def test_a_pipe_and_a_device_are_no_inputs(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    reader, writer = os.pipe()
    try:
        for source in (tmp_path / "list.txt", f"/dev/fd/{reader}", "/dev/null", "/dev/stdin"):
            with pytest.raises(
                ClassifyError, match=r": a pipe or a device, .* to a file that ends in \.txt, and name that"
            ):
                listed(tmp_path, source)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_folder_of_tables_is_told(tmp_path):
    """Spark writes a table as such a folder."""
    folder = tmp_path / "my x.parquet"
    folder.mkdir()
    for name in ("part-00000.snappy.parquet", "_SUCCESS"):
        (folder / name).write_bytes(b"")
    (tmp_path / "a.png").write_bytes(b"")
    fix = f"name the files, which a shell does for '{folder}'/*.parquet without quotes, and their column with --column"
    for source in (f"{folder}", f"{folder}/"):
        with pytest.raises(ClassifyError) as raised:
            listed(tmp_path, tmp_path / "a.png", source)
        assert str(raised.value) == f"{source}: no pictures in it, but Parquet files, as Spark writes them; {fix}"
    parted = tmp_path / "parted"
    (parted / "label=cat").mkdir(parents=True)
    (parted / "label=cat" / "part-0.parquet").write_bytes(b"")
    with pytest.raises(ClassifyError, match=r"a shell does for \S+/parted/label=cat'?/\*\.parquet without quotes"):
        listed(tmp_path, parted)
    (folder / "b.png").write_bytes(b"")
    assert [item.name for item in listed(tmp_path, folder)] == [str(folder / "b.png")]
