"""Captions with images: what is read of COCO's JSON and of tables, what is refused, and what is drawn."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest

from throughtime.data.inside import scenes as drawn
from throughtime.data.inside.digit_scenes import digit_scenes
from throughtime.data.inside.scenes import COLORS, HELD_OUT, MIRRORED, SHAPES, Group, Scene, scenes
from throughtime.data.readers.captions import image_key, read_captions
from throughtime.errors import InputError


@pytest.fixture
def photos(tmp_path):
    """Three images of different sizes, captions of two of them as COCO's JSON and as a table."""
    pillow = pytest.importorskip(
        "PIL.Image", reason="Pillow is not installed: pip install 'throughtime[images]'"
    )
    (tmp_path / "images").mkdir()
    for number, size in enumerate(((9, 7), (5, 5), (8, 20))):
        pixels = np.full((*size, 3), (40 * number, 200, 0), np.uint8)
        pillow.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "captions.json").write_text(json.dumps(coco()))
    (tmp_path / "captions.csv").write_text(
        "path,caption\nimages/0.png,A dog runs.\nimages/1.png,A cat.\nimages/0.png,The  dog\n"
    )
    return tmp_path


def coco(**changes):
    found = {
        "images": [{"id": 7, "file_name": "0.png"}, {"id": "b", "file_name": "1.png"}],
        "annotations": [
            {"image_id": 7, "caption": "A dog runs."},
            {"image_id": "b", "caption": "A cat."},
            {"image_id": 7, "caption": "The  dog"},
        ],
    }
    return {**found, **changes}


@pytest.mark.parametrize("file", ["captions.json", "captions.csv", ""])
def test_captions_of_one_image_are_together(photos, file):
    found = read_captions(photos / file, 6)
    assert found.captions == (("A dog runs.", "The dog"), ("A cat.",)) and found.trained is None
    assert found.images.shape == (2, 3, 6, 6) and found.images.dtype == np.uint8
    assert found.images[1, :, 2, 3].tolist() == [40, 200, 0]
    assert read_captions(photos / file, 6, color=False).images.shape == (2, 1, 6, 6)
    # The fingerprint is of captions and images: a pixel that changes is noticed.
    before = found.sources[0].sha256
    (photos / "images" / "1.png").write_bytes((photos / "images" / "0.png").read_bytes())
    assert read_captions(photos / file, 6).sources[0].sha256 != before


def test_images_in_another_folder(photos):
    (photos / "images").rename(photos / "elsewhere")
    with pytest.raises(InputError, match=r"annotation 1: there is no image .*0\.png.* --images"):
        read_captions(photos / "captions.json", 6)
    assert len(read_captions(photos / "captions.json", 6, images=str(photos / "elsewhere"))) == 2


