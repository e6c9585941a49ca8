"""The command line: arguments in, one library call, a printed answer."""

from throughtime.cli.entry import main

__all__ = ["main"]
