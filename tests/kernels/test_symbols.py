"""The objects of each instruction set hold no function that the linker may take for that of another one.

A function of a template, and an inline one, is a weak symbol: of all with its name the linker keeps one, for whatever processor
it was compiled. So `std::sort<float*>` from the object for AVX-512 would come to run on a processor without AVX-512. A name that
contains `tt::<instruction set>::` is in the objects of that instruction set alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ISAS = ("portable", "avx2", "avx512", "amx")


@pytest.fixture(scope="module")
def objects():
    """(instruction set, object) of each object that is compiled for one: the folder of a CMake target is named after it."""
    build = os.environ.get("THROUGHTIME_OBJECTS")
    if not build:
        pytest.skip("THROUGHTIME_OBJECTS names no build folder; `make symbols` makes one")
    if sys.platform != "linux" or shutil.which("nm") is None:
        pytest.skip("needs nm and the symbols of ELF objects")
    found = []
    for path in sorted(Path(build).rglob("*.o")):
        for folder in path.parts:
            target = re.fullmatch(r"\w+_(\w+)\.dir", folder)
            if target and target[1] in ISAS:
                found.append((target[1], path))
    assert "portable" in {isa for isa, _ in found}, f"no objects of a build in {build}"
    return found


def symbols(path):
    """(kind, name) of each symbol of an object, names as C++ spells them."""
    lines = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout.splitlines()
    return [tuple(line[17:].split(maxsplit=1)) for line in lines]


def foreign(isa, names):
    """The weak ones among these symbols that objects of other instruction sets may have too.

    `DW.ref.` symbols are no functions but addresses of what unwinds the stack.
    """
    return [
        name
        for kind, name in names
        if kind in "WVui" and not re.search(rf"\btt::{isa}\w*::", name) and not name.startswith("DW.ref.")
    ]


def test_what_is_foreign():
    names = [
        ("W", "void std::__introselect<float*, long>(float*, float*)"),
        ("W", "std::deque<tt::avx2::Scratch<float> >::~deque()"),
        ("W", "tt::avx512::Sampler::draw(float const*, long, long)"),
        ("W", "tt::avx512bf16::pair_product()"),
        ("V", "DW.ref.__gxx_personality_v0"),
        ("t", "std::local()"),
        ("U", "memcpy"),
        ("u", "std::unique"),
    ]
    assert foreign("avx512", names) == [names[0][1], names[1][1], names[7][1]]


def test_the_objects_of_an_instruction_set_share_no_function(objects):
    found = {f"{isa} {path.name}: {name}" for isa, path in objects for name in foreign(isa, symbols(path))}
    assert found == set()


@pytest.mark.parametrize("source", ["kernels", "generate", "bf16_avx512", "bf16_amx"])
def test_nothing_throws(source, objects):
    """An exception must not leave a C function: these objects have nothing that throws one."""
    named = [path for _, path in objects if path.name == f"{source}.cpp.o"]
    assert named or source.startswith("bf16")  # bfloat16: where the compiler knows the instructions
    throwing = re.compile(r"operator new|std::__throw_|__cxa_(throw|allocate_exception|rethrow|bad_cast)")
    assert {name for path in named for _, name in symbols(path) if throwing.match(name)} == set()
