"""Take out of a PNG file what Pillow would inflate or keep although it is no part of the picture: its texts.

Pillow inflates every text that it meets, keeps it, and gives the picture up where one is large. It takes a picture
whose pixels end too early, and leaves the rest black; that is found here too.
"""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME = 12
"""Bytes of a chunk beside its content: length, name and checksum."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PROFILE = b"iCCP"
_REMOVED = frozenset((*_TEXTS, _PROFILE))
_ORIENTATIONS = (b"XML:com.adobe.xmp", b"Raw profile type exif")
"""Keywords of texts in which Pillow finds an orientation, as if it were EXIF. The first of each is kept."""
_MOST_BYTES = 1 << 18
"""Most bytes of such a text, inflated. An orientation in a larger one is not found."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by colour type."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, and steps across and down of each pass of an interlaced picture."""
_PIECE = 1 << 20
_MOST_PROFILE_BYTES = 1 << 20
"""Most bytes of a colour profile, inflated, that Pillow takes. It is not used, but that there is one counts."""


def without_texts(data: bytes) -> bytes | None:
    """Return a PNG file without its texts, but for those that may hold an orientation. None if it has none.

    A colour profile that is too large becomes an empty one. Nothing is inflated further than _MOST_PROFILE_BYTES.

    Args:
        data: The whole file.
    """
    if not any(name in _REMOVED for name, _, _ in chunks(data)):
        return None
    kept, seen = [SIGNATURE], set()
    for name, start, end in chunks(data):
        content = data[start + 8 : end - 4] if name in _REMOVED else b""
        key = _PROFILE if name == _PROFILE else content.partition(b"\0")[0]
        if name in _TEXTS and (key not in _ORIENTATIONS or key in seen or not _is_small(name, content)):
            continue
        if name == _PROFILE and key in seen:
            continue  # a second profile is an error that readers pass over
        if name in _REMOVED:
            seen.add(key)
        if name == _PROFILE and _inflates_beyond(content.partition(b"\0")[2][1:], _MOST_PROFILE_BYTES):
            kept.append(_chunk(_PROFILE, b"none\0\0" + zlib.compress(b"")))
        else:
            kept.append(data[start:end])
    return b"".join(kept)


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of each chunk. The last one has no name: all from IEND or a broken chunk on.

    Args:
        data: The file, or its first bytes.
    """
    at = len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">L", data, at) if at + _FRAME <= len(data) else (0,)
        name, end = data[at + 4 : at + 8], at + _FRAME + length
        if at + _FRAME > len(data) or end > len(data) or name == b"IEND":
            yield b"", at, len(data)
            return
        yield name, at, end
        at = end


def lacks_pixels(data: bytes) -> bool:
    """Return whether a PNG file holds fewer pixels than its header says. No more than a megabyte is kept.

    Args:
        data: The whole file.
    """
    wanted, inflater, inflated = 0, zlib.decompressobj(), 0
    for name, start, end in chunks(data):
        if name == b"IHDR":
            wanted = _bytes_of_pixels(data[start + 8 : end - 4])
        elif name == b"IDAT" or (not name and data[start + 4 : start + 8] == b"IDAT"):
            (length,) = struct.unpack_from(">L", data, start)
            packed = data[start + 8 : min(start + 8 + length, end)]  # the file may end within its last chunk
            while packed and inflated < wanted and not inflater.eof:
                inflated += len(inflater.decompress(packed, _PIECE))
                packed = inflater.unconsumed_tail
    return inflated < wanted


def _bytes_of_pixels(header: bytes) -> int:
    """Return how many bytes the pixels have before they are compressed, with the filter's byte of each row."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">LLBBBBB", header)
    bits = depth * _CHANNELS[colour]
    total = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _is_small(name: bytes, content: bytes) -> bool:
    """Return whether a text, inflated, has at most _MOST_BYTES."""
    text = content.partition(b"\0")[2]
    if name == b"zTXt":
        return not _inflates_beyond(text[1:], _MOST_BYTES)
    if name == b"iTXt" and text[:1] == b"\1":
        return not _inflates_beyond(text[2:].split(b"\0", 2)[-1], _MOST_BYTES)
    return len(text) <= _MOST_BYTES


def _inflates_beyond(packed: bytes, size: int) -> bool:
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed, size)
    except zlib.error:
        return False  # Pillow passes it over
    return bool(inflater.unconsumed_tail)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))
