"""Hostile files: each follows from its recipe, the parts of a file are the file, and the corpus keeps what costs."""

import io
from random import Random

import pytest
from PIL import Image

from benchmarks.errors import BenchmarkError
from release.hostile.bombs import BOMBS
from release.hostile.corpus import COSTLY, Corpus, Kept, unpack
from release.hostile.fuzz import trim_list
from release.hostile.mutators import LARGEST_BYTES, MUTATORS, mutate
from release.hostile.named import NAMED
from release.hostile.recipes import MOST_STEPS, Recipe, digest, from_bomb, from_seed
from release.hostile.seeds import FORMATS, seeds
from release.hostile.structures import STRUCTURES


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_parts_of_a_file_are_the_file_however_damaged_it_is(file_format):
    structure, small = STRUCTURES[file_format], seeds(file_format)
    random = Random(0)
    for data in small:
        assert b"".join(structure.split(data)) == data
        assert structure.finish(data) == data
        for name in MUTATORS:
            changed = mutate(name, random.randrange(1 << 32), data, file_format, random.choice(small))
            assert b"".join(structure.split(changed)) == changed
            assert all(field.at + field.size <= len(changed) for field in structure.fields(changed))
            assert len(changed) <= LARGEST_BYTES


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_has_an_ordinary_picture_whose_size_is_found(file_format):
    if not seeds(file_format):
        pytest.skip("its encoder is not installed")
    data = seeds(file_format)[0]
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        size = set(picture.size)
    sides = {
        int.from_bytes(data[field.at :][: field.size], "little" if field.order == "<" else "big")
        for field in STRUCTURES[file_format].fields(data)
        if field.name and field.order != "text"
    }
    if file_format == "HEIF":
        size = {64}  # its encoder makes whole blocks, and a box that cuts them
    if file_format not in ("PPM", "WEBP"):  # WebP counts from 0, or shares bytes; a portable pixmap has digits
        assert size <= sides


@pytest.mark.thorough
@pytest.mark.parametrize(
    "file_format",
    # HEIF's encoder takes as long as all the others together.
    [pytest.param(name, marks=pytest.mark.thorough if name == "HEIF" else ()) for name in FORMATS],
)
def test_a_file_follows_from_its_recipe(file_format):
    if not seeds(file_format):
        pytest.skip("its encoder is not installed")
    random = Random(1)
    for make in (*[from_seed] * 10, from_bomb):
        recipe = make(file_format, random)
        read = Recipe.parse(str(recipe))
        assert read == recipe
        assert read.build() == recipe.build()
    assert len({from_seed(file_format, random).build() for _ in range(20)}) > 15
    assert len(recipe.changed(random, 100).changed(random, 100).steps) <= MOST_STEPS


@pytest.mark.parametrize(
    "line", ["", "PNG", "XYZ seed 1", "PNG seed", "PNG bomb seed 1", "PNG seed 1, nothing 2", "PNG seed 1, flip_bits x"]
)
def test_what_is_no_recipe_is_refused(line):
    with pytest.raises(ValueError, match="no recipe of a file"):
        Recipe.parse(line)


@pytest.mark.parametrize(
    ("file_format", "bomb"),
    [
        pytest.param(file_format, name, marks=pytest.mark.thorough if file_format == "HEIF" else ())
        for file_format, bombs in BOMBS.items()
        for name in bombs
    ],
)
def test_constructed_files_are_no_larger_than_a_server_takes(file_format, bomb):
    if not seeds(file_format):
        pytest.skip("its encoder is not installed")
    sizes = [len(Recipe(file_format, f"bomb {bomb} {number}").build()) for number in range(3)]
    assert all(0 < size <= LARGEST_BYTES for size in sizes)


def test_named_inputs_are_small():
    assert len({named.name for named in NAMED}) == len(NAMED)
    for named in NAMED:
        assert 0 < len(named.make()) < LARGEST_BYTES / 4


def test_the_corpus_keeps_what_costs_most_and_one_of_each_answer(tmp_path):
    corpus = Corpus(tmp_path / "corpus")
    for number in range(30):
        recipe = Recipe("PNG", f"seed {number % 3}", (("flip_bits", number),))
        data = recipe.build()
        corpus.add(Kept(str(recipe), digest(data), len(data), "200", float(number + 1), 0.1), data)
    odd = Recipe("PNG", "seed 0", (("cut_off", 5),))
    assert corpus.is_new("PNG", "400 damaged_image")
    corpus.add(Kept(str(odd), digest(odd.build()), len(odd.build()), "400 damaged_image"), odd.build())
    assert not corpus.is_new("PNG", "400 damaged_image")
    corpus.save()
    kept = sorted(kept.megabytes for kept in corpus)
    assert kept[-COSTLY:] == [25.0, 26.0, 27.0, 28.0, 29.0, 30.0]
    assert len(kept) <= 2 * COSTLY + 2
    corpus.pack(tmp_path / "corpus.tar.xz")
    unpack(tmp_path / "corpus.tar.xz", tmp_path / "again")
    again = Corpus(tmp_path / "again")
    assert list(again) == list(corpus)
    for one in again:
        assert digest(again.data(one)) == one.digest
    again.pack(tmp_path / "again.tar.xz")
    assert (tmp_path / "again.tar.xz").read_bytes() == (tmp_path / "corpus.tar.xz").read_bytes()


def test_a_damaged_corpus_is_told_of(tmp_path):
    corpus = Corpus(tmp_path)
    recipe = Recipe("GIF", "seed 1")
    corpus.add(Kept(str(recipe), digest(recipe.build()), 1, "200", 1.0, 1.0), recipe.build())
    corpus.save()
    (stored,) = tmp_path.glob("gif-*.bin")
    stored.write_bytes(b"other")
    with pytest.raises(BenchmarkError, match="not the file that the index tells of"):
        Corpus(tmp_path)
    (tmp_path / "index.json").write_text('[{"recipe": "GIF seed 1"}]')
    with pytest.raises(BenchmarkError, match="no index of a corpus"):
        Corpus(tmp_path)
    stored.rename(tmp_path / "no-archive")
    with pytest.raises(BenchmarkError, match="no archive of a corpus"):
        unpack(tmp_path / "no-archive", tmp_path / "again")


def test_a_list_that_was_cut_while_it_was_written_keeps_its_whole_lines(tmp_path):
    lines = [b'["PNG seed 1", "a"]\n', b'["PNG seed 2", "b"]\n']
    (tmp_path / "sent.jsonl").write_bytes(b"".join(lines) + b'["PNG se')
    trim_list(tmp_path, {"PNG": 2})
    assert (tmp_path / "sent.jsonl").read_bytes() == b"".join(lines)
