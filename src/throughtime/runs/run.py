"""A run on disk: a folder with its configuration, assets, weights and history."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from throughtime.data.assets import Assets
from throughtime.errors import InputError, RunError
from throughtime.files import UNFINISHED, cannot_write, read_whole, write_whole
from throughtime.runs import history
from throughtime.runs.config import Config, from_toml, to_toml
from throughtime.runs.lock import LOCK, lock
from throughtime.runs.tensors import load_tensors, save_tensors
from throughtime.runs.tree import Tree, load_tree, save_tree

CONFIG, ASSETS, MODEL, CARD = "config.toml", "assets.json", "model.safetensors", "README.md"
CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.jsonl"


class Run:
    """A folder that holds one training. Make one with `Run.create`, read one with `Run.open`.

    Every file is written whole or not at all (the history line by line), and nothing in a file can execute.
    config.toml is written last of what a run starts with: a folder with it is a run, one without it never
    started.
    """

    def __init__(self, path: Path, config: Config, assets: Assets) -> None:
        self.path, self.config, self.assets = path, config, assets
        assets.folder = path

    @classmethod
    def create(cls, path: str | Path, config: Config, assets: Assets) -> Run:
        """A new run in a folder that is missing, empty, or was left by a `create` that was killed.

        Raises: RunError when the path holds anything else or cannot be written; InputError when `config` is
        not TOML.
        """
        path = Path(path)
        saved = assets.to_json().encode()
        text = to_toml(config, _checksum(saved))
        _refuse_occupied(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from None
        with lock(path):
            _refuse_occupied(path)  # again: another may have been first
            write_whole(path / ASSETS, saved)
            write_whole(path / CONFIG, text.encode())
        return cls(path, from_toml(text.encode(), path / CONFIG)[0], assets)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in a folder.

        Raises: RunError when there is none, it is damaged, or a newer throughtime wrote it.
        """
        if not str(path):
            raise RunError("expected the folder of a run, got an empty name")
        path = Path(path)
        names = _names(path)
        if names is None:
            raise RunError(
                f"no such run: {path}; train one: throughtime train text --data FILE --out {shlex.quote(str(path))}"
            )
        try:
            config, checksum = from_toml(read_whole(path / CONFIG), path / CONFIG)
        except FileNotFoundError:
            begun = ASSETS in names and not _strangers(names)
            reason = "its training never started; start it again" if begun else _no_config(path, names)
            raise RunError(f"{path} is not a run: {reason}") from None
        return cls(path, config, _read_assets(path / ASSETS, checksum))

    def save_model(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights, a state_dict, under its own names; `safetensors.torch.load_file` reads them."""
        save_tensors(self.path / MODEL, tensors)

    def load_model(self) -> dict[str, Tensor]:
        """The weights, on the CPU.

        Raises: RunError when there are none yet, or they are damaged.
        """
        try:
            return load_tensors(self.path / MODEL)[0]
        except FileNotFoundError:
            raise self._no_weights() from None

    def model_shapes(self) -> dict[str, list[int]]:
        """The shapes of the weights by name, from the file's header alone.

        Raises: as `load_model`.
        """
        try:
            with safe_open(self.path / MODEL, framework="pt") as file:
                return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 -- not a dict
        except FileNotFoundError:
            raise self._no_weights() from None
        except (SafetensorError, OSError) as error:
            raise RunError(
                f"{self.path / MODEL} is damaged: {error}; put back a copy of it, or train again"
            ) from None

    def _no_weights(self) -> RunError:
        if (self.path / CHECKPOINT).exists():
            return RunError(
                f"{self.path} has lost its {MODEL}: put it back, or train again with another --out"
            )
        return RunError(
            f"{self.path} has no weights yet: training was stopped before the first checkpoint; resume it"
        )

    def save_checkpoint(self, tree: Tree) -> None:
        """Write all that resuming needs, as `save_tree` takes it; the history goes to the disk before it."""
        history.sync(self.path / HISTORY)
        save_tree(self.path / CHECKPOINT, tree)

    def load_checkpoint(self) -> Tree | None:
        """The last checkpoint, or None when there is none yet.

        Raises: RunError when it is damaged, or missing from a run whose training ended.
        """
        try:
            return load_tree(self.path / CHECKPOINT)
        except FileNotFoundError:
            if (self.path / CARD).exists():
                raise RunError(
                    f"{self.path} has lost its {CHECKPOINT}, without which it cannot be resumed: put it back, or train on "
                    f"from its weights in another run, with --init-from {shlex.quote(str(self.path))}"
                ) from None
            return None

    def append_history(self, record: history.Record) -> None:
        """Add a record, JSON values only, with its "step"."""
        history.append(self.path / HISTORY, record)

    def history(self) -> list[history.Record]:
        """All records, oldest first."""
        return history.read(self.path / HISTORY)

    def rewind_history(self, step: int) -> None:
        """Drop the records after `step`: training continues from there."""
        history.rewind(self.path / HISTORY, step)

    def write_card(self, text: str) -> None:
        """Write the model card, README.md."""
        write_whole(self.path / CARD, text.encode())

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run while writing to it.

        Raises: RunError, when entered, if another training holds it.
        """
        return lock(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def _refuse_occupied(path: Path) -> None:
    names = _names(path) or []
    if CONFIG in names:
        raise RunError(f"{path} holds another run; choose another --out, or --resume to continue")
    if strangers := _strangers(names):
        raise RunError(f"{path} holds other files ({strangers[0]}); choose another --out, or empty it")


def _names(path: Path) -> list[str] | None:
    """The names in a folder, in order; None when there is no such folder."""
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise RunError(f"a run is a folder, got a file: {path}; name a folder") from None
    except OSError as error:
        raise RunError(f"cannot read the folder {path}: {error.strerror}; check its permissions") from None


def _no_config(path: Path, names: list[str]) -> str:
    """Why a folder is no run, and the one inside it that is."""
    inside = next((path / name for name in names if (path / name / CONFIG).is_file()), None)
    advice = f"name one inside it, such as {inside}" if inside else "name the folder of a training, its --out"
    return f"it has no {CONFIG}; {advice}"


def _strangers(names: list[str]) -> list[str]:
    """Those names that a `create` which was killed does not leave."""
    own = {ASSETS, LOCK}
    return [name for name in names if name not in own and not (name[0] == "." and name.endswith(UNFINISHED))]


def _read_assets(path: Path, checksum: str) -> Assets:
    try:
        data = read_whole(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run cannot be read without its assets") from None
    if _checksum(data) != checksum:
        raise RunError(f"{path} is damaged or of another run: its checksum is not the one in {CONFIG}")
    try:
        return Assets.from_json(data.decode())
    except (InputError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
