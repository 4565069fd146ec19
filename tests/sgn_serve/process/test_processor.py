"""A processor's instructions for bfloat16 products are those that Linux lists."""

from pathlib import Path

import pytest

from sgn_serve.process.processor import bfloat16_products


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16 amx_bf16", ("avx512_bf16", "amx_bf16")),
        ("fpu avx512f avx512_bf16", ("avx512_bf16",)),
        ("fpu avx2 avx512f avx512_bf16x", ()),
    ],
)
def test_flags(tmp_path: Path, flags: str, expected: tuple[str, ...]) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"model name\t: some\nflags\t\t: {flags}\n\nmodel name\t: some\nflags\t\t: {flags}\n")
    assert bfloat16_products(file) == expected


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert bfloat16_products(tmp_path / "missing") == ()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert bfloat16_products(tmp_path / "cpuinfo") == ()
