"""Images with captions: COCO's JSON, or a table with the columns path and caption.

captions.json    {"images": [{"id": 1, "file_name": "a.jpg"}, ...],
                  "annotations": [{"image_id": 1, "caption": "A dog runs."}, ...]}
captions.csv     path,caption                     one row for each caption; an image may have several
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.readers.frame_folders import read_image
from throughtime.data.readers.records import Records, shortened
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError, nearest_file

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")  # else the file is COCO's JSON
NAMES = ("captions.json", "annotations.json", "captions.csv")  # that are looked for in a folder
_BESIDE = (
    "",
    "images",
    "Images",
    "photos",
)  # folders beside the file of the captions, where the images may lie


@dataclass(frozen=True)
class Captioned:
    """Images, all of one size, and what is said of each: several captions of an image are references of one another."""

    images: NDArray[np.uint8]  # [N, C, H, W]
    captions: tuple[tuple[str, ...], ...]  # of each image; all of them are right
    trained: int | None = None  # so many of an image's captions, the first, are trained on; None: all
    names: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    remarks: tuple[str, ...] = ()  # what a user should be told once

    def __len__(self) -> int:
        """Images."""
        return len(self.images)

    def take(self, numbers: Sequence[int]) -> Captioned:
        """Some of the images; sources and remarks stay."""
        names = tuple(self.names[number] for number in numbers)
        return replace(
            self,
            images=self.images[list(numbers)],
            captions=tuple(self.captions[number] for number in numbers),
            names=names,
        )

    def read_from(self, sources: Iterable[Source]) -> Captioned:
        """The same, with the fingerprints of what was read; of none, also without its remarks, which another part keeps."""
        sources = tuple(sources)
        return replace(self, sources=sources, remarks=self.remarks if sources else ())

    def __add__(self, other: Captioned) -> Captioned:
        """The images of both, in their order; they must be of one size."""
        return Captioned(
            np.concatenate([self.images, other.images]),
            self.captions + other.captions,
            self.trained,
            self.names + other.names,
            self.sources + other.sources,
            self.remarks + other.remarks,
        )


class _Row(NamedTuple):
    """One caption."""

    where: str  # file and row, for a message
    file: str
    caption: str


def read_captions(
    path: str | Path, size: int, *, color: bool = True, images: str | None = None, skip_bad: bool = False
) -> Captioned:
    """Read the captions of a file, and their images, each scaled to `size` x `size` pixels.

    A folder is read by the captions.json or captions.csv in it. Images lie where the file names them, relative to `images`, or
    to the folder of the file or a folder `images` in it. Captions of one image are together, in the order of the file.
    With `skip_bad`, captions without text or without an image that can be read are left out and counted.
    Raises: InputError with file and row for a caption without image or text, an image that is missing or cannot be read, or
    where nothing is left.
    Cost: `size` * `size` bytes for each image and color.
    """
    file = _file_of(Path(path))
    data, source = read_bytes(file)
    bad: list[str] = []

    def refuse(message: str) -> None:
        if not skip_bad:
            raise InputError(f"{message}; correct it, or leave bad ones out with --skip-bad")
        bad.append(message)

    remarks: list[str] = []
    table = file.suffix.lower() in TABLES
    rows = _table_rows(data, file, skip_bad, remarks) if table else _coco_rows(data, file, refuse)
    places = [Path(images)] if images is not None else [file.parent / each for each in _BESIDE]
    captions: dict[str, list[str]] = {}
    pixels: dict[str, NDArray[np.uint8]] = {}
    unreadable: set[str] = set()
    digest, total = hashlib.sha256(source.sha256.encode()), source.bytes
    for row in rows:
        if not row.caption.strip():
            refuse(f"{row.where}: expected a caption, got an empty one")
            continue
        if row.file in unreadable:
            bad.append(f"{row.where}: its image cannot be read")
            continue
        if row.file not in pixels:
            try:
                found = _found(row, places)
                pixels[row.file] = as_bytes(read_image(found, (size, size), color))
            except InputError as error:
                message = str(error)
                refuse(message if message.startswith(row.where) else f"{row.where}: {message}")
                unreadable.add(row.file)
                continue
            of_image = read_bytes(found)[1]
            digest.update(f"{row.file}\0{of_image.sha256}\n".encode())
            total += of_image.bytes
        captions.setdefault(row.file, []).append(" ".join(row.caption.split()))
    if not captions:
        reason = "".join(f"; {each}" for each in [*bad[:1], *remarks])
        raise InputError(f"{file}: expected images with captions, found none{reason}")
    if bad:
        remarks.append(f"{len(bad):,} bad rows left out; the first is {bad[0]}")
    names = tuple(captions)
    return Captioned(
        np.stack([pixels[name] for name in names]),
        tuple(tuple(captions[name]) for name in names),
        None,
        names,
        (Source(source.path, digest.hexdigest(), total),),
        tuple(remarks),
    )


def as_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[H, W, C] of numbers from 0 to 1 as bytes [C, H, W]."""
    whole: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)
    return whole


def image_key(image: NDArray[np.uint8]) -> bytes:
    """Equal for images of equal pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path}: expected a folder with {', '.join(NAMES)}, found none of them: name the file")


def _found(row: _Row, places: Iterable[Path]) -> Path:
    """The file of an image.

    Raises: InputError where it is in none of the places.
    """
    tried = [place / row.file for place in places]
    for each in tried:
        if each.is_file():
            return each
    raise InputError(
        f"{row.where}: there is no image {tried[0]}.{nearest_file(tried[0])} Name its folder with --images"
    )


def _table_rows(data: bytes, file: Path, skip_bad: bool, remarks: list[str]) -> Iterator[_Row]:
    records = Records(io.BytesIO(data), ("path", "caption"), name=str(file), skip_bad=skip_bad)
    for record in records:
        yield _Row(f"{file}:{records.line}", *records.texts(record))
    if records.remark:
        remarks.append(records.remark)


def _coco_rows(data: bytes, file: Path, refuse: Callable[[str], None]) -> Iterator[_Row]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: expected JSON with images and annotations, as COCO has it: {error}"
        ) from None
    for name in ("images", "annotations"):
        if not isinstance(found, dict) or not isinstance(found.get(name), list):
            raise InputError(f"{file}: expected a JSON object with a list {name!r}, as COCO has it")
    files: dict[Any, str] = {}
    for number, image in enumerate(found["images"], start=1):
        where = f"{file}: image {number}"
        if (
            not isinstance(image, dict)
            or not isinstance(image.get("file_name"), str)
            or not _is_key(image.get("id"))
        ):
            refuse(f"{where}: expected an id and a file_name, got {shortened(repr(image))}")
        elif image["id"] in files:
            refuse(f"{where}: has the id {image['id']!r} of another image")
        else:
            files[image["id"]] = image["file_name"]
    for number, each in enumerate(found["annotations"], start=1):
        where = f"{file}: annotation {number}"
        if (
            not isinstance(each, dict)
            or not isinstance(each.get("caption"), str)
            or not _is_key(each.get("image_id"))
        ):
            refuse(f"{where}: expected an image_id and a caption, got {shortened(repr(each))}")
        elif each["image_id"] not in files:
            refuse(f"{where}: there is no image with the id {each['image_id']!r}")
        else:
            yield _Row(where, files[each["image_id"]], each["caption"])


def _is_key(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)
