"""Write rows as Parquet, CSV or JSON lines, and put the parts of a run together."""

import csv
import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sgn_serve.classify.errors import ClassifyError, needs_pyarrow
from sgn_serve.classify.rows import COLUMNS, Row
from sgn_serve.common.error_text import one_line

_JSON = json.JSONEncoder(ensure_ascii=False)
_LONGEST_CELL = 1 << 30
"""A cell of top_k with long labels is longer than the 128 kB that the csv module takes by itself."""
_GROUP_ROWS = 1 << 16
"""Rows of one row group of the Parquet file that is put together."""


class Format(ABC):
    """A kind of output file."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return the content of a part."""

    @abstractmethod
    def join(self, parts: Iterable[Path], target: BinaryIO) -> None:
        """Write the rows of all parts, in their order."""

    @abstractmethod
    def read(self, path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield some columns of a file of answers, row by row. An empty CSV field is None.

        Raises:
            ClassifyError: It is no such file.
        """


class JsonLines(Format):
    """A JSON object a line."""

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return the content of a part."""
        return b"".join(_JSON.encode(row._asdict()).encode() + b"\n" for row in rows)

    def join(self, parts: Iterable[Path], target: BinaryIO) -> None:
        """Write the rows of all parts, in their order."""
        _append(parts, target)

    def read(self, path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield some columns of a file of answers, row by row."""
        try:
            with path.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    row = json.loads(line)
                    yield tuple(row[column] for column in columns)
        except (ValueError, KeyError, TypeError) as error:
            raise _no_answers(path, error) from None


class Csv(Format):
    """CSV: a header, and one line for each row. None is an empty field, and top_k is JSON."""

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return the content of a part. The header is in none of them."""
        return _csv_lines(
            row._replace(top_k=None if row.top_k is None else _JSON.encode(row.top_k))  # type: ignore[arg-type]
            for row in rows
        )

    def join(self, parts: Iterable[Path], target: BinaryIO) -> None:
        """Write the header, and the rows of all parts, in their order."""
        target.write(_csv_lines([COLUMNS]))
        _append(parts, target)

    def read(self, path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield some columns of a file of answers, row by row. Numbers are texts here."""
        csv.field_size_limit(_LONGEST_CELL)
        try:
            with path.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    yield tuple(row[column] or None for column in columns)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise _no_answers(path, error) from None


class Parquet(Format):
    """Apache Parquet, by pyarrow. The parts are Arrow files: writing and reading these takes a tenth of the time."""

    def encode(self, rows: Sequence[Row]) -> bytes:
        """Return the content of a part."""
        import pyarrow.ipc

        columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
        schema = _schema()
        arrays = [pyarrow.array(list(column), type=field.type) for column, field in zip(columns, schema, strict=True)]
        content = pyarrow.BufferOutputStream()
        options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
        with pyarrow.ipc.new_file(content, schema, options=options) as writer:
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
        return bytes(content.getvalue())

    def join(self, parts: Iterable[Path], target: BinaryIO) -> None:
        """Write the rows of all parts, in their order, in row groups of a good size.

        Raises:
            ClassifyError: A part is damaged.
        """
        import pyarrow
        import pyarrow.parquet

        with pyarrow.parquet.ParquetWriter(target, _schema()) as writer:
            gathered: list[Any] = []
            for part in parts:
                gathered.append(_rows_of_part(part))
                if sum(table.num_rows for table in gathered) >= _GROUP_ROWS:
                    writer.write_table(pyarrow.concat_tables(gathered))
                    gathered = []
            if gathered:
                writer.write_table(pyarrow.concat_tables(gathered))

    def read(self, path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield some columns of a file of answers, row by row."""
        require_pyarrow(path)
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=list(columns)):
                    yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
        except (pyarrow.ArrowException, KeyError) as error:
            raise _no_answers(path, error) from None


FORMATS: dict[str, Format] = {".parquet": Parquet(), ".csv": Csv(), ".jsonl": JsonLines()}
"""The formats, by the ending of the file's name."""


def format_of(path: Path) -> Format:
    """Return the format that a file's name asks for.

    Raises:
        ClassifyError: It asks for none, or for one that needs a package which is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ClassifyError(f"{path}: the name must end in {', '.join(FORMATS)}")
    if suffix == ".parquet":
        require_pyarrow(path)
    return FORMATS[suffix]


def require_pyarrow(path: Path) -> None:
    """Check that pyarrow is there.

    Raises:
        ClassifyError: It is not.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise needs_pyarrow(str(path)) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    unfinished = path.with_name(path.name + ".unfinished")
    with naming(unfinished), unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _schema() -> Any:
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    one = pyarrow.struct([("label", text), ("index", pyarrow.int64()), ("probability", number)])
    kinds = {"index": pyarrow.int64(), "probability": number, "disagreement": number, "top_k": pyarrow.list_(one)}
    return pyarrow.schema([(name, kinds.get(name, text)) for name in COLUMNS])


def _rows_of_part(part: Path) -> Any:
    import pyarrow.ipc

    try:
        with pyarrow.OSFile(str(part)) as content, pyarrow.ipc.open_file(content) as reader:
            table = reader.read_all()
        table.validate(full=True)
        if not table.schema.equals(_schema()):
            raise pyarrow.ArrowInvalid("other columns")
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, and not pyarrow's own
            raise
        raise ClassifyError(
            f"{part}: this part of the unfinished run is damaged ({one_line(error)}); remove it, and --resume makes "
            "it again with all behind it"
        ) from None
    return table


def _append(parts: Iterable[Path], target: BinaryIO) -> None:
    for part in parts:
        with part.open("rb") as source:
            shutil.copyfileobj(source, target)


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    # With this line end, the writer quotes names that contain \r or \n.
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _no_answers(path: Path, error: Exception) -> ClassifyError:
    return ClassifyError(
        f"{path}: these are no answers of sgn classify ({type(error).__name__}: {one_line(error)}); name its output"
    )
