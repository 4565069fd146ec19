"""Read from a TIFF file's directory how its picture is stored, before any decoder is given the file.

Width times height says little about the cost of a TIFF:

- libtiff allocates whole strips or tiles of the size that tags give, however small the picture.
- It decodes all of them in one call that nothing can stop, each from as many bytes as a tag says.
- It loads every tag, and Pillow makes an object of each value of many tags.

libtiff and Pillow ignore different entries of a directory that breaks the rules. What one of them reads says nothing
about the other. A directory is therefore refused where the two would read it differently.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _XMP = 256, 257, 258, 259, 262, 274, 700
_STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_SINGLE = (_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANES, _TILE_WIDTH, _TILE_HEIGHT)
_SEVERAL = (_BITS, _STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES)
_DEPTHS = (32997, 32998)
_BIG = (b"II\x2b\0", b"MM\0\x2b")
_DIRECTORIES = (34665, 34853, 40965)
"""Tags that point to further directories, which Pillow reads too: EXIF, GPS, interoperability."""
_MOST_ENTRIES = 65_535

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Size of a value in bytes, by the number of its type."""
_INTEGERS = {3: "H", 4: "L", 16: "Q"}
_POINTERS = {**_INTEGERS, 13: "L"}
_TEXT = (1, 2, 7)
"""Types whose values Pillow keeps all in one object."""
_RATIONALS = (5, 10)
_NUMBERS_A_RATIONAL = 10
"""One rational takes the memory of this many numbers."""
_MOST_NUMBERS = 300_000

_RAW, _OLD_JPEG, _JPEG, _LZMA, _ZSTD, _WEBP = 1, 6, 7, 34925, 50000, 50001
_COPIES = {_RAW: 0, _JPEG: 3, _LZMA: 2, _ZSTD: 2, _WEBP: 3}
"""Copies of a strip or tile that decoding keeps, by compression; one, if not listed. Pillow reads raw ones in place."""
_YCBCR = 6
_SEPARATE = 2


@dataclass(frozen=True)
class Layout:
    """Storage of the first picture of a TIFF.

    Attributes:
        pixels: Pixels of all strips or tiles, including those beyond the picture's edges.
        blocks: Number of strips or tiles of all colour planes, or the number of offsets given for them if larger.
        encoded_bytes: Sum of their sizes that the file declares. Bytes that several of them share count several times.
            0 without compression.
        memory: Bytes that decoding takes in addition to the picture's own.
    """

    pixels: int
    blocks: int
    encoded_bytes: int
    memory: int


@dataclass(frozen=True)
class _Entry:
    """An entry of a directory.

    Attributes:
        kind: Number of its type.
        count: Number of values.
        data: The values' bytes, None if they lie beyond the end of the file.
    """

    kind: int
    count: int
    data: bytes | None


def is_tiff(start: bytes) -> bool:
    """Return whether a file that starts like this is read as a TIFF, if it is read at all."""
    return start[:4] in (b"II\x2a\0", b"MM\0\x2a", b"II\0\x2a", b"MM\x2a\0", *_BIG)


