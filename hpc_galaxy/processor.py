"""What the processor is and can do, as Linux tells it."""

from __future__ import annotations

import platform
import re


def cpu_model(cpuinfo: str) -> str:
    """Return the processor's name from the text of /proc/cpuinfo."""
    return field(cpuinfo, "model name") or platform.machine()


def instruction_sets(cpuinfo: str) -> list[str]:
    """Return the instruction sets that matter for a network on a CPU, from the text of /proc/cpuinfo."""
    flags = _flags(cpuinfo)
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512_BF16", "amx_bf16": "AMX", "sve": "SVE", "bf16": "BF16"}
    return [label for flag, label in known.items() if flag in flags]


def bf16_is_fast(cpuinfo: str) -> bool:
    """Return whether the processor multiplies bfloat16 itself."""
    return bool(_flags(cpuinfo) & {"avx512_bf16", "amx_bf16", "bf16"})


def _flags(cpuinfo: str) -> set[str]:
    return set((field(cpuinfo, "flags") or field(cpuinfo, "Features")).split())


def field(text: str, name: str) -> str:
    """Return what /proc/cpuinfo or /proc/meminfo, given as text, says of `name`; an empty string if nothing."""
    match = re.search(rf"^{name}[ \t]*:(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""
