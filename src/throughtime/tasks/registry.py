"""Tasks by name: the built-in ones, installed ones, and a file of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from throughtime.errors import InputError, nearest
from throughtime.tasks.task import Task

GROUP = "throughtime.tasks"  # of entry points
BUILT_IN = {
    "text": "TextTask",
    "classify": "ClassifyTask",
    "intent": "IntentTask",
    "tag": "TagTask",
    "fill": "FillTask",
    "search": "SearchTask",
    "recommend": "RecommendTask",
    "frames": "FramesTask",
    "forecast": "ForecastTask",
    "translate": "TranslateTask",
    "chat": "ChatTask",
    "caption": "CaptionTask",
    "transcribe": "TranscribeTask",
    "compose": "ComposeTask",
    "write": "WriteTask",
    "adding": "AddingTask",
    "copy": "CopyTask",
    "echo": "EchoTask",
}


class Found(NamedTuple):
    """A task class and where it is from."""

    kind: type[Task]
    asked: str  # what it was found by: a name, or path/to/file.py:Class
    sha256: str | None = None  # of the user's own file; None: built in or installed


def names() -> tuple[str, ...]:
    """All names, in order; installed tasks are not imported."""
    return *BUILT_IN, *(each.name for each in _entry_points())


def find_task(name: str) -> Found:
    """The task of a name, or of "path/to/file.py:Class", whose code is run.

    Raises: InputError for a name that is not known, a file that cannot be imported, or a class that is no task.
    """
    if name in BUILT_IN:
        return Found(
            _checked(getattr(importlib.import_module(f"throughtime.tasks.{name}"), BUILT_IN[name]), name),
            name,
        )
    for each in _entry_points():
        if each.name == name:
            return Found(_checked(each.load(), name), name)
    path, colon, attribute = name.rpartition(":")
    if not colon:
        raise InputError(
            f"task must be one of {', '.join(names())}, or a file with a class, path/to/file.py:MyTask, got {name!r}."
            f"{nearest(name, names())}"
        )
    return _from_file(Path(path), attribute)


def _from_file(path: Path, attribute: str) -> Found:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the task file {path}: {error.strerror}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    module_name = f"throughtime_task_{sha256[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"a task file must be Python, ending in .py, got {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look their own module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise InputError(
                f"the task file {path} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    if not hasattr(module, attribute):
        known = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Task)
        ]
        raise InputError(f"{path} has no {attribute!r}.{nearest(attribute, known) or f' It has {known}.'}")
    asked = f"{path}:{attribute}"
    return Found(_checked(getattr(module, attribute), asked), asked, sha256)


def _checked(kind: object, name: str) -> type[Task]:
    """The class, if it is a task that can be made.

    Raises: InputError saying what is missing.
    """
    if not isinstance(kind, type) or not issubclass(kind, Task):
        raise InputError(f"{name} must be a subclass of throughtime.tasks.Task, got {kind!r}")
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise InputError(f"the task {name} lacks {', '.join(missing)}: see docs/tasks.md")
    if not getattr(kind, "name", ""):
        raise InputError(f'the task {name} needs a name: name = "..." in the class')
    return kind


def installed(name: str) -> bool:
    """Whether the name is of a built-in or an installed task."""
    return name in BUILT_IN or name in names()


def _entry_points() -> list[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=GROUP), key=lambda each: each.name)
