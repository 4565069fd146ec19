"""Keep the files that cost a server the most, and one file for every kind of answer. They are mutated further.

This is how a fuzzer that sees no code coverage still finds its way: a new sentence in an error tells of a new branch. A
file that costs more than all before it leads to one that costs more still.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from benchmarks.errors import BenchmarkError
from release.hostile.recipes import FILE, Recipe, digest
from sgn_serve.common.error_text import one_line
from training.common.files import write_atomically

INDEX = "index.json"
COSTLY = 6
"""Files of a format that are kept for their memory, and as many for their time."""
ANSWERS = 24
"""Files of a format that are kept for their answers."""
LARGEST_STORED = 100_000
"""Bytes of a stored file. A larger one is kept as its recipe alone."""
_NAME = re.compile(r"index\.json|[a-z0-9]+-[0-9a-f]{16}\.bin")


@dataclass(frozen=True)
class Kept:
    """A file of the corpus.

    Attributes:
        recipe: How it is made.
        digest: The first digits of its SHA-256.
        size: Its bytes.
        answer: Status, code and sentence of the answer, without numbers.
        megabytes: Memory that the server took for it alone, beyond what it had before. 0 where it was not measured.
        seconds: How long it alone took to be answered. 0 where it was not measured.
    """

    recipe: str
    digest: str
    size: int
    answer: str
    megabytes: float = 0.0
    seconds: float = 0.0

    @property
    def file_format(self) -> str:
        """The format, by Pillow's name."""
        return Recipe.parse(self.recipe).file_format


class Corpus:
    """The kept files, in memory and in a folder.

    Args:
        folder: Where they are kept. What is there already is read.

    Raises:
        BenchmarkError: The folder holds a damaged index or file.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, bytes] = {}
        self.kept: dict[str, list[Kept]] = {}
        self._unsaved: dict[str, bytes] = {}
        if (folder / INDEX).is_file():
            self._read()

    def _read(self) -> None:
        index = self.folder / INDEX
        try:
            entries = [Kept(**entry) for entry in json.loads(index.read_text())]
            formats = [kept.file_format for kept in entries]
        except (TypeError, ValueError) as error:
            raise BenchmarkError(f"{index}: no index of a corpus ({one_line(error)}); restore or delete it") from None
        for kept, file_format in zip(entries, formats, strict=True):
            stored = self._place(kept)
            if stored.is_file():
                data = stored.read_bytes()
                if digest(data) != kept.digest:
                    raise BenchmarkError(f"{stored}: not the file that the index tells of; restore or delete it")
                self.files[kept.digest] = data
            self.kept.setdefault(file_format, []).append(kept)

    def _place(self, kept: Kept) -> Path:
        return self.folder / f"{kept.file_format.lower()}-{kept.digest}.bin"

    def __iter__(self) -> Iterator[Kept]:
        """Iterate over all that is kept."""
        return (kept for of_format in self.kept.values() for kept in of_format)

    def is_new(self, file_format: str, answer: str) -> bool:
        """Return whether no kept file of a format had this answer, and there is room for one."""
        answers = {kept.answer for kept in self.kept.get(file_format, [])}
        return answer not in answers and len(answers) < ANSWERS

    def add(self, kept: Kept, data: bytes) -> None:
        """Keep a file, in place of those that cost less and have no answer of their own."""
        of_format = [one for one in self.kept.get(kept.file_format, []) if one.digest != kept.digest] + [kept]
        first: dict[str, Kept] = {}
        for one in of_format:
            first.setdefault(one.answer, one)
        chosen = {one.digest for one in first.values()}
        chosen |= {one.digest for one in sorted(of_format, key=lambda one: -one.megabytes)[:COSTLY] if one.megabytes}
        chosen |= {one.digest for one in sorted(of_format, key=lambda one: -one.seconds)[:COSTLY] if one.seconds}
        self.kept[kept.file_format] = [one for one in of_format if one.digest in chosen]
        self.files[kept.digest] = self._unsaved[kept.digest] = data

    def data(self, kept: Kept) -> bytes:
        """Return a kept file."""
        found = self.files.get(kept.digest)
        return Recipe.parse(kept.recipe).build(self.files) if found is None else found

    def parent(self, file_format: str, costly: bool, random: Random) -> Recipe | None:
        """Return the recipe of a kept file to mutate further. None where none is kept.

        Args:
            file_format: Pillow's name of the format.
            costly: Whether it was kept for what it costs; otherwise it was kept for its answer.
            random: Chooses one.
        """
        found = [kept for kept in self.kept.get(file_format, []) if bool(kept.seconds) == costly]
        if not found:
            return None
        kept = random.choice(found)
        recipe = Recipe.parse(kept.recipe)
        if recipe.steps and kept.digest in self.files and digest(recipe.build(self.files)) != kept.digest:
            return Recipe(file_format, f"{FILE} {kept.digest}")  # made by other versions of the encoders
        return recipe

    def save(self) -> None:
        """Write the index, and the files that are new in it. Files that are no longer kept are removed."""
        entries = list(self)
        for kept in entries:
            data = self._unsaved.pop(kept.digest, None)
            if data is not None and len(data) <= LARGEST_STORED:
                write_atomically(self._place(kept), data)
        places = {self._place(kept).name for kept in entries}
        for path in self.folder.glob("*-*.bin"):
            if path.name not in places:
                path.unlink()
        self._unsaved.clear()
        text = json.dumps([asdict(kept) for kept in entries], indent=1)
        write_atomically(self.folder / INDEX, (text + "\n").encode())

    def pack(self, target: Path) -> None:
        """Write the corpus as one archive, the same for the same files."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
            names = [INDEX, *sorted(self._place(kept).name for kept in self)]
            for path in (self.folder / name for name in dict.fromkeys(names)):
                if path.is_file():
                    entry = tarfile.TarInfo(path.name)
                    entry.size = path.stat().st_size
                    archive.addfile(entry, io.BytesIO(path.read_bytes()))
        write_atomically(target, packed.getvalue())


def unpack(source: Path, folder: Path) -> None:
    """Write the files of an archive that Corpus.pack wrote into a folder.

    Raises:
        BenchmarkError: It is no such archive.
    """
    try:
        with tarfile.open(source, "r:xz") as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                if not _NAME.fullmatch(entry.name) or content is None:
                    raise BenchmarkError(f"{source}: holds {entry.name!r}, which no corpus does; name another --corpus")
                write_atomically(folder / entry.name, content.read())
    except (tarfile.TarError, EOFError) as error:
        raise BenchmarkError(f"{source}: no archive of a corpus ({error}); name another --corpus") from None
