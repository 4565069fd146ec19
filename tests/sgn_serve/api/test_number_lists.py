"""Long lists of numbers in JSON become arrays, and are checked as strictly as Python's parser checks short ones."""

import json
import random
import tracemalloc

import numpy as np
import pytest

from sgn_serve.api import number_lists
from sgn_serve.api.json_body import JsonError, parse_json
from sgn_serve.api.number_lists import parse_with_arrays

NUMBERS = np.random.default_rng(0).random(2000).astype(np.float32)


@pytest.fixture(params=[(64, 16), (1000, 400), (5000, 1)])
def parts(monkeypatch, request):
    """Make lists long and parts short, so that short texts reach every branch."""
    monkeypatch.setattr(number_lists, "LONG_BYTES", request.param[0])
    monkeypatch.setattr(number_lists, "PART_BYTES", request.param[1])


@pytest.mark.parametrize(
    "shape", [(2000,), (1, 2000), (2000, 1), (2, 1000), (1000, 2), (20, 100), (4, 5, 10, 10), (1,) * 7 + (2000,)]
)
@pytest.mark.parametrize("indent", [None, 1])
def test_numbers_are_the_same_in_every_nesting_and_spacing(parts, shape, indent):
    data = NUMBERS.reshape(shape).tolist()
    text = json.dumps({"before": 'a [1, 2] \\ " text', "data": data, "after": [1, {"x": "]"}]}, indent=indent)
    for encoding in ("utf-8", "utf-8-sig"):
        parsed = parse_with_arrays(text.encode(encoding))
        np.testing.assert_array_equal(parsed["data"], NUMBERS)
        assert (parsed["before"], parsed["after"]) == ('a [1, 2] \\ " text', [1, {"x": "]"}])


def test_a_text_without_long_lists_is_parsed_as_ever():
    text = json.dumps({"a": [1, "2", {"b": None}], "c": "9" * 100_000}).encode()
    assert parse_with_arrays(text) == json.loads(text)


GOOD = json.dumps({"x": "y", "data": [0.5, 1, [2]][:2] * 300}).encode()
LIST = b"[" + b"1, " * 299 + b"1]"
BAD = {
    "a value is missing": GOOD.replace(b"0.5", b"", 1),
    "the last value is missing": GOOD.replace(b"1]", b"1,]"),
    "two values without a comma": GOOD.replace(b"0.5, ", b"0.5 ", 1),
    "a string": GOOD.replace(b"0.5", b'"0.5"', 1),
    "a string in the middle": GOOD.replace(b"1]", b'1, "x"' + b", 1" * 300 + b"]"),
    "a flag": GOOD.replace(b"0.5", b"true", 1),
    "an object": GOOD.replace(b"0.5", b"{}", 1),
    "NaN": GOOD.replace(b"0.5", b"NaN", 1),
    "Infinity": GOOD.replace(b"0.5", b"-Infinity", 1),
    "leading zeros": GOOD.replace(b"0.5", b"00.5", 1),
    "a list among numbers": GOOD.replace(b"0.5", b"[0.5]", 1),
    "lists of two lengths": b'{"data": [' + b"[1, 2], " * 300 + b"[1]]}",
    "long lists of two lengths": b'{"data": [' + LIST + b", " + LIST[:-1] + b", 1]]}",
    "a long list among numbers": b'{"data": [' + LIST + b", 1]}",
    "no end": GOOD[:-2],
    "one end too many": GOOD.replace(b"1]", b"1]]"),
    "one end too few": GOOD.replace(b"[0.5", b"[[0.5", 1),
    "two lists where one may be": GOOD.replace(b"1]", b"1] " + LIST),
    "two long lists in a list": b'{"data": "x", "y": ["z", ' + LIST + b", " + LIST + b"]}",
    "too deep": b'{"data": ' + b"[" * 9 + b"1," * 300 + b"1" + b"]" * 9 + b"}",
    "far too deep": b'{"data": ' + b"[" * 300 + b"1" + b"]" * 300 + b"}",
    "depth that a byte cannot hold": b'{"data": [' + b"[" * 256 + b"1, 2" + b"]" * 256 + b"]}",
    "a number of too many digits": GOOD.replace(b"0.5", b"9" * 5000, 1),
    "a number too large": GOOD.replace(b"0.5", b"9" * 400, 1),
    "a comment": GOOD.replace(b"0.5", b"/**/0.5", 1),
    "another encoding": GOOD.replace(b'"y"', '"\u00e4"'.encode("latin-1")),
    "a key twice": GOOD.replace(b'"x"', b'"data"'),
    "nulls": GOOD.replace(b"0.5", b"0.5\0", 1),
}