def read_layout(data: bytes) -> Layout:
    """Read how the first picture of a file is stored.

    Args:
        data: The whole file.

    Raises:
        ValueError: libtiff and Pillow would read the directory differently, or it has more values than a picture needs.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[:4] in _BIG
    if big and order == ">":
        raise ValueError("BigTIFF is read in little-endian order only")  # Pillow would read it as an ordinary TIFF
    try:
        (offset,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
        entries: dict[int, _Entry] = {}
        for tag, entry in _entries(data, offset, order, big):
            _check(tag, entry)
            if entries.setdefault(tag, entry) is not entry and tag in _SINGLE + _SEVERAL:
                raise ValueError(f"tag {tag} occurs twice")
    except struct.error:
        raise ValueError("its directory is cut off") from None
    _check_below(data, entries.items(), order, big)
    return _layout(entries, order)


def _entries(data: bytes, offset: int, order: str, big: bool) -> Iterator[tuple[int, _Entry]]:
    """Yield a directory's tags and entries.

    Raises:
        struct.error: The directory reaches beyond the end of the file.
        ValueError: It has too many entries or values.
    """
    head, entry, inline, pointer = ("Q", "HHQ8s", 8, "Q") if big else ("H", "HHL4s", 4, "L")
    if offset > len(data):
        raise struct.error("it starts beyond the file")  # unpack_from raises another error for the largest numbers
    (entries,) = struct.unpack_from(order + head, data, offset)
    if entries > _MOST_ENTRIES:
        raise ValueError(f"its directory has {entries} entries")
    outside = numbers = 0
    for at in range(entries):
        position = offset + struct.calcsize(order + head) + at * struct.calcsize(order + entry)
        tag, kind, count, value = struct.unpack_from(order + entry, data, position)
        if kind not in _SIZES:
            yield tag, _Entry(kind, count, b"")  # the standard says to ignore unknown types
            continue
        size = count * _SIZES[kind]
        if size > inline:
            (start,) = struct.unpack(order + pointer, value)
            if start + size > len(data):
                yield tag, _Entry(kind, count, None)
                continue
            value = data[start : start + size]
            outside += size
        if kind not in _TEXT:
            numbers += count * (_NUMBERS_A_RATIONAL if kind in _RATIONALS else 1)
        if outside > len(data) or numbers > _MOST_NUMBERS:
            raise ValueError(f"its tags have too many values, tag {tag} {count}")
        yield tag, _Entry(kind, count, value[:size])


def _check(tag: int, entry: _Entry) -> None:
    """Refuse an entry that not all decoders read."""
    if entry.data is None:
        raise ValueError(f"tag {tag} reaches beyond the file")
    if tag in _SINGLE + _SEVERAL and (entry.kind not in _INTEGERS or entry.count < 1):
        raise ValueError(f"tag {tag} has {entry.count} values of type {entry.kind}")
    if tag in _SINGLE and entry.count > 1:
        raise ValueError(f"tag {tag} has {entry.count} values instead of one")
    if tag in _DEPTHS:
        raise ValueError("it is a volume instead of a picture")


def _check_below(data: bytes, entries: Iterable[tuple[int, _Entry]], order: str, big: bool, depth: int = 0) -> None:
    """Refuse directories with too many values that these entries point to. Pillow ignores other damage there."""
    for tag, entry in entries:
        if tag in _DIRECTORIES and depth < 2 and entry.data and entry.count == 1 and entry.kind in _POINTERS:
            (offset,) = struct.unpack(order + _POINTERS[entry.kind], entry.data)
            with suppress(struct.error):
                _check_below(data, _entries(data, offset, order, big), order, big, depth + 1)


def _layout(entries: dict[int, _Entry], order: str) -> Layout:
    def numbers(tag: int, *default: int) -> Sequence[int]:
        if tag not in entries:
            return default
        entry = entries[tag]
        assert entry.data is not None, "it was checked"
        return struct.unpack(f"{order}{entry.count}{_INTEGERS[entry.kind]}", entry.data)

    (width,), (height,) = numbers(_WIDTH, 0), numbers(_HEIGHT, 0)
    tiled = _TILE_WIDTH in entries or _TILE_HEIGHT in entries
    (block_width,) = numbers(_TILE_WIDTH, 0) if tiled else (width,)
    (block_height,) = numbers(_TILE_HEIGHT, 0) if tiled else numbers(_ROWS, height)
    if 0 in (width, height, block_width, block_height):
        raise ValueError("the width or height of its picture, strips or tiles is missing or zero")
    if {_STRIP_OFFSETS, _TILE_OFFSETS} <= entries.keys() or {_STRIP_BYTES, _TILE_BYTES} <= entries.keys():
        raise ValueError("it has strips and tiles")
    if not tiled:
        block_height = min(block_height, height)  # decoders take no more rows of a strip than the picture has
    across, down = ceil(width / block_width), ceil(height / block_height)

    (compression,), (photometric,) = numbers(_COMPRESSION, _RAW), numbers(_PHOTOMETRIC, 0)
    bits, (planes,) = numbers(_BITS, 1), numbers(_PLANES, 1)
    (samples,) = numbers(_SAMPLES, 3 if compression in (_OLD_JPEG, _JPEG) else 1)
    samples = max(samples, len(bits))
    block_bits = max(bits) * samples * _COPIES.get(compression, 1)
    if compression == _RAW and planes == _SEPARATE and samples > 1:
        block_bits = max(bits)  # libtiff reads some of these, a plane at a time
    if (photometric == _YCBCR and compression != _RAW) or compression == _OLD_JPEG:
        block_bits += 32  # libtiff converts them to RGBA
    turned = _is_turned(entries, order)
    return Layout(
        pixels=across * block_width * down * block_height if tiled else width * height,
        blocks=max(
            across * down * (samples if planes == _SEPARATE else 1),
            len(numbers(_STRIP_OFFSETS)),
            len(numbers(_TILE_OFFSETS)),
        ),
        encoded_bytes=0 if compression == _RAW else sum(numbers(_STRIP_BYTES)) + sum(numbers(_TILE_BYTES)),
        memory=block_width * block_height * block_bits // 8 + (width * height * 4 if turned else 0),
    )


def _is_turned(entries: dict[int, _Entry], order: str) -> bool:
    """Return whether Pillow turns the picture into a second one as soon as it is decoded."""
    if _ORIENTATION in entries:
        entry = entries[_ORIENTATION]
        return entry.data != struct.pack(order + _INTEGERS.get(entry.kind, "H"), 1)
    return _XMP in entries and b"Orientation" in (entries[_XMP].data or b"")
