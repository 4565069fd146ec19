"""Find the parts and the number fields of picture files, so that a mutator can change them and keep the rest valid.

A random byte seldom gets past a checksum, and a random size field seldom names a size that is just allowed.
Parsers here never fail: what does not fit the format is one part without fields.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

WIDTH, HEIGHT = "width", "height"
TEXT = "text"
_MOST_PARTS = 500
"""Parts that a file is cut into, at most. The rest is one more part: a file may have a million of them."""


@dataclass(frozen=True)
class Field:
    """A number in a file.

    Attributes:
        at: Its first byte.
        size: Its bytes.
        order: "<" little-endian, ">" big-endian, "text" decimal digits.
        name: WIDTH or HEIGHT for a side of the picture or of a frame. Empty for every other number.
    """

    at: int
    size: int
    order: str
    name: str = ""

    def write(self, data: bytes, value: int) -> bytes:
        """Return the file with another number in this field. A number too large loses its upper bits."""
        if self.order == TEXT:
            digits = str(value).encode()
        else:
            digits = (value % (1 << 8 * self.size)).to_bytes(self.size, "little" if self.order == "<" else "big")
        return data[: self.at] + digits + data[self.at + self.size :]


def _same(data: bytes) -> bytes:
    return data


@dataclass(frozen=True)
class Structure:
    """Facts about a format that a mutator needs.

    Attributes:
        split: Cuts a file into parts. Joined, they are the file again.
        fields: Finds its numbers.
        mend: Makes a changed part's length and checksum right.
        finish: Makes a changed file's lengths and checksums right.
    """

    split: Callable[[bytes], list[bytes]]
    fields: Callable[[bytes], list[Field]]
    mend: Callable[[bytes], bytes] = _same
    finish: Callable[[bytes], bytes] = _same


def _numbers(start: int, pattern: str, order: str, names: dict[int, str] | None = None) -> list[Field]:
    """Return consecutive fields. The pattern has a digit, the bytes, for each."""
    found, at = [], start
    for place, size in enumerate(map(int, pattern)):
        found.append(Field(at, size, order, (names or {}).get(place, "")))
        at += size
    return found


def _within(data: bytes, fields: list[Field]) -> list[Field]:
    return [field for field in fields if field.at + field.size <= len(data)]


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDES = {0: WIDTH, 1: HEIGHT}


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png_split(data: bytes) -> list[bytes]:
    parts, at = [data[:8]], 8
    while at + 12 <= len(data) and len(parts) < _MOST_PARTS:
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        if end > len(data):
            break
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]] if at < len(data) else parts


def _png_mend(part: bytes) -> bytes:
    if len(part) < 12 or part.startswith(PNG_SIGNATURE):
        return part
    return png_chunk(part[4:8], part[8:-4])


def _png_finish(data: bytes) -> bytes:
    whole = [len(part) >= 12 and struct.unpack_from(">I", part)[0] + 12 == len(part) for part in _png_split(data)]
    return b"".join(
        part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4])) if number and whole[number] else part
        for number, part in enumerate(_png_split(data))
    )


def _png_fields(data: bytes) -> list[Field]:
    fields, at = [], 0
    for part in _png_split(data):
        name = part[4:8]
        if at:
            fields.append(Field(at, 4, ">"))
        if name == b"IHDR":
            fields += _numbers(at + 8, "4411111", ">", SIDES)
        elif name == b"fcTL":
            fields += _numbers(at + 8, "4444422", ">", {1: WIDTH, 2: HEIGHT})
        elif name in (b"acTL", b"pHYs", b"gAMA"):
            fields += _numbers(at + 8, "44"[: len(part) // 4 - 3], ">")
        at += len(part)
    return _within(data, fields)


_BARE = {0x01, *range(0xD0, 0xDA)}
"""Markers of a JPEG without a length."""


def _jpeg_split(data: bytes) -> list[bytes]:
    parts: list[bytes] = []
    at = 0
    while at + 4 <= len(data) and data[at] == 0xFF and len(parts) < _MOST_PARTS:
        marker = data[at + 1]
        end = at + 2 if marker in _BARE else at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if marker == 0xDA:  # its compressed data go with it
            following = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL).search(data, end)
            end = following.start() if following else len(data)
        if end > len(data):
            break
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]] if at < len(data) else parts


def _jpeg_mend(part: bytes) -> bytes:
    if len(part) < 4 or part[0] != 0xFF or part[1] in _BARE or part[1] == 0xDA:
        return part
    return part[:2] + struct.pack(">H", min(len(part) - 2, 0xFFFF)) + part[4:]


_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _jpeg_fields(data: bytes) -> list[Field]:
    fields, at = [], 0
    for part in _jpeg_split(data):
        if len(part) >= 4 and part[0] == 0xFF and part[1] not in _BARE:
            fields.append(Field(at + 2, 2, ">"))
            if part[1] in _FRAMES:
                fields += _numbers(at + 4, "122" + "1" * 10, ">", {1: HEIGHT, 2: WIDTH})
            elif part[1] == 0xDA:
                fields += _numbers(at + 4, "1" * 10, ">")
            elif part[1] == 0xDD:
                fields.append(Field(at + 4, 2, ">"))
            elif part[1] == 0xC4:
                fields += _numbers(at + 4, "1" * 17, ">")
        at += len(part)
    return _within(data, fields)


def _sub_blocks(data: bytes, at: int) -> int:
    """Return where a GIF's chain of blocks, which begins at a byte, ends."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _gif_split(data: bytes) -> list[bytes]:
    if len(data) < 13:
        return [data]
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    parts = [data[:at]]
    while at < len(data) and len(parts) < _MOST_PARTS:
        if data[at] == 0x21:
            end = _sub_blocks(data, at + 2)
        elif data[at] == 0x2C and at + 10 < len(data):
            table = 3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0
            end = _sub_blocks(data, at + 11 + table)
        else:
            end = at + 1
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]] if at < len(data) else parts


