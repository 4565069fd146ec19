"""Tell what this machine's processor can compute."""

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16")
"""Linux's names of the instructions that multiply bfloat16 numbers. Without them an engine converts each to float32."""


def bfloat16_products(cpu_info: Path = CPU_INFO) -> tuple[str, ...]:
    """Return the processor's instructions for bfloat16 products, by Linux's names.

    Args:
        cpu_info: Linux's file about the processor. Without it, nothing is known and nothing returned.
    """
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return tuple(flag for flag in BFLOAT16_FLAGS if flag in flags)
