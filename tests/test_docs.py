"""Every page of the documentation runs from top to bottom, in a folder with the files that its commands name."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
import shutil
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from throughtime.cli import main
from throughtime.data.inside.morse import messages, sound

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands that take minutes by design run here for a moment: the option that sets their length is replaced.
SHORT = {"--minutes": "0.03", "--epochs": "1"}
MOST_STEPS = 60
BUDGETS = ("--minutes", "--epochs", "--steps", "--resume", "--help")
MEASURED = (
    "measured"  # a ```bash measured block holds the commands behind a table of results: parsed, not run
)
SENTENCE = "The time traveller was expounding a recondite matter to us. His eyes shone and twinkled.\n"
Shell = Callable[[str], None]


def blocks(page: Path) -> list[tuple[str, str]]:
    """(what follows the fence, text) of each block, in order."""
    return re.findall(r"^```(\w[^\n]*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands(block: str) -> list[str]:
    """The lines of a block, continued ones joined, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def shortened(words: list[str]) -> list[str]:
    """The same command for a moment."""
    for option, value in SHORT.items():
        if option in words:
            words[words.index(option) + 1] = value
    if "--steps" in words and words[1] == "train":
        place = words.index("--steps") + 1
        words[place] = str(min(MOST_STEPS, int(words[place])))
    if words[1] == "demo":
        words += [] if "--minutes" in words else ["--minutes", SHORT["--minutes"]]
    elif words[1] == "train" and not set(words) & set(BUDGETS):
        words += ["--steps", "20"]
    return words


