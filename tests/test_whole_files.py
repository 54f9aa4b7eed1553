"""jaxnet/_files.py"""

import ast
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


def without_encoding(path: Path) -> list[str]:
    """The calls in a Python file that read or write text in whatever encoding the system has."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        modes = [ast.unparse(value) for value in node.args[1:2]] + [given.get("mode", "")]
        text = (
            (name.endswith((".read_text", ".write_text")) and name.split(".")[0] not in _OWN)
            or (name in ("open", "os.fdopen") and "b'" not in "".join(modes))
            or (name.startswith("subprocess.") and {"text", "universal_newlines"} & set(given))
        )
        if text and "encoding" not in given:
            found.append(f"{path}:{node.lineno} {ast.unparse(node)[:60]}")
    return found


_OWN = ("files", "whole_files", "data")  # jaxnet's functions of these names, which are UTF-8


@pytest.mark.parametrize("folder", ["jaxnet", "experiments", "benchmarks", "docs"])
def test_every_text_has_an_encoding(folder):
    root = Path(__file__).parents[1] / folder
    assert [call for path in sorted(root.rglob("*.py")) for call in without_encoding(path)] == []


def test_the_search_for_encodings_finds_what_lacks_one(tmp_path):
    (tmp_path / "a.py").write_text(
        "open(p)\nopen(p, 'rb')\np.read_text()\nfiles.write_text(p, t)\nopen(p, 'w')\n"
        "subprocess.run(w, text=True)\nopen(p, encoding='utf-8')\n"
    )
    found = [call.split(":")[1].split()[0] for call in without_encoding(tmp_path / "a.py")]
    assert sorted(found) == ["1", "3", "5", "6"]


def test_on_windows_a_folder_is_not_opened(tmp_path, monkeypatch):
    """The system refuses to open one there; the flush of a checkpoint must not."""
    (tmp_path / "a").touch()
    opened = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "open", lambda path, *_: opened.append(path))
    files.flush(tmp_path)
    assert opened == []
