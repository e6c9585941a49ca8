"""Data that the repository does not carry."""

import os

import pytest

from throughtime.data import find_dataset
from throughtime.data.text import read_sources


@pytest.fixture
def time_machine():
    if "THROUGHTIME_DATA" not in os.environ:
        pytest.skip(
            "THROUGHTIME_DATA is not set: it must name the folder that holds time_machine/timemachine.txt"
        )
    return read_sources(find_dataset("time_machine/timemachine.txt"))[0]
