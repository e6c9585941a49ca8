"""Piano rolls in MATLAB files, as Boulanger-Lewandowski et al. 2012 published them: traindata, validdata, testdata."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.music import KEYS
from throughtime.errors import InputError

PARTS = {"traindata": "train", "validdata": "validation", "testdata": "test"}
Roll = NDArray[np.uint8]


def read_piano_rolls(data: bytes, name: str) -> list[tuple[str, Roll]]:
    """(part, roll [T, 88] of zeros and ones) of each piece, key 0 is A0. With scipy (`pip install 'throughtime[music]'`).

    MATLAB's formats 4 to 7 hold numbers and no code; function handles in a file stay unread, since only the three variables are.
    Raises: InputError for a file that is none, lacks one of the three, or holds other numbers.
    """
    try:
        loadmat: Any = import_module("scipy.io").loadmat
    except ImportError:
        raise InputError(
            ".mat files need scipy, which is not installed: pip install 'throughtime[music]'"
        ) from None
    try:
        found = loadmat(
            io.BytesIO(data),
            variable_names=list(PARTS),
            struct_as_record=True,
            squeeze_me=False,
            verify_compressed_data_integrity=True,
        )
    except NotImplementedError:
        raise InputError(
            f'{name}: expected a MATLAB file up to version 7, got 7.3: save it with "-v7"'
        ) from None
    except Exception as error:  # scipy raises whatever a damaged byte leads to
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: expected a MATLAB file, got one that cannot be read ({what})") from None
    if missing := [part for part in PARTS if part not in found]:
        raise InputError(
            f"{name}: expected the cell arrays {', '.join(PARTS)}, each with a roll [T, {KEYS}] for each piece; "
            f"got none of the name {missing[0]}"
        )
    rolls = []
    for variable, part in PARTS.items():
        cells = found[variable]
        cells = list(cells.ravel()) if cells.dtype == object else [cells]
        for number, cell in enumerate(cells):
            rolls.append((part, _checked(cell, f"{name}: {variable}[{number}]")))
    return rolls


def _checked(cell: Any, where: str) -> Roll:
    numbers = isinstance(cell, np.ndarray) and cell.dtype.kind in "uifb"
    if not numbers or cell.ndim != 2 or cell.shape[1] != KEYS or len(cell) == 0:
        shape = list(cell.shape) if isinstance(cell, np.ndarray) else type(cell).__name__
        raise InputError(f"{where} must be numbers [T, {KEYS}], a frame in each row, got {shape}")
    if not bool(((cell == 0) | (cell == 1)).all()):
        raise InputError(f"{where} must hold zeros and ones, got {cell[(cell != 0) & (cell != 1)].flat[0]}")
    found: Roll = cell.astype(np.uint8)
    return found