def numbers(text):
    """Return the numbers of a text's data, also where the list is too short to be parsed in parts."""
    data = parse_with_arrays(text)["data"]
    if isinstance(data, np.ndarray):
        return data
    flat, _ = number_lists.flatten(data)
    try:
        return np.fromiter(flat, np.float64, len(flat))
    except OverflowError:
        raise JsonError("a number is too large") from None


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_list_of_numbers_is_refused(parts, name):
    assert BAD[name] != GOOD
    with pytest.raises(JsonError) as refused:
        numbers(BAD[name])
    assert len(str(refused.value)) < 200


DAMAGE = (b"", b",", b"[", b"]", b" ", b"1", b'"', b"\\", b"],[")


def test_damaged_texts_are_refused_as_python_refuses_them(monkeypatch):
    """Change texts at random. What Python takes for JSON with the same numbers is taken, all else is refused."""
    monkeypatch.setattr(number_lists, "LONG_BYTES", 40)
    monkeypatch.setattr(number_lists, "PART_BYTES", 12)
    choose = random.Random(0)
    taken = refused = 0
    for _ in range(4000):
        shape = choose.choice([(30,), (3, 10), (10, 3), (2, 3, 5)])
        text = bytearray(json.dumps({"id": "a", "data": np.arange(30).reshape(shape).tolist()}).encode())
        for _ in range(choose.randint(0, 2)):
            at = choose.randrange(len(text))
            text[at : at + choose.randint(0, 2)] = choose.choice(
                [b"", b",", b"[", b"]", b" ", b"1", b'"', b"\\", b"],["]
            )
        try:
            expected = parse_json(text)
        except JsonError:
            expected = None
        try:
            found = parse_with_arrays(text)
        except JsonError:
            refused += 1
            numbers = None
            if isinstance(expected, dict) and isinstance(expected.get("data"), list):
                try:
                    numbers, _ = number_lists.flatten(expected["data"])
                except JsonError:
                    numbers = None
            assert not numbers, text
            continue
        assert expected is not None, text
        if isinstance(found, dict) and isinstance(found.get("data"), np.ndarray):
            taken += 1
            assert found["data"].tolist() == number_lists.flatten(expected["data"])[0], text
            assert {**found, "data": 0} == {**expected, "data": 0}
    assert taken > 500
    assert refused > 500


def test_a_large_text_takes_little_memory():
    text = b'{"data": [' + b"[0]," * 500_000 + b"[0]]}"
    tracemalloc.start()
    try:
        assert parse_with_arrays(text)["data"].shape == (500_001,)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(text), "as Python's lists it takes twenty times its bytes"


def test_strings_without_end_are_not_looked_through_for_ever():
    with pytest.raises(JsonError, match="quotation marks"):
        parse_with_arrays(b'{"a": "' + b'\\"' * 100_000 + b'"}')
    long = b"\\" * 200_000
    assert parse_with_arrays(b'{"a": "' + long + b'"}') == {"a": "\\" * 100_000}
    with pytest.raises(JsonError):
        parse_with_arrays(b'{"a": "' + long + b'\\"}')