def _gif_fields(data: bytes) -> list[Field]:
    fields, at = _numbers(6, "22111", "<", SIDES), 0
    for part in _gif_split(data):
        if part.startswith(b"\x21\xf9"):
            fields += _numbers(at + 2, "1121", "<")
        elif part.startswith(b"\x2c") and at:
            fields += _numbers(at + 1, "22221", "<", {2: WIDTH, 3: HEIGHT})
            fields.append(Field(at + 10, 1, "<"))
        at += len(part)
    return _within(data, fields)


def _directories(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield first byte, number of entries and byte order of each directory of a TIFF."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return
    seen: set[int] = set()
    at = struct.unpack_from(order + "I", data, 4)[0]
    while 8 <= at <= len(data) - 6 and at not in seen and len(seen) < 16:
        seen.add(at)
        count = struct.unpack_from(order + "H", data, at)[0]
        if at + 6 + 12 * count > len(data) or count > _MOST_PARTS:
            return
        yield at, count, order
        at = struct.unpack_from(order + "I", data, at + 2 + 12 * count)[0]


def _tiff_split(data: bytes) -> list[bytes]:
    """Cut at the directories and their entries. Removing one moves what offsets point to, as damage does."""
    cuts = {0, len(data)}
    for at, count, _ in _directories(data):
        cuts |= {at, at + 2, *(at + 2 + 12 * (entry + 1) for entry in range(count)), at + 6 + 12 * count}
    places = sorted(cuts)
    return [data[start:end] for start, end in itertools.pairwise(places)]


def _tiff_fields(data: bytes) -> list[Field]:
    fields = [Field(4, 4, {b"II": "<"}.get(data[:2], ">"))]
    for at, count, order in _directories(data):
        fields += [Field(at, 2, order), Field(at + 2 + 12 * count, 4, order)]
        for entry in range(count):
            start = at + 2 + 12 * entry
            tag, kind = struct.unpack_from(order + "HH", data, start)
            name = {256: WIDTH, 257: HEIGHT, 322: WIDTH, 323: HEIGHT}.get(tag, "")
            fields += _numbers(start, "224", order)
            fields.append(Field(start + 8, 2 if kind == 3 else 4, order, name))
    return _within(data, fields)


def _bmp_fields(data: bytes) -> list[Field]:
    return _within(data, _numbers(2, "4224" + "4" + "44" + "22" + "444444", "<", {5: WIDTH, 6: HEIGHT}))


def _bmp_split(data: bytes) -> list[bytes]:
    """Cut behind the headers and into pairs of bytes, which are what run-length codes are made of."""
    start = struct.unpack_from("<I", data, 10)[0] if len(data) >= 14 else 0
    start = min(max(start, 0), len(data))
    step = max(2, (len(data) - start) // 200 * 2)
    return [data[:start], *(data[at : at + step] for at in range(start, len(data), step))]


def _riff_split(data: bytes) -> list[bytes]:
    parts, at = [data[:12]], 12
    while at + 8 <= len(data) and len(parts) < _MOST_PARTS:
        size = struct.unpack_from("<I", data, at + 4)[0]
        end = at + 8 + size + size % 2
        if end > len(data):
            break
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]] if at < len(data) else parts


