"""Outputs are written to what the path names, or refused before the work."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from throughtime.errors import InputError, RunError
from throughtime.files import check_writable, write_whole

not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every file and folder")


def script(code: str, *arguments: object, shell: str = "{}") -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, its command in the place of {} in a line of the shell."""
    setup = "import sys; from pathlib import Path; from throughtime.files import *\n"
    words = [sys.executable, "-c", setup + code, *map(str, arguments)]
    line = shell.format(" ".join(f"'{word}'" for word in words))
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    check_writable(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    write_whole(fifo, b"x" * 100_000)
    reader.join()
    assert read == [b"x" * 100_000]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert list(tmp_path.iterdir()) == [fifo]


def test_a_device_stays_a_device() -> None:
    before = os.stat("/dev/null")
    check_writable("/dev/null")
    write_whole("/dev/null", b"x")
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode) and (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-"])
@pytest.mark.parametrize("shell", ["{} | cat", "{} > out; cat out", "cd .; {} >> out; cat out"])
def test_standard_output_is_written_in_order(
    tmp_path: Path, path: str, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.startswith("/proc") and not os.path.exists("/proc/self/fd"):
        pytest.skip("there is no /proc on this system")
    monkeypatch.chdir(tmp_path)
    code = "print(1)\ncheck_writable(sys.argv[1])\nwrite_output(sys.argv[1], b'two\\n')\nprint(3)".replace(
        "'", '"'
    )
    done = script(code, path, shell=shell)
    assert (done.stdout, done.stderr) == ("1\ntwo\n3\n", "")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"out"}
    assert os.path.exists("/dev/stdout")


def test_a_reader_of_standard_output_that_left_is_a_broken_pipe() -> None:
    code = (
        "import time; time.sleep(0.3)\n"
        "try: write_output(sys.argv[1], bytes(10**6))\n"
        "except BrokenPipeError: sys.stderr.write(sys.argv[2])"
    )
    for path in ("-", "/dev/stdout"):
        assert script(code, path, "broken", shell="{} | true").stderr.startswith("broken")


def test_the_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link, second = tmp_path / "far" / "file", tmp_path / "link", tmp_path / "second"
    link.symlink_to("far/file")
    second.symlink_to(link)
    for content in (b"new", b"newer"):  # first the target is missing
        check_writable(second)
        write_whole(second, content)
        assert target.read_bytes() == content
    assert link.is_symlink() and second.is_symlink() and not target.is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["far", "file", "link", "second"]


def test_permissions_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    for mode in (0o600, 0o664, 0o755):
        file.chmod(mode)
        write_whole(file, b"new")
        assert stat.S_IMODE(file.stat().st_mode) == mode


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("é" * 127)  # 254 bytes
    check_writable(file)
    write_whole(file, b"x")
    assert file.read_bytes() == b"x"


def refusals(folder: Path) -> dict[str, str]:
    """Paths that cannot be written, and why."""
    (folder / "file").write_bytes(b"x")
    (folder / "loop").symlink_to("loop")
    (folder / "lost").symlink_to("none/file")
    return {
        "": "is a folder",
        "none/file": "no folder .*none",
        "lost": "no folder .*none",
        "file/below": "Not a directory",
        "loop": "symbolic links",
        "x" * 300: "name too long",
    }


def test_what_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    for name, why in refusals(tmp_path).items():
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=rf"(?i)cannot write .*{why}") as caught:
            check_writable(tmp_path / name)
        assert "\n" not in str(caught.value)
        with pytest.raises(RunError, match="cannot write"):
            write_whole(tmp_path / name, b"y")
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_bytes() == b"x"
    with pytest.raises(InputError, match="null"):
        check_writable(tmp_path / "a\0b")


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    check_writable(file)
    assert not file.exists()
    file.write_bytes(b"x")
    before = file.stat()
    check_writable(file)
    assert file.read_bytes() == b"x" and file.stat().st_mtime_ns == before.st_mtime_ns


@not_root
def test_files_and_folders_without_permission_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    file.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        for path, why in (
            (file, "no permission to write to it"),
            (tmp_path / "new", "no permission to write in"),
        ):
            with pytest.raises(InputError, match=why):
                check_writable(path)
            with pytest.raises(RunError, match="cannot write"):
                write_whole(path, b"y")
    finally:
        tmp_path.chmod(0o755)
    with pytest.raises(RunError, match="no permission"):  # the folder would allow to replace it
        write_whole(file, b"y")
    assert file.read_bytes() == b"x"


def test_other_descriptors_and_closed_ones(tmp_path: Path) -> None:
    done = script('write_output(sys.argv[1], b"x")', "/dev/fd/3", shell="{} 3>&1")
    assert (done.stdout, done.stderr) == ("x", "")
    code = "\ntry: check_writable(sys.argv[1])\nexcept Exception as error: sys.stderr.write(str(error))"
    assert "open for reading only" in script(code, "/dev/stdin", shell="{} < /dev/null").stderr
    assert "cannot write /dev/fd/7" in script(code, "/dev/fd/7").stderr
    assert "it is closed" in script(code, "-", shell="{} >&-").stderr
