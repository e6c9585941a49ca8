"""Captioning: a sentence written from an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.options import option
from throughtime.tasks.files import check_part, check_sources, full_path, reading_again
from throughtime.tasks.task import Record, data_option, text_of
from throughtime.tasks.writing import WritingTask, reads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.readers.captions import Captioned
    from throughtime.metrics import Metric
    from throughtime.metrics.captions import Tokens, Written

PARTS = ("train", "validation", "test")
START, END, UNKNOWN = range(3)
SPECIAL = ("<start>", "<end>", "<unk>")


@dataclass(frozen=True)
class CaptionTask(WritingTask):
    """Train a model that writes a caption for an image.

    Reads COCO's JSON, or a table with the columns path and caption; several captions of one image are references. Of digits
    (IDX files, as MNIST has them, with their labels beside them) it composes scenes of one to three. A small convolutional
    network reads the image as a grid, and the decoder attends to its places. Without --data it learns to describe drawn scenes of
    shapes; those to validate and to test with show pairs of color and shape that no training image has.
    """

    name = "caption"
    shape = "one to many"
    reads = "images with COCO's JSON, or CSV with path and caption; IDX digits"
    examples = (
        "throughtime train caption",
        "throughtime train caption --data captions.json --images photos --min-count 5",
        "throughtime train caption --data train.csv --validation dev.csv --test test.csv --image-size 96",
        "throughtime train caption --data train-images-idx3-ubyte.gz --test t10k-images-idx3-ubyte.gz",
        "throughtime train caption --attention none --cell lstm",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 128, "embedding": 64, "dropout": 0.05, "bptt": "full", "batch": 16, "epochs": 4.0, "lr": 3e-3,
    }  # fmt: skip
    without = ("pooling", "window", "bidirectional")
    columns = ("path",)
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp"),
        "folder": ("/",),
    }

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    images: str | None = data_option(
        None,
        "Folder of the images. Default: that of the captions, or a folder images in it.",
        metavar="FOLDER",
    )
    image_size: int | None = data_option(
        None, "Scale images to so many rows and columns.", metavar="N", low=8, high=1024,
        default_text="64, of drawn scenes 48",
    )  # fmt: skip
    color: bool = data_option(True, "Read images in color, else in gray.")
    scenes: int = data_option(
        16_000, "Scenes to draw, or to compose of digits; --validation and --test are fractions of them, at most 500.",
        metavar="N", low=10, high=10_000_000,
    )  # fmt: skip
    tokens: str = data_option(
        "word", "What the decoder writes: word, or char for languages without spaces.", metavar="KIND",
        choices=("word", "char"),
    )  # fmt: skip
    lower: bool = data_option(True, "Captions in lower case.")
    min_count: int = data_option(
        1, "Words that occur less often in training are unknown, and never written.", metavar="N", low=1
    )
    skip_bad: bool = data_option(False, "Leave out captions and images that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the images into other parts, and draws other scenes.", metavar="N", low=0,
        high=2**63 - 1,
    )  # fmt: skip

    beam: int = option(
        3, "Hypotheses of beam search; 1 is greedy.", metavar="N", low=1, high=1000, panel="Decoding"
    )

    @property
    def unit(self) -> str:
        return "word" if self.tokens == "word" else "character"

    @property
    def title(self) -> str:
        return super().title if self.data else "scenes"

    def with_full_paths(self) -> Self:
        images = full_path(self.images) if self.images is not None else None
        return replace(super().with_full_paths(), images=images)

    def prepare(self, like: Assets | None = None) -> Assets:
        from collections import Counter

        from throughtime.data.assets import Assets
        from throughtime.tasks.caption_data import read_parts

        assets = Assets()
        data, parts, remarks = read_parts(self)
        assets.sources, assets.splits, assets.cache[self._key] = data.sources, parts, data
        assets.values = {"image": list(data.images.shape[1:]), "remarks": remarks}
        if like:
            if like.values.get("image") != assets.values["image"]:
                raise InputError(
                    f"init_from needs images as those of its own data, {like.values.get('image')} (colors, rows, columns), got "
                    f"{assets.values['image']}"
                )
            assets.labels = {"word": like.labels["word"]}
            return assets
        counts = Counter(
            word
            for number in parts["train"]
            for said in data.captions[number][: data.trained]
            for word in self.split(said)
        )
        words = sorted(
            (word for word in counts if counts[word] >= self.min_count),
            key=lambda word: (-counts[word], word),
        )
        if not words:
            raise InputError(
                f"no word occurs {self.min_count} times in the captions to train on: lower --min-count"
            )
        assets.labels = {"word": (*SPECIAL, *words)}
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.build import encoder_decoder, symbol_embedding
        from throughtime.models.image_encoder import ImageEncoder

        words, image = _kept(assets)
        features = config.sizes[-1]
        encoder = ImageEncoder(image, features, features, dropout=config.dropout)
        embedding = symbol_embedding(config, len(words))
        return encoder_decoder(config, encoder, embedding, len(words), **self.decoder_options())

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.captions import CaptionBLEU, ExactMatch

        written = self._written(assets)
        return [CaptionBLEU(written), ExactMatch(written)]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.metrics.captions import CaptionBLEU, ExactMatch
        from throughtime.tasks.baselines.captions import captions_by_baseline

        data = self._data(assets)
        train = [
            (number, tuple(self.split(said)))
            for number in assets.splits["train"]
            for said in data.captions[number][: data.trained]
        ]
        asked, references = self._asked(assets, split)
        rows = [number for number, _ in train]
        found: dict[str, dict[str, float] | str] = {}
        written = captions_by_baseline(
            data.images[rows], [words for _, words in train], asked, self.max_length
        )
        for name, captions in written.items():
            scores = [kind(self._written(assets)) for kind in (CaptionBLEU, ExactMatch)]
            for score in scores:
                for caption, right in zip(captions, references, strict=True):
                    score.add(caption, [self.split(each) for each in right])
            found[name] = {score.name: score.value() for score in scores}
        return found

    def predict(self, model: Any, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The caption of the image at each record's path."""
        for record in records:
            yield {"caption": self.caption(model, assets, self.image_at(assets, text_of(record, "path")))}

    def predict_file(
        self, model: Any, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """A row with path and caption for an image, or for each image of a folder."""
        from pathlib import Path

        from throughtime.data.readers.records import write_records

        files = [file]
        if form == "folder":
            suffixes = self.formats["image"]
            files = sorted(str(each) for each in Path(file).iterdir() if each.suffix.lower() in suffixes)
            if not files:
                raise InputError(f"{file}: expected images ({', '.join(suffixes)}), found none")
        write, bad = write_records(out, "csv", ("path", "caption")), list[str]()
        for each in files:
            try:
                image = self.image_at(assets, each)
            except InputError as error:
                if not skip_bad:
                    raise
                bad.append(str(error))
                continue
            write({"path": each, "caption": self.caption(model, assets, image)})
        return f"{len(bad)} images left out; the first is {bad[0]}" if bad else ""

    def show(self, model: Any, assets: Assets, record: Record, picture: str | None = None) -> str:
        """The caption of an image, and for each word where in the image it comes from; see `caption_show.shown`."""
        from throughtime.tasks.caption_show import shown

        words, _ = _kept(assets)
        image = self.image_at(assets, text_of(record, "path"))
        return shown(model, image, self.written(model, assets, image[None])[0], words, picture, START)

    def describe(self, assets: Assets) -> str:
        words, image = _kept(assets)
        source = (
            ", ".join(path.rstrip("/").rpartition("/")[2] for path in self.data)
            or "scenes of shapes, drawn from a seed"
        )
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} images to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; {len(words) - len(SPECIAL):,} {self.unit}s; images of {' x '.join(map(str, image))} (colors, rows, columns)"
            f"{remarks}"
        )

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        return [f"throughtime evaluate {path}", f"throughtime predict {path} IMAGE.png --show"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        words, _ = _kept(assets)
        return [words[number] for number in inputs.tolist()]

    def split(self, caption: str) -> list[str]:
        """The symbols of a caption: words without punctuation marks, or characters."""
        text = caption.lower() if self.lower else caption
        if self.tokens == "char":
            return list(" ".join(text.split()))
        from throughtime.data.words import tokenized

        return [token.text for token in tokenized(text) if any(map(str.isalnum, token.text))]

    def caption(self, model: Any, assets: Assets, image: Tensor) -> str:
        """What the model writes for an image [C, H, W]."""
        words, _ = _kept(assets)
        (symbols,) = self.written(model, assets, image[None])
        return ("" if self.tokens == "char" else " ").join(words[number] for number in symbols)

    def written(self, model: Any, assets: Assets, images: Tensor) -> list[list[int]]:
        """The symbols that the model writes for images [B, C, H, W]."""
        from throughtime.decoding import Limits

        limits = Limits(END, self.max_length, min_length=1, banned=(START, UNKNOWN))
        return [best[0].symbols for best in self.decode(model, images, limits, START)]

    def image_at(self, assets: Assets, path: str) -> Tensor:
        """An image as the model reads it, bytes [C, H, W]."""
        from pathlib import Path

        import torch

        from throughtime.data.readers.captions import as_bytes
        from throughtime.data.readers.frame_folders import read_image

        _, (colors, height, width) = _kept(assets)
        return torch.from_numpy(as_bytes(read_image(Path(path), (height, width), colors == 3)).copy())

    def _written(self, assets: Assets) -> Written:
        """What the model writes for the images of a batch, with all captions of each; the last batch is remembered."""
        from throughtime.data.readers.captions import image_key

        words, _ = _kept(assets)
        known: dict[bytes, list[list[str]]] = {}
        last: list[Any] = [None, []]

        def written(model: nn.Module, batch: Batch) -> list[tuple[Tokens, Sequence[Tokens]]]:
            if last[0] is not batch.context:
                if not known:
                    data = self._data(assets)
                    for image, texts in zip(data.images, data.captions, strict=True):
                        known.setdefault(image_key(image), []).extend(map(self.split, texts))
                captions = [
                    [words[number] for number in each] for each in self.written(model, assets, batch.context)
                ]
                references = [known[image_key(image)] for image in batch.context.numpy(force=True)]
                last[:] = batch.context, list(zip(captions, references, strict=True))
            found: list[tuple[Tokens, Sequence[Tokens]]] = last[1]
            return found

        return written

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        """A sequence for each caption of a training image, for the first of each other one."""
        words, _ = _kept(assets)
        numbers = {word: number for number, word in enumerate(words)}
        data = self._data(assets, split)
        pairs = [
            reads([numbers.get(word, UNKNOWN) for word in self.split(data.captions[image][said])], START, END)
            for image, said in self._rows(assets, split)
        ]
        return [read for read, _ in pairs], [targets for _, targets in pairs]

    def _context(self, assets: Assets, split: str) -> Tensor:
        """The image of each sequence, bytes [N, C, H, W]."""
        import torch

        images = self._data(assets, split).images
        return torch.from_numpy(images[[image for image, _ in self._rows(assets, split)]])

    def _rows(self, assets: Assets, split: str) -> list[tuple[int, int]]:
        """(image, which of its captions) of each sequence of a split."""
        data = self._data(assets, split)
        images = range(len(data)) if split == "all" else assets.splits.get(split, ())
        most = data.trained if split == "train" else 1
        return [(image, said) for image in images for said in range(len(data.captions[image][:most]))]

    def _asked(self, assets: Assets, split: str) -> tuple[Any, list[tuple[str, ...]]]:
        """The images of a split and all captions of each."""
        data, numbers = self._data(assets, split), assets.splits.get(split, [])
        return data.images[numbers], [data.captions[number] for number in numbers]

    @property
    def _key(self) -> str:
        return f"captioned/{self.data}/{self.validation}/{self.test}"

    def _data(self, assets: Assets, split: str = "") -> Captioned:
        """All images, of the run's own data or of other files."""
        if self._key not in assets.cache:
            from throughtime.tasks.caption_data import read_parts

            _, image = _kept(assets)
            same = bool(assets.splits) and split != "all"
            with reading_again() if same else nullcontext():
                data, _, _ = read_parts(self)
            if data.images.shape[1:] != image:
                raise InputError(
                    f"the model reads images of {' x '.join(map(str, image))} (colors, rows, columns), got "
                    f"{' x '.join(map(str, data.images.shape[1:]))}"
                )
            if split in PARTS:
                check_sources(assets, data.sources)
            assets.cache[self._key] = data
        found: Captioned = assets.cache[self._key]
        if split in PARTS and max(assets.splits.get(split, ()), default=0) >= len(found):
            raise RunError(
                f"the split in assets.json is damaged: it has an image beyond the {len(found)} there are"
            )
        return found


def _kept(assets: Assets) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    """The words, and (colors, rows, columns) of the images.

    Raises: RunError where `prepare` did not put them there.
    """
    words, image = assets.labels.get("word", ()), assets.values.get("image")
    if tuple(words[: len(SPECIAL)]) != SPECIAL or not isinstance(image, list) or len(image) != 3:
        raise RunError("the run's assets.json is damaged: it has no words or no size of the images")
    return words, (int(image[0]), int(image[1]), int(image[2]))
