"""jaxnet/_files.py"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxnet import _files as files


def test_text_is_utf8_with_the_line_ends_that_were_given(tmp_path):
    files.write_text(tmp_path / "a", "ü\n✓\r\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc\n\xe2\x9c\x93\r\n"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_text(tmp_path / "a", "old")

    def half():
        with files.replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(FileNotFoundError):
        files.write_text(tmp_path / "no folder" / "a", "new")


@pytest.mark.skipif(os.name != "posix", reason="needs access rights")
def test_access_rights_stay(tmp_path):
    (tmp_path / "a").touch(mode=0o640)
    (tmp_path / "a").chmod(0o640)
    files.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_the_content_is_flushed_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(handle):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def seen_replace(source, target):
        done.append("rename")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs Linux, to see what a handle is of")
    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    files.write_text(tmp_path / "a", "new")
    assert done == ["file", "rename", "folder"]


def test_a_long_name_has_room_for_the_hidden_one(tmp_path):
    files.write_text(tmp_path / ("a" * 255), "new")
    assert [len(p.name) for p in tmp_path.iterdir()] == [255]


def test_a_folder_that_cannot_be_filled_goes(tmp_path):

    def half():
        with files.filling(tmp_path / "new") as folder:
            (folder / "a").touch()
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError), files.filling(tmp_path / "there"):
        raise AssertionError("it was there already")


def test_a_lock_holds_other_processes_off_until_it_is_closed(tmp_path):
    program = f"""
from pathlib import Path
from jaxnet import _files as files
try:
    files.lock(Path({str(tmp_path / "lock")!r}), wait=False)
    print("locked")
except BlockingIOError:
    print("busy")
"""

    def other() -> str:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        return done.stdout.strip() or done.stderr

    handle = files.lock(tmp_path / "lock", wait=True)
    assert other() == "busy"
    os.close(handle)
    assert other() == "locked"


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNET_CACHE", "~/mine")
    assert files.cache_folder() == Path("~/mine").expanduser()
    monkeypatch.setenv("JAXNET_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert files.cache_folder() == tmp_path / "jaxnet"
    assert files.cache_folder().name in ("jaxnet", "Cache")


def test_nothing_heavy_comes_with_it():
    """benchmarks.gpu loads the file alone, in a process that must stay small."""
    path = Path(files.__file__)
    program = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", {str(path)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print([name for name in ("jax", "numpy", "jaxnet") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
