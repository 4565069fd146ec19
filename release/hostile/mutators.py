"""Change picture files at random: bytes, parts, lengths and sizes. Each change follows from one number.

A mutator takes a file, its format's structure, another file of the format, and a random generator.
"""

from collections.abc import Callable
from random import Random

from release.hostile.structures import STRUCTURES, WIDTH, Field, Structure

LARGEST_BYTES = 10 * 1024 * 1024
"""The most that a server takes by default. Mutators make no larger files, because the server would not read them."""
MAX_PIXELS = 25_000_000
"""The most pixels that a server takes by default. Sizes just below it are the ones that cost the most."""
NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 64, 100, 127, 128, 129, 254, 255, 256, 257, 511, 512, 1000, 1024),
    *(4096, 5000, 5001, 8192, 10_000, 16_383, 16_384, 20_000, 32_767, 32_768, 50_000, 65_500, 65_535, 65_536, 90_000),
    *(900_000, 1 << 20, 12_500_000, 1 << 24, (1 << 24) - 1, MAX_PIXELS - 1, MAX_PIXELS, MAX_PIXELS + 1, 60_000_000),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - 2, (1 << 32) - 8),
)
"""Numbers at which parsers go wrong: ends of integer types, powers of two, and limits of the server."""
SIDES = (1, 2, 3, 5, 16, 64, 100, 500, 1000, 2500, 5000, 16_383, 30_000, 65_500, 65_535, 900_000, 12_500_000)
AREAS = (MAX_PIXELS, MAX_PIXELS - 1, MAX_PIXELS + 1, MAX_PIXELS * 2 // 3, MAX_PIXELS * 2 // 5, 1_000_000, 900_000)

Mutator = Callable[[bytes, Structure, bytes, Random], bytes]


def size_of(random: Random) -> tuple[int, int]:
    """Return a (width, height) whose product is near a limit, of any aspect."""
    area, side = random.choice(AREAS), random.choice(SIDES)
    other = max(1, area // side)
    return (side, other) if random.random() < 0.5 else (other, side)


def flip_bits(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Flip up to eight bits anywhere, or near the beginning."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        changed[_place(data, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Overwrite up to eight bytes anywhere, or near the beginning."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 8)):
        changed[_place(data, random)] = random.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)))
    return bytes(changed)


def set_any_number(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Overwrite two or four bytes anywhere by a number that is hard on parsers."""
    size, order = random.choice((2, 4)), random.choice("<>")
    field = Field(min(_place(data, random), max(len(data) - size, 0)), size, order)
    return field.write(data, random.choice(NUMBERS))


def cut_off(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Leave away the end."""
    return data[: _place(data, random)]


def remove_bytes(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Leave away up to 64 bytes."""
    at = _place(data, random)
    return data[:at] + data[at + random.randint(1, 64) :]


def repeat_bytes(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Write up to 64 bytes several times."""
    at = _place(data, random)
    piece = data[at : at + random.randint(1, 64)]
    return data[:at] + piece * random.choice((1, 2, 10, 1000)) + data[at:]


def set_number(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Overwrite up to three of the format's numbers."""
    for _ in range(random.randint(1, 3)):
        if fields := structure.fields(data):
            data = random.choice(fields).write(data, random.choice(NUMBERS))
    return structure.finish(data)


def set_side(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Overwrite one width or height."""
    sides = [field for field in structure.fields(data) if field.name]
    if not sides:
        return set_number(data, structure, other, random)
    return structure.finish(random.choice(sides).write(data, random.choice((*NUMBERS, *SIDES))))


def set_size(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Overwrite the first widths and heights by those of a picture that is just allowed, or just not."""
    width, height = size_of(random)
    sides = [field for field in structure.fields(data) if field.name][:8]
    for field in sorted(sides, key=lambda field: -field.at):  # the last comes first: digits may become more
        data = field.write(data, width if field.name == WIDTH else height)
    return structure.finish(data)


def remove_part(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Leave away a part."""
    parts = structure.split(data)
    del parts[random.randrange(len(parts))]
    return structure.finish(b"".join(parts))


def repeat_part(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Write a part twice, or thousands of times."""
    parts = structure.split(data)
    at = random.randrange(len(parts))
    times = random.choice((1, 1, 2, 5, 50, 1000, 20_000))
    room = max(1, (LARGEST_BYTES - len(data)) // max(1, len(parts[at])))
    parts[at:at] = [parts[at]] * min(times, room)
    return structure.finish(b"".join(parts))


def move_part(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Write a part in another place."""
    parts = structure.split(data)
    part = parts.pop(random.randrange(len(parts)))
    parts.insert(random.randint(0, len(parts)), part)
    return structure.finish(b"".join(parts))


def damage_part(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Damage a part's bytes, and make its length and its checksum right again."""
    parts = structure.split(data)
    at = random.randrange(len(parts))
    damage = random.choice((flip_bits, set_bytes, set_any_number, remove_bytes, repeat_bytes, cut_off))
    if parts[at]:
        parts[at] = structure.mend(damage(parts[at], structure, other, random))
    return structure.finish(b"".join(parts))


def take_part(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Put a part of another file in, beside a part or in its place."""
    parts, others = structure.split(data), structure.split(other)
    at = random.randrange(len(parts))
    parts[at : at + random.randint(0, 1)] = [random.choice(others)]
    return structure.finish(b"".join(parts))


def join_files(data: bytes, structure: Structure, other: bytes, random: Random) -> bytes:
    """Continue with the end of another file."""
    return data[: _place(data, random)] + other[_place(other, random) :]


MUTATORS: dict[str, Mutator] = {
    mutator.__name__: mutator
    for mutator in (
        *(flip_bits, set_bytes, set_any_number, cut_off, remove_bytes, repeat_bytes, set_number, set_side, set_size),
        *(remove_part, repeat_part, move_part, damage_part, take_part, join_files),
    )
}


def mutate(name: str, number: int, data: bytes, file_format: str, other: bytes) -> bytes:
    """Return a changed file, at most LARGEST_BYTES of it.

    Args:
        name: One of MUTATORS.
        number: Seed of the change.
        data: The file. An empty one stays empty.
        file_format: A key of STRUCTURES.
        other: Another file of the format.
    """
    if not data or not other:
        return data
    structure, random = STRUCTURES[file_format], Random(number)
    changed = MUTATORS[name](data, structure, other, random)
    return (structure.finish(changed) if random.random() < 0.5 else changed)[:LARGEST_BYTES]


def _place(data: bytes, random: Random) -> int:
    """Return an index into the data. Headers, at the front, are hit more often."""
    return random.randrange(min(len(data), 120) if random.random() < 0.5 else len(data))
