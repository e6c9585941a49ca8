"""Sequences of numbers: what the readers read, what they refuse and where, and how numbers are scaled."""

from __future__ import annotations

import gzip
import io
import math
import os
import random
import struct

import numpy as np
import pytest
import torch

from throughtime.data import find_dataset
from throughtime.data.inside.ball_paths import SHAPES, ball_paths
from throughtime.data.inside.ball_videos import DIRECTIONS, _video, ball_videos
from throughtime.data.readers.frame_folders import find_videos
from throughtime.data.readers.long_table import LongTable
from throughtime.data.readers.series import (
    check_disjoint_series,
    fit_scale,
    found_features,
    holds_series,
    parse_values,
    read_series,
    scaled,
    sequence_keys,
)
from throughtime.errors import InputError

HEADER = "sequence,group,time,rss_1,rss_2,note,label\n"
ROWS = [
    "a,1,0.0,1,2.5,good,up",
    "a,1,0.1,-3,4e-1,bad,up",
    "b,2,0.0,5,6,good,down",
    "c,1,7,8,9,fine,up",
]


def table(tmp_path, rows, header=HEADER, name="long.csv"):
    path = tmp_path / name
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def refused(path, message, **settings):
    with pytest.raises(InputError, match=message) as error:
        read_series([path], **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_long_table_gives_its_columns_of_numbers(tmp_path):
    found = read_series([table(tmp_path, ROWS)], others=("group",))
    assert found.features == ("rss_1", "rss_2")  # no group, no time, no text
    assert [each.tolist() for each in found.values] == [
        [[1.0, 2.5], [-3.0, pytest.approx(0.4)]],
        [[5.0, 6.0]],
        [[8.0, 9.0]],
    ]
    assert (found.labels, found.names) == (["up", "down", "up"], ["a", "b", "c"])
    assert found.columns == {"group": ["1", "2", "1"]}
    assert found.remarks == ("long.csv: columns that are not read: note",)
    assert len(found.sources) == 1
    named = read_series([table(tmp_path, ROWS)], features=("RSS_2",))
    assert named.features == ("rss_2",) and named.values[0].shape == (2, 1)
    per_step = read_series([table(tmp_path, [*ROWS, "c,1,8,8,9,fine,down"])], per_step=True)
    assert per_step.labels == [("up", "up"), ("down",), ("up", "down")]
    tabs = table(tmp_path, [row.replace(",", "\t") for row in ROWS], HEADER.replace(",", "\t"), "long.tsv")
    assert [each.tolist() for each in read_series([tabs]).values] == [each.tolist() for each in found.values]
    twice = read_series([table(tmp_path, ROWS), tabs])
    assert len(twice) == 6 and len(twice.sources) == 2
    assert found_features(tabs, label="label") == ("rss_1", "rss_2")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1,0.2,x,2,good,up", r"long\.csv:4: expected 'rss_1' to be a finite number, got 'x'"),
        ("a,1,0.2,nan,2,good,up", r"long\.csv:4: expected 'rss_1' to be a finite number, got 'nan'"),
        ("a,1,0.2,1,-inf,good,up", r"long\.csv:4: expected 'rss_2' to be a finite number, got '-inf'"),
        ("a,1,0.2,,2,good,up", r"long\.csv:4: expected 'rss_1' to be a finite number, got an empty field"),
        ("a,1,0.2,1_0,2,good,up", r"long\.csv:4: expected 'rss_1' to be a finite number, got '1_0'"),
        ("a,1,0.2,1,2,good,down", r"long\.csv:4: sequence 'a' has the label 'down' here and 'up' from line 2"),
        ("a,1,0.2,1,2,good,", r"long\.csv:4: expected 'label' to hold a label, got an empty field"),
        ("a,1,0.05,1,2,good,up", r"long\.csv:4: time goes back from 0\.1 to 0\.05 inside sequence 'a'"),
        ("a,1,noon,1,2,good,up", r"long\.csv:4: expected 'time' to be a number or a date"),
        ("a,1,0.2,1,2,up", r"long\.csv:4: expected 7 fields .*, got 6"),
        ("a,1,0.2,1,2,good,up,", r"long\.csv:4: expected 7 fields .*, got 8"),
        (",1,0.2,1,2,good,up", r"long\.csv:4: expected 'sequence' to hold text, got an empty field"),
        ("a,2,0.2,1,2,good,up", r"long\.csv:4: sequence 'a' has group = '2' here and '1' from line 2"),
        ("b,1,0,1,2,good,up\na,1,9,1,2,good,up", r"long\.csv:5: sequence 'a' had ended before line 4: .* sort the file"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named(tmp_path, row, message):
    path = table(tmp_path, [*ROWS[:2], row])
    refused(path, message, others=("group",))
    rows = [*ROWS[:2], row, "d,1,0,1,1,good,up", "e,1,0,1,1,good,up", "e,1,1,1,1,good,up"]
    kept = read_series([table(tmp_path, rows)], others=("group",), skip_bad=True)
    # Whole sequences are left out: the one that was being read, and the one that follows, which may have lost its first row.
    assert kept.names[-1] == "e" and len(kept.values[-1]) == 2
    assert "d" not in kept.names and ("a" in kept.names) == row.startswith("b")
    assert any("bad rows skipped (1 bad rows)" in remark for remark in kept.remarks)


@pytest.mark.parametrize(
    ("header", "rows", "settings", "message"),
    [
        ("seqence,x,label\n", ["1,2,a"], {}, r"expected a column 'sequence'.*Did you mean 'seqence'"),
        ("sequence,x,lable\n", ["1,2,a"], {}, r"expected a column 'label'.*Did you mean 'lable'"),
        ("sequence,rss_1,label\n", ["1,2,a"], {"features": ("rs_1",)}, r"expected a column 'rs_1'.*Did you mean 'rss_1'"),
        ("sequence,x,label\n", ["1,2,a"], {"others": ("group",)}, "expected a column 'group'"),
        ("sequence,word,label\n", ["1,two,a"], {}, r"long\.csv:1: expected columns of numbers .*, found none"),
        ("sequence,x,label\n", [], {}, "expected rows of numbers below the header, found none"),
        ("sequence,x,x\n", ["1,2,3"], {}, "columns must have different names, got 'x' more than once"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used(tmp_path, header, rows, settings, message):
    refused(table(tmp_path, rows, header), message, **settings)


def test_rows_are_read_one_at_a_time():
    """What answers each row as it comes must not wait for the next."""

    class Slow(io.BytesIO):
        lines = 0

        def readline(self, *size):
            self.lines += 1
            return super().readline(*size)

    stream = Slow((HEADER + "".join(f"{row}\n" for row in ROWS)).encode())
    rows = iter(LongTable(stream, name="pipe.csv", features=("rss_1",), labelled=False, per_step=True))
    for number, expected in enumerate((1.0, -3.0, 5.0), start=2):
        assert next(rows).values == [expected]
        assert stream.lines == number


def test_dates_order_rows(tmp_path):
    header, rows = "sequence,date,x,label\n", ["1,2024-02-28,1,a", "1,2024-03-01,2,a"]
    assert read_series([table(tmp_path, rows, header)]).features == ("x",)
    refused(table(tmp_path, rows[::-1], header), r":3: date goes back from 2024-03-01 to 2024-02-28")


def npz(tmp_path, **arrays):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    return path


def test_npz_in_all_its_shapes(tmp_path):
    x = np.arange(24.0).reshape(3, 4, 2)
    found = read_series([npz(tmp_path, x=x, y=[1, 0, 1], day=[5, 5, 6])], others=("day",))
    assert [each.shape for each in found.values] == [(4, 2)] * 3
    assert found.labels == ["1", "0", "1"] and found.columns == {"day": ["5", "5", "6"]}
    assert found.values[1].tolist() == x[1].tolist()
    assert (
        read_series([npz(tmp_path, x=x[..., 0], y=["a", "b", "c"])]).values[2].tolist()
        == x[2, :, :1].tolist()
    )
    joined = read_series([npz(tmp_path, x=x.reshape(12, 2), y=[0, 1], lengths=[5, 7])])
    assert [each.tolist() for each in joined.values] == [
        x.reshape(12, 2)[:5].tolist(),
        x.reshape(12, 2)[5:].tolist(),
    ]
    padded = x.copy()
    padded[0, 2:] = np.nan  # in the padding, which nobody reads
    found = read_series([npz(tmp_path, x=padded, y=[0.0, 1.0, 2.0], lengths=[2, 4, 1])])
    assert [len(each) for each in found.values] == [2, 4, 1] and found.labels == ["0", "1", "2"]
    frames = np.arange(48.0).reshape(2, 3, 2, 4)
    found = read_series([npz(tmp_path, x=frames, y=[[0, 1, 1], [1, 1, 0]])], per_step=True)
    assert found.frame == (2, 4, 1) and found.values[1].tolist() == frames[1].reshape(3, 8).tolist()
    assert found.labels == [("0", "1", "1"), ("1", "1", "0")]
    found = read_series(
        [npz(tmp_path, x=frames.reshape(6, 2, 4), y=list("abcdef"), lengths=[2, 4])], per_step=True
    )
    assert found.labels == [("a", "b"), ("c", "d", "e", "f")] and len(found.values[1]) == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((2, 3))}, "expected an array x, the arrays are X"),
        ({"x": np.ones((2, 3)), "y": [1, 2, 3]}, r"y must be \[2\], a label for each sequence, got \[3\]"),
        ({"x": np.ones((2, 3)), "y": np.ones((2, 3))}, "a label for each step is for 'throughtime train frames'"),
        ({"x": np.ones((2, 3)), "y": [0.5, 1]}, "y must hold whole numbers or text, got float64"),
        ({"x": np.ones((2, 3, 4, 5)), "y": [0, 1]}, r"x must be \[N, T\], \[N, T, D\], .*, got \[2, 3, 4, 5\]"),
        ({"x": np.ones((0, 3)), "y": []}, "x must be"),
        ({"x": np.ones(4), "y": [0, 1]}, "x must be"),
        ({"x": np.ones((2, 3), complex), "y": [0, 1]}, "x must hold real numbers, got complex128"),
        ({"x": np.ones((5, 3)), "y": [0, 1], "lengths": [2, 2]}, "x must have as many rows as lengths adds up to, 4"),
        ({"x": np.ones((2, 3)), "y": [0, 1], "lengths": [0, 3]}, "lengths must be whole numbers"),
        ({"x": np.array([[1, 2], [3, np.nan]]), "y": [0, 1]}, "x must be finite, got nan in sequence 1, step 1, number 0"),
        ({"x": np.ones((2, 3))}, "expected labels, got none"),
        ({"x": np.array([[1, "a"]], object), "y": [0]}, "holds Python objects, which are not read"),
    ],
)  # fmt: skip
def test_npz_that_cannot_be_used(tmp_path, arrays, message):
    refused(npz(tmp_path, **arrays), message)


def test_a_file_that_is_no_npz(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 no")
    refused(path, "expected an .npz file")
    path.write_bytes(b"")
    refused(path, "expected an .npz file")


def idx(array, kind=8):
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def test_idx_images_find_their_labels(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(4, 2, 3) * 10
    labels = np.array([3, 1, 4, 1], np.uint8)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    found = read_series([path])
    assert found.labels == ["3", "1", "4", "1"] and len(found.sources) == 2
    torch.testing.assert_close(found.values[2], torch.from_numpy(images[2] / np.float32(255)))
    assert holds_series(path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels[:3]))
    refused(path, "expected a label for each of 4 images, got")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    refused(path, "expected labels, got none")
    path.write_bytes(gzip.compress(idx(images)[:-1]))
    refused(path, "is damaged: its header says 4 x 2 x 3, 24 bytes, and 23 follow")
    path.write_bytes(gzip.compress(idx(images))[:-9])
    refused(path, "cannot be unpacked|expected")


def test_what_holds_series(tmp_path):
    assert holds_series(table(tmp_path, ROWS))
    assert not holds_series(table(tmp_path, ["1,a b,x"], "sequence,text,label\n"))
    assert holds_series(table(tmp_path, ["1,a b,x"], "sequence,text,label\n"), text="body")
    assert not holds_series(table(tmp_path, ["a b,x"], "text,label\n", "texts.csv"))
    assert not holds_series(tmp_path / "nothing.csv") and not holds_series(tmp_path)
    assert holds_series(npz(tmp_path, x=[1]))


def pictures(tmp_path, frames=3, size=(4, 6)):
    image = pytest.importorskip(
        "PIL.Image", reason="Pillow is not installed: pip install 'throughtime[images]'"
    )
    root = tmp_path / "videos"
    draws = np.random.default_rng(1)
    pixels = {}
    for name in ("one", "two"):
        (root / name).mkdir(parents=True)
        pixels[name] = draws.integers(0, 256, (frames, *size), np.uint8)
        for number, frame in enumerate(pixels[name], start=9):  # 9, 10, 11: not the order of the alphabet
            image.fromarray(frame).save(root / name / f"frame{number}.png")
    return root, pixels


def test_folders_of_images(tmp_path):
    root, pixels = pictures(tmp_path)
    (root / "labels.csv").write_text(
        "sequence,frame,label\n"
        + "".join(f"{name},{n},{'ab'[n % 2]}\n" for name in ("two", "one") for n in (11, 9, 10))
    )
    found = read_series([root], per_step=True)
    assert found.names == ["one", "two"] and found.frame == (4, 6, 1)
    torch.testing.assert_close(
        found.values[1], torch.from_numpy(pixels["two"].reshape(3, 24) / np.float32(255))
    )
    assert found.labels == [("b", "a", "b")] * 2
    checksum = found.sources[0].sha256
    assert read_series([root], per_step=True, size=(2, 3)).frame == (2, 3, 1)
    assert read_series([root], per_step=True, color=True).frame == (4, 6, 3)
    (root / "labels.csv").write_text(
        (root / "labels.csv").read_text().replace("one,11,b", "one,frame11.png,a")
    )
    changed = read_series([root], per_step=True)
    assert changed.labels[0] == ("b", "a", "a") and changed.sources[0].sha256 != checksum
    (root / "labels.csv").unlink()
    for name in ("one", "two"):
        (root / name / "labels.txt").write_text("a\nb\nb\n")
    assert read_series([root], per_step=True).labels == [("a", "b", "b")] * 2
    alone = find_videos(root / "one")
    assert [video.name for video in alone] == ["one"] and [file.name for file in alone[0].files] == [
        "frame9.png", "frame10.png", "frame11.png"]  # fmt: skip


def test_folders_that_cannot_be_used(tmp_path):
    root, _ = pictures(tmp_path)
    refused(root, "expected labels, got none", per_step=True)
    refused(root, "expected a file of sequences, got a folder")
    labels = root / "labels.csv"
    rows = [f"{name},{n},a\n" for name in ("one", "two") for n in (9, 10, 11)]
    for broken, message in (
        (rows[:-1], r"two/frame11\.png has no label"),
        ([*rows, "one,12,a\n"], r"labels\.csv:8: there is no image '12' in 'one'"),
        ([*rows, "tow,9,a\n"], r"labels\.csv:8: there is no folder 'tow' of images\. Did you mean 'two'"),
        ([*rows, "one,9,b\n"], r"labels\.csv:8: frame '9' of 'one' has a label already, 'a'"),
        (["one,9\n"], r"labels\.csv:2: expected 3 fields"),
    ):
        labels.write_text("sequence,frame,label\n" + "".join(broken))
        refused(root, message, per_step=True)
    labels.unlink()
    for name in ("one", "two"):
        (root / name / "labels.txt").write_text("a\nb\n")
    refused(root, r"one/labels\.txt: expected 3 lines, a label for each image, got 2", per_step=True)
    (root / "one" / "labels.txt").write_text("a\n\nb\n")
    refused(root, r"one/labels\.txt:2: expected a label, got an empty line", per_step=True)
    for name in ("one", "two"):
        (root / name / "labels.txt").write_text("a\nb\na\n")
    (root / "two" / "frame10.png").write_bytes(b"no image")
    refused(root, r"frame10\.png: cannot be read as an image", per_step=True)
    (root / "two" / "frame10.png").unlink()
    other, _ = pictures(tmp_path / "other", size=(5, 6))
    (other / "one" / "frame10.png").rename(root / "two" / "frame10.png")
    refused(
        root, r"frame10\.png: expected an image of 4 x 6 pixels .*, got 5 x 6: .*--size 4,6", per_step=True
    )
    (root / "two" / "frame10.png").rename(root / "two" / "frame.png")
    refused(root, r"frame\.png: expected a number in the name", per_step=True)
    (root / "two" / "frame.png").rename(root / "two" / "other9.png")
    refused(root, r"other9\.png: has the number of frame9\.png", per_step=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "expected folders of images", per_step=True)


def test_values_of_a_record():
    assert parse_values("[[1, 2], [3, 4]]", 2).tolist() == [[1, 2], [3, 4]]
    assert parse_values([1, 2, 3], 1).tolist() == [[1], [2], [3]]
    assert parse_values(np.ones((3, 2, 2)), 4).shape == (3, 4)
    for bad in (
        "x",
        "[[1], [2, 3]]",
        [[1, 2, 3]],
        [],
        None,
        [["a", "b"]],
        "1",
        [[1, float("nan")]],
        {"a": 1},
    ):
        with pytest.raises(
            InputError, match="'values' must be a list of steps, each a list of 2 finite"
        ) as error:
            parse_values(bad, 2)
        assert "\n" not in str(error.value)


def test_scaling_by_the_training_part():
    torch.manual_seed(1)
    values = [
        torch.randn(t, 3) * torch.tensor([1.0, 50.0, 0.0]) + torch.tensor([2.0, -7.0, 0.1]) for t in (1, 4, 9)
    ]
    whole = torch.cat(values).double()
    each = fit_scale(values, "each")
    torch.testing.assert_close(torch.tensor(each["mean"], dtype=torch.float64), whole.mean(0))
    deviation = whole.std(0, correction=0)
    deviation[2] = 1  # what never changes is not divided by next to nothing
    torch.testing.assert_close(torch.tensor(each["deviation"], dtype=torch.float64), deviation)
    found = torch.cat([scaled(part, each) for part in values])
    torch.testing.assert_close(found.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    together = fit_scale(values, "all")
    torch.testing.assert_close(together["mean"], [float(whole.mean())])
    torch.testing.assert_close(together["deviation"], [float(whole.std(correction=0))])
    assert fit_scale(values, "none") == {} and scaled(values[1], {}) is values[1]


def test_equal_sequences_are_found():
    a, b, c = torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2, 3)
    assert len(set(sequence_keys([a, b, c]))) == 2
    assert check_disjoint_series({"train": [a], "test": [c]}) == []
    (remark,) = check_disjoint_series({"train": [a, c], "test": [b, b]})
    assert remark.startswith("2 of the 2 test sequences are also train sequences")


def test_paths_of_a_ball_are_drawn_the_same():
    found, again = ball_paths(30), ball_paths(30)
    assert sorted(set(found.labels)) == sorted(SHAPES)
    assert all(torch.equal(a, b) for a, b in zip(found.values, again.values, strict=True))
    assert not torch.equal(found.values[0], ball_paths(1, seed=1).values[0])
    assert all(20 <= len(each) <= 75 and bool(each.isfinite().all()) for each in found.values)
    assert len({len(each) for each in found.values}) > 5
    for name, shape in SHAPES.items():  # closed, and nowhere a jump
        points = [shape(n / 500) for n in range(500)]
        steps = [np.hypot(*np.subtract(points[n], points[n - 1])) for n in range(500)]
        assert max(steps) < 0.06, name


def test_what_a_ball_does_is_what_the_images_show():
    """The label of an image is of the step that led to it."""
    rows, columns = torch.arange(12.0)[:, None], torch.arange(12.0)
    seen = set()
    for number in range(40):
        found = {what: _video(random.Random(number), what) for what in ("direction", "bounce", "both")}
        images, labels = found["direction"]
        assert 30 <= len(images) == len(labels) <= 60 and labels[0] == "still"
        wall = (images == 0.5).all(0)
        far = [not bool((image[wall_near(wall)] > 0.05).any()) for image in images * ~wall]
        places = [
            (float((i * columns).sum() / i.sum()), float((i * rows).sum() / i.sum())) for i in images * ~wall
        ]
        for t in range(1, len(labels)):
            seen.add(labels[t])
            bounced, mixed = found["bounce"][1][t], found["both"][1][t]
            if labels[t] == "still":
                assert (bounced, mixed) == ("none", "still") and torch.equal(images[t], images[t - 1])
                continue
            if labels[t - 1] not in ("still", labels[t]):
                assert bounced == "bounce"
            elif labels[t - 1] == labels[t]:
                assert bounced == "none"
            assert mixed == ("bounce" if bounced == "bounce" else labels[t])
            dx, dy = places[t][0] - places[t - 1][0], places[t - 1][1] - places[t][1]
            inside = all(1.5 < each < 9.5 for place in places[t - 1 : t + 1] for each in place)
            if far[t] and far[t - 1] and inside:
                angle = math.atan2(dy, dx)
                assert DIRECTIONS[round(angle / (math.pi / 4)) % 8] == labels[t]
    assert seen == {"still", *DIRECTIONS}
    first, again = ball_videos("both", 3), ball_videos("both", 3)
    assert all(torch.equal(a, b) for a, b in zip(first.values, again.values, strict=True))


def wall_near(wall):
    """The pixels at most two from a wall."""
    return torch.nn.functional.max_pool2d(wall[None, None].float(), 5, stride=1, padding=2)[0, 0].bool()


@pytest.mark.skipif("THROUGHTIME_DATA" not in os.environ, reason="THROUGHTIME_DATA is not set")
def test_public_data():
    found = read_series([find_dataset("indoor_movement/indoor_movement.csv")], others=("group",))
    assert (len(found), found.features) == (314, ("rss_1", "rss_2", "rss_3", "rss_4"))
    assert sum(map(len, found.values)) == 13_197 and set(found.columns["group"]) == {"1", "2", "3"}
    digits = read_series([find_dataset("mnist/t10k-images-idx3-ubyte.gz")])
    assert len(digits) == 10_000 and digits.values[0].shape == (28, 28) and len(set(digits.labels)) == 10
    assert float(digits.values[random.Random(1).randrange(10_000)].max()) <= 1.0
