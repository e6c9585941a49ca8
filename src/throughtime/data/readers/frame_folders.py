"""Videos as folders of images: one folder for each sequence, one image for each frame, and a label for each frame.

videos/labels.csv      sequence,frame,label       or, for each sequence:
videos/a/0001.png                                 videos/a/labels.txt, one label on each line
videos/a/0002.png
videos/b/0001.png
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.readers.records import Records
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError, nearest

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")


class Video(NamedTuple):
    """The frames of one sequence, in their order."""

    name: str
    files: tuple[Path, ...]


def find_videos(folder: str | Path) -> list[Video]:
    """The sequences in a folder, by name: each sub-folder with images, or the folder itself if the images lie in it.

    Images are ordered by the last number in their names. Raises: InputError where there are none, or two have one number.
    """
    root = Path(folder)
    folders = sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    found = [Video(each.name, files) for each in [root, *folders] if (files := _images(each))]
    if len(found) > 1 and found[0].name == root.name and found[0].files[0].parent == root:
        raise InputError(
            f"{root}: expected images in it, or folders with images, got both: move {found[0].files[0].name}"
        )
    if not found:
        raise InputError(f"{root}: expected folders of images ({', '.join(IMAGES)}), found none")
    return found


def read_labels(folder: str | Path, videos: list[Video]) -> tuple[list[tuple[str, ...]] | None, list[Source]]:
    """The label of each frame of each sequence, and the fingerprints of what was read; None where no file has labels.

    Read from `labels.csv` in the folder (sequence, frame, label; the frame is its file's name or number), else from a
    `labels.txt` in the folder of each sequence, one label on each line.
    Raises: InputError with file and line for a frame without a label, a label without a frame, two labels of a frame.
    """
    table = Path(folder) / "labels.csv"
    if table.is_file():
        return _labels_of_table(table, videos)
    files = [video.files[0].parent / "labels.txt" for video in videos]
    if not any(file.is_file() for file in files):
        return None, []
    labels, sources = [], []
    for video, file in zip(videos, files, strict=True):
        data, source = read_bytes(file)
        lines = data.decode("utf-8", "replace").split("\n")
        lines = [line.strip() for line in (lines[:-1] if not lines[-1].strip() else lines)]
        if "" in lines:
            raise InputError(f"{file}:{lines.index('') + 1}: expected a label, got an empty line")
        if len(lines) != len(video.files):
            raise InputError(
                f"{file}: expected {len(video.files)} lines, a label for each image, got {len(lines)}"
            )
        labels.append(tuple(lines))
        sources.append(source)
    return labels, sources


def read_image(
    file: Path, size: tuple[int, ...], color: bool, like: tuple[int, ...] = ()
) -> NDArray[np.float32]:
    """An image as numbers from 0 to 1, [H, W, C] with C = 3 where it is read in color, else 1.

    Args: size, (H, W) to scale it to, or () to keep it as it is; like, the shape it must then have.
    Raises: InputError for a file that is no image, one of another size, or without Pillow.
    """
    try:
        pillow: Any = import_module("PIL.Image")
    except ImportError:
        raise InputError(
            "images are read with Pillow, which is not installed: pip install 'throughtime[images]'"
        ) from None
    data, _ = read_bytes(file)
    try:
        with pillow.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB" if color else "L")
            if size:
                image = image.resize((size[1], size[0]), pillow.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise InputError(f"{file}: cannot be read as an image: {error}") from None
    values = np.asarray(image, np.float32) / np.float32(255)
    values = values.reshape(*values.shape[:2], -1)
    if like and values.shape != like:
        raise InputError(
            f"{file}: expected an image of {like[0]} x {like[1]} pixels (rows x columns) as those before it, got "
            f"{values.shape[0]} x {values.shape[1]}: give all one size with --size {like[0]},{like[1]}"
        )
    return values


def read_videos(
    folder: str | Path, *, size: tuple[int, ...] = (), color: bool = False
) -> tuple[list[Video], list[NDArray[np.float32]], list[tuple[str, ...]] | None, Source]:
    """The sequences of a folder, their frames [t, H, W, C], their labels, and one fingerprint of all files.

    Raises: as `find_videos`, `read_labels` and `read_image`.
    """
    videos = find_videos(folder)
    labels, sources = read_labels(folder, videos)
    digest, total, like = hashlib.sha256(), 0, ()
    values = []
    for video in videos:
        frames = []
        for file in video.files:
            frame = read_image(file, size, color, like)
            like = frame.shape
            frames.append(frame)
            _, source = read_bytes(file)
            digest.update(f"{file.relative_to(folder).as_posix()}\0{source.sha256}\n".encode())
            total += source.bytes
        values.append(np.stack(frames))
    for source in sources:
        digest.update(source.sha256.encode())
        total += source.bytes
    return videos, values, labels, Source(str(Path(folder).resolve()), digest.hexdigest(), total)


def _images(folder: Path) -> tuple[Path, ...]:
    files = [each for each in folder.iterdir() if each.suffix.lower() in IMAGES and each.is_file()]
    by_number: dict[int, Path] = {}
    for file in sorted(files):
        number = _number(file)
        if number is None:
            raise InputError(
                f"{file}: expected a number in the name of each image, which says its place: 0001.png"
            )
        if number in by_number:
            raise InputError(f"{file}: has the number of {by_number[number].name}: give each image its own")
        by_number[number] = file
    return tuple(by_number[number] for number in sorted(by_number))


def _number(file: Path) -> int | None:
    """The last number in a file's name."""
    found = re.findall(r"\d+", file.stem)
    return int(found[-1]) if found else None


def _labels_of_table(table: Path, videos: list[Video]) -> tuple[list[tuple[str, ...]], list[Source]]:
    data, source = read_bytes(table)
    records = Records(io.BytesIO(data), ("sequence", "frame", "label"), format="csv", name=str(table))
    places: dict[str, dict[str, int]] = {}
    for video in videos:
        places[video.name] = {}
        for place, file in enumerate(video.files):
            places[video.name] |= {file.name: place, file.stem: place, str(_number(file)): place}
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for record in records:
        sequence, frame, label = (each.strip() for each in records.texts(record))
        where = f"{table}:{records.line}"
        if sequence not in places:
            raise InputError(
                f"{where}: there is no folder {sequence!r} of images.{nearest(sequence, places)}"
            )
        names = places[sequence]
        place = names.get(frame, names.get(frame.lstrip("0") or "0", -1))
        if place < 0:
            raise InputError(f"{where}: there is no image {frame!r} in {sequence!r}.{nearest(frame, names)}")
        if place in found[sequence]:
            raise InputError(
                f"{where}: frame {frame!r} of {sequence!r} has a label already, {found[sequence][place]!r}"
            )
        found[sequence][place] = label
    for video in videos:
        missing = next(
            (file for place, file in enumerate(video.files) if place not in found[video.name]), None
        )
        if missing is not None:
            raise InputError(
                f"{table}: {video.name}/{missing.name} has no label: add a row, or take the image out"
            )
    return [tuple(found[video.name][place] for place in range(len(video.files))) for video in videos], [
        source
    ]