def write_data(folder: Path) -> None:
    """The files that pages call the reader's own."""
    for name in ("book.txt", "another.txt"):
        (folder / name).write_text(SENTENCE * 60, encoding="utf-8")
    moods = {"good": ("good", "fine", "great"), "bad": ("bad", "poor", "awful")}
    rows = [
        f'"a {moods[label][number % 3]} {thing}, number {number}",{label}\n'
        for number in range(10)
        for label in moods
        for thing in ("book", "film", "song")
    ]
    assert len(rows) == 60
    write_words(folder)
    write_messages(folder)
    (folder / "reviews.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    write_series(folder)
    tones = {"polite": "would you please {} the {}, dear", "blunt": "{} the {} now"}
    for name, line in tones.items():
        lines = [
            line.format(act, thing)
            for act in ("open", "close", "bring", "take")
            for thing in ("door", "box", "book", "map", "bag")
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    places = ("Rome", "Oslo", "Lima")
    tagged = [
        f"{name}\tB-per\nlives\tO\nin\tO\n{places[number % 3]}\tB-loc\n{number}\tO\n.\tO\n"
        for number in range(20)
        for name in ("Anna", "Bob")
    ]
    (folder / "people.conll").write_text("\n".join(tagged), encoding="utf-8")
    (folder / "news.conll").write_text("Anna\nlives\nin\nOslo\n\nBob\nsleeps\n", encoding="utf-8")
    (folder / "vectors.txt").write_text("anna 1 0\nrome 0 1\nthe 1 1\n", encoding="utf-8")
    months = [f"{1949 + n // 12}-{n % 12 + 1:02},{100 + 2 * n + 20 * (n % 12 > 5)}\n" for n in range(96)]
    (folder / "passengers.csv").write_text("month,passengers\n" + "".join(months), encoding="utf-8")
    clicks = [
        f"s{number},{item}," + f"{10 * number + place}\n"
        for number in range(60)
        for place, item in enumerate(
            ("home", ("shoes", "hats")[number % 2], f"item{number % 7}", f"item{number % 5}", "basket")
        )
    ]
    (folder / "clicks.csv").write_text("session,item,time\n" + "".join(clicks), encoding="utf-8")
    (folder / "events.csv").write_text("session,item\ns1,home\ns2,hats\ns1,shoes\n", encoding="utf-8")
    (folder / "events.txt").write_text("s1 home\ns2 hats\ns1 shoes\n", encoding="utf-8")
    (folder / "sessions.txt").write_text('home shoes\n["home", "hats"]\n', encoding="utf-8")
    asked = {"card_arrival": "where is my card", "parcel": "track the parcel", "person": "a person please"}
    rows = [f"{text} number {number},{label}\n" for number in range(20) for label, text in asked.items()]
    (folder / "orders.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    (folder / "answers.csv").write_text(
        "label,answer\ncard_arrival,In five days.\nparcel,See the number in your e-mail.\nperson,\n",
        encoding="utf-8",
    )
    (folder / "messages.txt").write_text("where is it\nI want a person\n", encoding="utf-8")
    pairs = "".join(
        f"how do I {act} a {thing},to {act} a {thing} come to desk {number}\n"
        for number, act in enumerate(("return", "borrow", "find", "renew", "order"))
        for thing in ("book", "film", "map", "record")
    )
    (folder / "faq.csv").write_text(f"question,answer\n{pairs}", encoding="utf-8")
    write_sentences(folder)
    desk = [("do you have the {}?", "Yes, on shelf {}."), ("and where is it?", "On floor {}.")]
    turns = [
        f"{number}\t{who}\t{text.format(thing if who == 'visitor' else number % 4)}\n"
        for number, thing in enumerate(f"{kind} {name}" for kind in ("old", "new", "big") for name in ("map", "record", "book"))
        for asked, reply in desk
        for who, text in (("visitor", asked), ("desk", reply))
    ]  # fmt: skip
    (folder / "dialogues.tsv").write_text("dialogue\tspeaker\ttext\n" + "".join(turns), encoding="utf-8")
    (folder / "asked.csv").write_text("question\nhow do I return a book\n", encoding="utf-8")
    scale = "".join(
        f"X:{n}\nR:{'jig' if n % 2 else 'air'}\nM:4/4\nK:C\nC{'DEFG' * (n + 1)}|\n\n" for n in range(12)
    )
    (folder / "tunes.abc").write_text(scale, encoding="utf-8")
    (folder / "music").mkdir()
    (folder / "music" / "chords.abc").write_text(scale.replace("\nC", "\n[CE]"), encoding="utf-8")
    (folder / "notes").mkdir()
    (folder / "notes" / "desk.txt").write_text(SENTENCE * 3 + "\n" + SENTENCE, encoding="utf-8")
    (folder / "questions.txt").write_text("0110\n111\n00010\n", encoding="utf-8")


def write_words(folder: Path) -> None:
    """Recordings of two classes: a tone that rises, and one that falls."""
    for number in range(24):
        label = ("yes", "no")[number % 2]
        (folder / "words" / label).mkdir(parents=True, exist_ok=True)
        pitch = [400 + 10 * number + (t if label == "yes" else 1000 - t) * 0.4 for t in range(1000)]
        phases = itertools.accumulate(2 * math.pi * each / 8000 for each in pitch)
        samples = [int(9000 * math.sin(phase)) for phase in phases]
        with wave.open(str(folder / "words" / label / f"{number // 2}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(struct.pack("<1000h", *samples))


def write_messages(folder: Path) -> None:
    """Morse code as a WAV, as bare samples, and a folder of recordings."""
    (folder / "recordings").mkdir()
    for number, message in enumerate(messages("test", 2)):
        samples = (sound(message) * 32767).astype("<i2").tobytes()
        for name in (f"recordings/{number}.wav", "message.wav"):
            with wave.open(str(folder / name), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes(samples)
        (folder / "message.pcm").write_bytes(samples)


def write_sentences(folder: Path) -> None:
    """Pairs of sentences, with tabs and as aligned files."""
    numbers, colors = ({"one": "un", "two": "deux", "three": "trois"}, {"red": "rouge", "green": "vert"})
    things = {"books": "livres", "pens": "stylos", "maps": "plans", "cups": "verres", "doors": "portes"}
    pairs = [
        (f"{number} {color} {thing}", f"{numbers[number]} {things[thing]} {colors[color]}")
        for number in numbers
        for color in colors
        for thing in things
    ]
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    for place, name in enumerate(("train.en", "train.fr")):
        (folder / name).write_text("".join(f"{pair[place]}\n" for pair in pairs), encoding="utf-8")
    (folder / "sentences.txt").write_text("two red pens\none green map\n", encoding="utf-8")
    (folder / "sentences.csv").write_text("source\ntwo red pens\n", encoding="utf-8")


def write_series(folder: Path) -> None:
    """Sequences of two numbers with a label each, with a label for each row, and as images."""
    sensors, steps = ["sequence,person,time,x,y,label\n"], ["sequence,x,y,label\n"]
    for number in range(30):
        label = ("wave", "point")[number % 2]
        for step in range(4 + number % 3):
            x, y = step / 10 + number % 7 / 50, (step % 2 if label == "wave" else step / 5) - number % 5 / 50
            sensors.append(f"{number},{number % 6},{step},{x},{y},{label}\n")
            steps.append(f"{number},{x},{y},{'up' if step % 2 else 'down'}\n")
    (folder / "sensors.csv").write_text("".join(sensors), encoding="utf-8")
    (folder / "steps.csv").write_text("".join(steps), encoding="utf-8")
    labels = ["sequence,frame,label\n"]
    for number, name in enumerate("abcdefghij"):
        (folder / "videos" / name).mkdir(parents=True)
        for step in range(4):
            pixels = bytes(255 if place == 3 * step + number else 0 for place in range(24 * 16))
            (folder / "videos" / name / f"{step:04d}.pgm").write_bytes(b"P5 24 16 255\n" + pixels)
            labels.append(f"{name},{step},{'first' if step < 2 else 'last'}\n")
    (folder / "videos" / "labels.csv").write_text("".join(labels), encoding="utf-8")
    write_photos(folder / "photos")


def write_photos(folder: Path) -> None:
    """Images of one color, named in a caption; as a table, and as COCO has them."""
    folder.mkdir()
    colors = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
    rows, entries = ["path,caption\n"], []
    for number in range(24):
        name, color = list(colors.items())[number % 3]
        (folder / f"{number}.ppm").write_bytes(b"P6 12 12 255\n" + bytes([*color, *([number] * 3)] * 72))
        rows.append(f"{number}.ppm,a {name} wall\n")
        entries.append(
            {"id": number, "file_name": f"{number}.ppm", "caption": f"a {name} wall", "image_id": number}
        )
    (folder / "captions.csv").write_text("".join(rows), encoding="utf-8")
    (folder / "captions.json").write_text(
        json.dumps({"images": entries, "annotations": entries}), encoding="utf-8"
    )
    (folder / "asked.csv").write_text("path\nphotos/1.ppm\nphotos/2.ppm\n", encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the reader's data, and the place that commands run in."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def shell(desk: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Run one line: a plain command in this process, which spares importing torch; what needs a shell, in one."""

    def run(line: str) -> None:
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif set(shlex.shlex(line, punctuation_chars=True)) & {"|", "<", ">", "&&", "<("}:
            program = f"{shlex.quote(sys.executable)} -m throughtime"
            script = f'set -eo pipefail; throughtime() {{ {program} "$@"; }}; {line}'
            done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
        else:
            assert words[0] == "throughtime", line
            capsys.readouterr()
            status = main(shortened(words)[1:])
            assert status == 0, f"{' '.join(words)}\n{capsys.readouterr().err}"

    return run


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.filterwarnings("default")  # a reader's snippet may meet a warning of torch's
def test_a_page_runs_from_top_to_bottom(
    page: Path, desk: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A python block whose first line is "# name.py" is a file of that name; others run, and share their variables."""
    namespace: dict[str, object] = {}
    for kind, text in blocks(page):
        if kind == "python":
            file = re.match(r"# (\w+)\.py\n", text)
            if file:
                (desk / f"{file[1]}.py").write_text(text, encoding="utf-8")
                monkeypatch.setitem(sys.modules, file[1], None)  # so that it is forgotten afterwards
                del sys.modules[file[1]]
            else:
                exec(compile(text, page.name, "exec"), namespace)
        elif kind == "bash":
            for line in commands(text):
                shell(line)


def test_a_process_prints_what_the_command_prints_here(
    desk: Path, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that running the pages in this process is enough; and a line with a pipe runs in a shell."""
    assert main(["train", "text", "--data", "book.txt", "--hidden", "8", "--steps", "3", "--out", "run"]) == 0
    command = "throughtime generate run --prompt The --length 50 --seed 1"
    shell(f"{command} > there.txt")
    capsys.readouterr()
    assert main(shlex.split(command)[1:]) == 0
    here = capsys.readouterr().out
    assert len(here) == 53
    assert (desk / "there.txt").read_text() == here
    with pytest.raises(AssertionError, match="no such run"):
        shell("throughtime generate nowhere | cat")
    with pytest.raises(AssertionError, match="no such run"):
        shell("throughtime generate nowhere")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_behind_figures_can_be_typed(page: Path, desk: Path, shell: Shell) -> None:
    """Their options exist and take those values; the files they name are public data, and need not be here."""
    for line in [
        line for kind, text in blocks(page) if kind == f"bash {MEASURED}" for line in commands(text)
    ]:
        words = shlex.split(line, comments=True)
        assert words[0] == "throughtime"
        if words[1:3] != ["train", "text"]:
            continue
        for number, word in enumerate(words):
            if word.endswith(".txt"):
                words[number] = Path(word).name
                (desk / words[number]).write_text("abc " * 9000, encoding="utf-8")
        for option in ("--minutes", "--epochs", "--steps"):
            if option in words:
                place = words.index(option)
                words[place : place + 2] = ["--steps", "1"]
        words[words.index("--out") + 1] = "run"
        shutil.rmtree(desk / "run", ignore_errors=True)
        shell(shlex.join([*words, "--no-baselines"]))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