def _riff_mend(part: bytes) -> bytes:
    if len(part) < 8 or part.startswith(b"RIFF"):
        return part
    return part[:4] + struct.pack("<I", len(part) - 8) + part[8:] + bytes(len(part) % 2)


def _riff_finish(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:] if len(data) > 12 else data


def _riff_fields(data: bytes) -> list[Field]:
    fields, at = [], 0
    for part in _riff_split(data):
        name = part[:4]
        fields.append(Field(at + 4, 4, "<"))
        if name == b"VP8X":
            fields += _numbers(at + 8, "1333", "<", {2: WIDTH, 3: HEIGHT})
        elif name == b"VP8 ":
            fields += _numbers(at + 8, "322" + "1" + "22", "<", {4: WIDTH, 5: HEIGHT})
        elif name == b"VP8L":
            fields += _numbers(at + 8, "14", "<")
        elif name == b"ANMF":
            fields += _numbers(at + 8, "333331", "<", {2: WIDTH, 3: HEIGHT})
        at += len(part)
    return _within(data, fields)


_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
_CONTAINERS |= {b"jp2h": 0}
"""Boxes that hold boxes, and the bytes before those."""


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield first byte, end and name of each box that holds no others, and of the heads of those that do."""
    at, found = start, 0
    while at + 8 <= end and found < _MOST_PARTS:
        found += 1
        size, name = struct.unpack_from(">I4s", data, at)
        size = end - at if size == 0 else size
        if size < 8 or at + size > end:
            return
        if name in _CONTAINERS:
            inner = at + 8 + _CONTAINERS[name]
            yield at, inner, name
            yield from _boxes(data, inner, at + size)
        else:
            yield at, at + size, name
        at += size


def _box_split(data: bytes) -> list[bytes]:
    cuts = {0, len(data)}
    for at, end, _ in _boxes(data, 0, len(data)):
        cuts |= {at, end}
    for at, end in _markers(data):
        cuts |= {at, end}
    places = sorted(cuts)
    return [data[start:end] for start, end in itertools.pairwise(places)]


_NUMBERED = {b"iloc", b"iinf", b"ipma", b"pitm", b"av1C", b"hvcC", b"pixi", b"irot", b"clap", b"stsz", b"stco", b"mvhd"}


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield first byte and end of each marker segment of a JPEG 2000 codestream."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return
    yield at, at + 2
    at += 2
    for _ in range(_MOST_PARTS):
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] == 0xD9:
            return
        size = 0 if data[at + 1] == 0x93 else struct.unpack_from(">H", data, at + 2)[0]
        end = at + 2 + size
        if data[at + 1] == 0x93:  # data of a tile, to the next marker of one
            following = [place for place in (data.find(b"\xff\x90", end), data.find(b"\xff\xd9", end)) if place > 0]
            end = min(following, default=len(data))
        if end > len(data):
            return
        yield at, end
        at = end


def _box_fields(data: bytes) -> list[Field]:
    fields = []
    for at, end, name in _boxes(data, 0, len(data)):
        fields.append(Field(at, 4, ">"))
        if name == b"ispe":
            fields += _numbers(at + 12, "44", ">", SIDES)
        elif name == b"ihdr":
            fields += _numbers(at + 8, "442111", ">", {0: HEIGHT, 1: WIDTH})
        elif name in _NUMBERED:
            fields += [Field(place, 2, ">") for place in range(at + 8, min(end, at + 108) - 1, 2)]
    for at, _ in _markers(data):
        marker = data[at + 1]
        if marker == 0x51:
            fields += _numbers(at + 4, "2" + "4" * 8 + "2" + "111", ">", {1: WIDTH, 2: HEIGHT, 5: WIDTH, 6: HEIGHT})
        elif marker == 0x52:
            fields += _numbers(at + 4, "112" + "1" * 6, ">")
        elif marker == 0x90:
            fields += _numbers(at + 4, "2411", ">")
        elif marker not in (0x4F, 0x93):
            fields.append(Field(at + 2, 2, ">"))
    return _within(data, fields)


def _header_split(head: int) -> Callable[[bytes], list[bytes]]:
    """Return a split of a format without parts: its header, and the rest in up to a hundred pieces."""

    def split(data: bytes) -> list[bytes]:
        step = max(1, (len(data) - head) // 100)
        return [data[:head], *(data[at : at + step] for at in range(head, len(data), step))]

    return split


def _ppm_fields(data: bytes) -> list[Field]:
    found = [match.span() for match in re.finditer(rb"\d+", data[2:80])][:3]
    names = (WIDTH, HEIGHT, "")
    return [Field(start + 2, end - start, TEXT, name) for (start, end), name in zip(found, names, strict=False)]


def _ico_fields(data: bytes) -> list[Field]:
    fields = _numbers(2, "22", "<")
    count = min(struct.unpack_from("<H", data, 4)[0], 8) if len(data) >= 6 else 0
    for entry in range(count):
        at = 6 + 16 * entry
        fields += _numbers(at, "1111" + "22" + "44", "<", SIDES)
        start = struct.unpack_from("<I", data, at + 12)[0] if at + 16 <= len(data) else len(data)
        if data[start : start + 8] == PNG_SIGNATURE:
            fields += _numbers(start + 16, "44", ">", SIDES)
        else:
            fields += _numbers(start, "444" + "22" + "44", "<", {1: WIDTH, 2: HEIGHT})
    return _within(data, fields)


def _ico_split(data: bytes) -> list[bytes]:
    count = min(struct.unpack_from("<H", data, 4)[0], _MOST_PARTS) if len(data) >= 6 else 0
    head = min(6 + 16 * count, len(data))
    return [data[:6], *(data[at : at + 16] for at in range(6, head, 16)), data[head:]]


def _fixed(start: int, pattern: str, order: str, names: dict[int, str]) -> Callable[[bytes], list[Field]]:
    return lambda data: _within(data, _numbers(start, pattern, order, names))


_BOXES = Structure(_box_split, _box_fields)
STRUCTURES = {
    "PNG": Structure(_png_split, _png_fields, _png_mend, _png_finish),
    "JPEG": Structure(_jpeg_split, _jpeg_fields, _jpeg_mend),
    "GIF": Structure(_gif_split, _gif_fields),
    "TIFF": Structure(_tiff_split, _tiff_fields),
    "BMP": Structure(_bmp_split, _bmp_fields),
    "WEBP": Structure(_riff_split, _riff_fields, _riff_mend, _riff_finish),
    "AVIF": _BOXES,
    "HEIF": _BOXES,
    "JPEG2000": _BOXES,
    "PPM": Structure(_header_split(2), _ppm_fields),
    "ICO": Structure(_ico_split, _ico_fields),
    "TGA": Structure(_header_split(18), _fixed(0, "111" + "221" + "2222" + "11", "<", {8: WIDTH, 9: HEIGHT})),
    "QOI": Structure(_header_split(14), _fixed(4, "4411", ">", SIDES)),
    "DDS": Structure(_header_split(128), _fixed(4, "4" * 7 + "44444444", "<", {2: HEIGHT, 3: WIDTH})),
}
"""The structure of each format, by Pillow's name of it."""
