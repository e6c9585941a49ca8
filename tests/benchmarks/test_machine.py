"""What a machine is called, and how fast it reads."""

from __future__ import annotations

import pytest

from throughtime.bench import machine


@pytest.mark.parametrize(
    ("isa", "name"),
    [
        (["avx2", "fma"], "avx2"),
        (["avx2", "fma", "avx512f", "avx512_bf16"], "avx512"),
        (["avx2", "avx512f", "amx_bf16"], "amx"),
        (["asimd"], "neon"),
        (["asimd", "sve"], "sve"),
        ([], "riscv64"),
    ],
)
def test_the_folder_of_a_processor_is_its_widest_vectors(isa, name):
    described = {"isa": isa, "system": "Linux riscv64", "cuda": {"device": "NVIDIA H200 (MIG)"}}
    assert machine.folder(described) == name
    assert machine.folder(described, cuda=True) == "nvidia-h200-mig"


def test_the_device_is_named_where_there_is_one():
    described = machine.describe()
    before = machine.sentence(described)
    del described["cuda"]  # as in older results
    assert machine.sentence(described).endswith(before[-40:])
    described["cuda"] = {"device": "A device", "cuda": "12.8", "cudnn": 91002}
    assert machine.sentence(described).startswith("A device, CUDA 12.8, cuDNN 91002; ")


def test_reading_takes_time():
    bandwidth = machine.read_bandwidth(4096, 0.01)
    assert 1e6 < bandwidth < 1e14
