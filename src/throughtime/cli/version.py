"""`throughtime version`."""

from __future__ import annotations


def version() -> None:
    """Print the versions of throughtime and of what it stands on."""
    import platform
    from importlib import metadata

    from throughtime import __version__

    print(f"throughtime {__version__}")
    for package in ("torch", "accelerate", "safetensors", "tokenizers"):
        print(f"{package} {metadata.version(package)}")
    print(f"python {platform.python_version()} on {platform.platform()}")
