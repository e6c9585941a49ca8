"""The objects of each instruction set hold no function that the linker may take for that of another one.

A function of a template or an inline one is a weak symbol: of all that have its name the linker keeps one, whichever was compiled for
which processor. `std::sort<float*>` from the object for AVX-512 would so come to run on a processor without. A name in which
`tt::<instruction set>::` occurs is in no other object.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = os.environ.get("THROUGHTIME_OBJECTS", "")
pytestmark = [
    pytest.mark.skipif(not FOLDER, reason="THROUGHTIME_OBJECTS names no build folder; `make symbols` makes one"),
    pytest.mark.skipif(sys.platform != "linux", reason="symbols are told apart as in ELF objects"),
    pytest.mark.skipif(shutil.which("nm") is None, reason="the test needs nm"),
]
ISAS = ("portable", "avx2", "avx512", "amx")


def objects():
    """(instruction set, object) of each object that is compiled for one: the folder of a CMake target is named after it."""
    found = []
    for path in sorted(Path(FOLDER).rglob("*.o")):
        for folder in path.parts:
            target = re.fullmatch(r"\w+_(\w+)\.dir", folder)
            if target and target[1] in ISAS:
                found.append((target[1], path))
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


def test_the_objects_of_an_instruction_set_share_no_function():
    found = objects()
    assert {"portable"} <= {isa for isa, _ in found}, f"no objects of a build in {FOLDER}"
    assert {f"{path.name}: {name}" for isa, path in found for name in foreign(isa, symbols(path))} == set()


@pytest.mark.parametrize("source", ["generate", "bf16_avx512", "bf16_amx"])
def test_nothing_throws(source):
    """An exception must not leave a C function: these objects have nothing that throws one."""
    named = [path for _, path in objects() if path.name == f"{source}.cpp.o"]
    assert named or source != "generate"
    throwing = re.compile(r"operator new|std::__throw_|__cxa_(throw|allocate_exception|rethrow|bad_cast)")
    assert {name for path in named for _, name in symbols(path) if throwing.match(name)} == set()
