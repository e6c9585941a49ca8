"""The machine that was measured on: processor, caches, versions. Nothing in it names the machine or its owner."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from throughtime.bench.timing import interleave
from throughtime.kernels.native.library import load

_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve")
# Folders of results, and the flag that a processor in each of them has; the first that applies.
_FOLDERS = {"amx": "amx_bf16", "avx512": "avx512f", "avx2": "avx2", "sve": "sve", "neon": "asimd"}
_READ = 2**25  # bytes that one call of `read_bandwidth` reads, so that its own cost does not count
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
        "cuda": _cuda(),
    }


def folder(machine: dict[str, Any], cuda: bool = False) -> str:
    """A short name for results by processor: the widest vector instructions ("avx2", "avx512"), or the CUDA device's name."""
    if cuda:
        return re.sub("[^a-z0-9]+", "-", machine["cuda"]["device"].lower()).strip("-")
    found = [name for name, flag in _FOLDERS.items() if flag in machine["isa"]]
    return found[0] if found else str(machine["system"].split()[-1])


def sentence(machine: dict[str, Any]) -> str:
    """The description as a sentence."""
    native = machine["native"].get("isa") or "absent: " + machine["native"]["reason"]
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items()) or "not known"
    cuda = machine.get("cuda")  # absent from older results
    device = f"{cuda['device']}, CUDA {cuda['cuda']}, cuDNN {cuda['cudnn']}; " if cuda else ""
    return (
        f"{device}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads used, caches {caches}, "
        f"{' '.join(machine['isa']) or 'no vector flags known'}; native {native}; throughtime {machine['throughtime']}, "
        f"torch {machine['torch']}, Python {machine['python']}, {machine['system']}"
    )


def gemm_peak(size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations per second of torch.mm on square float32 matrices, the fastest of several."""
    a, b, out = (torch.rand(size, size) for _ in range(3))
    timing = interleave({"mm": lambda: torch.mm(a, b, out=out)}, seconds=seconds)["mm"]
    return 2 * size**3 / timing.best


def read_bandwidth(size: int, seconds: float = 0.1) -> float:
    """Bytes per second of reading the same `size` bytes of float32 again and again, the fastest of several.

    They are read by torch.sum from the cache that holds them, on torch's number of threads.
    """
    numbers = max(1, size // 4)
    rows = 2 * max(1, _READ // (8 * numbers))  # an even number, for two threads
    x, out = torch.rand(numbers).expand(rows, numbers), torch.empty(rows)
    timing = interleave({"sum": lambda: torch.sum(x, 1, out=out)}, seconds=seconds)["sum"]
    return 4 * numbers * rows / timing.best


def _cuda() -> dict[str, Any] | None:
    """The CUDA device that torch uses, and the versions; None without one."""
    if not torch.cuda.is_available():
        return None
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "cudnn": cudnn}


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