BAD = [
    (coco(annotations=[{"image_id": 9, "caption": "x"}, *coco()["annotations"]]), "annotation 1: there is no image with the id"),
    (coco(annotations=[*coco()["annotations"], {"image_id": 7, "caption": " "}]), "annotation 4: expected a caption, got an"),
    (coco(annotations=[*coco()["annotations"], {"image_id": 7}]), "annotation 4: expected an image_id and a caption"),
    (coco(images=[*coco()["images"], {"id": 7, "file_name": "2.png"}]), "image 3: has the id 7 of another image"),
    (coco(images=[*coco()["images"], {"id": True, "file_name": "2.png"}]), "image 3: expected an id and a file_name"),
    (coco(images=[{"id": 7, "file_name": "0.png"}, {"id": "b", "file_name": "captions.json"}]), "annotation 2: .* as an image"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_entries_are_refused_or_left_out(photos, data, message):
    (photos / "captions.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as error:
        read_captions(photos / "captions.json", 6)
    assert "\n" not in str(error.value) and "--skip-bad" in str(error.value)
    found = read_captions(photos / "captions.json", 6, skip_bad=True)
    assert found.captions[0] == ("A dog runs.", "The dog")
    assert "bad rows left out; the first is" in found.remarks[0]


def test_bad_rows_of_a_table(photos):
    table = photos / "captions.csv"
    table.write_text("image,caption\nimages/0.png,A dog\nimages/9.png,A cat\nimages/1.png,\n")
    with pytest.raises(InputError, match=r"captions\.csv:3: there is no image .*9\.png"):
        read_captions(table, 6)
    found = read_captions(table, 6, skip_bad=True)
    assert found.captions == (("A dog",),) and len(found.remarks) == 2
    table.write_text("path,caption\nimages/0.png,\n")
    with pytest.raises(InputError, match=r"captions\.csv:2: expected 'caption' to hold text"):
        read_captions(table, 6)
    with pytest.raises(
        InputError, match=r"expected images with captions, found none; .*captions\.csv: 1 bad row"
    ):
        read_captions(table, 6, skip_bad=True)
    for name, text, message in (
        ("captions.json", "[]", "expected a JSON object with a list 'images'"),
        ("captions.json", "{", "expected JSON with images and annotations"),
        ("captions.csv", "path,text\na,b\n", "expected a column 'caption'"),
    ):
        (photos / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_captions(photos / name, 6)
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected a folder with captions\.json"):
        read_captions(photos / "empty", 6)


def pairs_of(captions):
    """The pairs of color and shape that captions name."""
    words = [caption.split() for caption in captions]
    shapes = {form: shape for shape in SHAPES for form in (shape, f"{shape}s")}
    return {
        (a, shapes[b]) for each in words for a, b in itertools.pairwise(each) if a in COLORS and b in shapes
    }


def test_every_held_out_scene_shows_a_pair_that_training_has_not():
    held = {part: set(pairs) for part, pairs in HELD_OUT.items()}
    assert not held["validation"] & held["test"]
    seen = {part: [pairs_of(said) for said in scenes(part, 300).captions] for part in ("train", *HELD_OUT)}
    assert all(not pairs & (held["validation"] | held["test"]) and pairs for pairs in seen["train"])
    assert all(pairs & held["test"] and not pairs & held["validation"] for pairs in seen["test"])
    assert all(pairs & held["validation"] and not pairs & held["test"] for pairs in seen["validation"])
    known = set().union(*seen["train"])
    assert {color for color, _ in known} == set(COLORS) and {shape for _, shape in known} == set(SHAPES)


def test_scenes_are_the_same_for_the_same_seed():
    one, same, other = scenes("train", 20), scenes("train", 20), scenes("train", 20, seed=1)
    assert (one.images == same.images).all() and one.captions == same.captions
    assert not (one.images == other.images).all()
    assert scenes("test", 2, size=31).images.shape == (2, 3, 31, 31)
    assert len({image_key(image) for image in one.images}) == 20


@pytest.mark.parametrize("relation", MIRRORED)
def test_the_caption_is_what_the_image_shows(relation):
    """Found in the pixels: the mean place of each color, and for "inside" which one is covered by the other."""
    count = 1 if relation == "inside" else 2
    scene = Scene(
        Group(1, "small", "red", "circle"),
        relation,
        Group(count, "large" if count == 1 else "", "green", "square"),
    )
    draws, noise = random.Random(3), np.random.default_rng(3)
    for _ in range(20):
        image = drawn.draw(scene, draws, noise)
        red, green = image[..., 0] - image[..., 1] > 0.3, image[..., 1] - image[..., 0] > 0.3
        (y, x), (y_too, x_too) = (np.argwhere(mask).mean(0) for mask in (red, green))
        if relation == "inside":
            rows, columns = np.argwhere(green).T
            assert rows.min() < y < rows.max() and columns.min() < x < columns.max()
            continue
        found = {"left of": x_too - x, "right of": x - x_too, "above": y_too - y, "below": y - y_too}
        assert max(found, key=found.__getitem__) == relation
    other = "a large green square" if count == 1 else "two green squares"
    assert scene.captions() == (
        f"a small red circle {relation} {other}",
        f"{other} {MIRRORED[relation]} a small red circle",
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_its_area(shape):
    """Antialiased coverage adds up to the area of the shape, wherever its middle lies."""
    r = 7.0
    areas = {
        "circle": np.pi * r**2,
        "square": (1.7 * r) ** 2,
        "triangle": 3 * np.sqrt(3) / 4 * (1.2 * r) ** 2,
        "star": 10 * 0.5 * (1.2 * r) * (0.5 * r) * np.sin(np.pi / 5),
    }
    for x, y, turn in ((23.5, 23.5, 0.0), (20.1, 25.7, 0.15)):
        cover = drawn._cover(shape, x, y, r, turn, True, 48)
        assert cover.sum() == pytest.approx(areas[shape], rel=0.03)
        assert drawn._cover(shape, 2 * x, 2 * y, r, turn, True, 96).max() == 1.0


def digits(count=30):
    """Images 28 x 28 that are blank but for one pixel column of the digit's own brightness."""
    images = np.zeros((count, 28, 28), np.float32)
    labels = [str(number % 10) for number in range(count)]
    for number in range(count):
        images[number, 10:18, 13:15] = (number % 10 + 1) / 10
    return images, labels


def test_scenes_of_digits_say_where_they_are():
    images, labels = digits()
    found = digit_scenes(images, labels, "test", 60)
    assert found.images.shape == (60, 1, 64, 64) and found.trained == 1
    words = "zero one two three four five six seven eight nine"
    names = {name: (number + 1) / 10 for number, name in enumerate(words.split())}
    kinds = set()
    for image, captions in zip(found.images[:, 0] / 255, found.captions, strict=True):
        said = captions[0].removeprefix("three digits: ").split()
        values = [names[word] for word in said if word in names]
        assert sorted({round(float(v), 1) for v in image[image > 0.05]}) == sorted(set(values))
        assert ("three digits" in captions[0]) == (len(values) == 3) and " a eight" not in captions[0]
        if len(set(values)) == 2 and len(values) == 2:
            (y, x), (y_too, x_too) = (np.argwhere(abs(image - value) < 0.01).mean(0) for value in values)
            place = {"left": x_too - x, "right": x - x_too, "above": y_too - y, "below": y - y_too}
            relation = next(word for word in said if word in place)
            assert max(place, key=place.__getitem__) == relation and len(captions) == 2
            kinds.add(relation)
    assert kinds == {"left", "right", "above", "below"}
    assert (digit_scenes(images, labels, "test", 60).images == found.images).all()
    with pytest.raises(InputError, match="up to three digits, and the test part has 2"):
        digit_scenes(images[:2], labels[:2], "test", 1)
