"""The machine that was measured on: processor, caches, versions. Nothing in it names the machine or its owner."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from throughtime.bench.timing import interleave
from throughtime.kernels.native.library import load

_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe() -> dict[str, Any]:
    """Cores, caches, instruction sets, versions, threads, as the system reports them."""
    native = load()
    return {
        "processor": _cpuinfo("model name") or platform.machine(),  # virtual machines may report another name
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": _caches(),
        "isa": [flag for flag in _FLAGS if flag in (_cpuinfo("flags") or _cpuinfo("Features") or "").split()],
        "native": {"reason": native} if isinstance(native, str) else {"isa": native.isa},
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "throughtime": metadata.version("throughtime"),
        "mkl": torch._C.has_mkl,
        "onednn": torch._C._has_mkldnn,
    }


def sentence(machine: dict[str, Any]) -> str:
    """The description as a sentence."""
    native = machine["native"].get("isa") or "absent: " + machine["native"]["reason"]
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items()) or "not known"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used, caches {caches}, "
        f"{' '.join(machine['isa']) or 'no vector flags known'}; native {native}; throughtime {machine['throughtime']}, "
        f"torch {machine['torch']}, Python {machine['python']}, {machine['system']}"
    )


def gemm_peak(size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations per second of torch.mm on square float32 matrices, the fastest of several."""
    a, b, out = (torch.rand(size, size) for _ in range(3))
    timing = interleave({"mm": lambda: torch.mm(a, b, out=out)}, seconds=seconds)["mm"]
    return 2 * size**3 / timing.best


def _cpuinfo(name: str) -> str:
    """The first value of that name in /proc/cpuinfo; "" where there is none."""
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _caches() -> dict[str, str]:
    """Caches of one core: {"L1d": "32K", ...}."""
    found = {}
    for index in sorted(_CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found
