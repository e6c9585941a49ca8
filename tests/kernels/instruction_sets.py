"""The native library once for each instruction set that runs here, all in this process."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from throughtime.kernels.native.library import Library, load


@functools.cache
def libraries() -> tuple[Library, ...]:
    """The library as it was loaded, then those of the other instruction sets.

    A library chooses its code once, when it is first called. So each of the others is loaded from a copy of the file: the system
    takes that for another library, with a choice of its own. Under THROUGHTIME_ISA only the one that it names.
    """
    first = load()
    if isinstance(first, str):
        return ()
    found = [first]
    if os.environ.get("THROUGHTIME_ISA"):
        return (first,)
    for isa in ("avx2", "portable"):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(first.handle._name, Path(folder) / Path(first.handle._name).name)
            with mock.patch.dict(os.environ, {"THROUGHTIME_LIBRARY": str(copy), "THROUGHTIME_ISA": isa}):
                library = load.__wrapped__()
        if isinstance(library, Library):  # or this processor does not run it
            assert library.isa == isa
            found.append(library)
    return tuple(found)
