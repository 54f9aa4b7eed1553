"""jaxnet/_memory.py"""

import psutil
import pytest

from jaxnet import _memory as memory


def test_what_is_free_is_less_than_what_the_machine_has():
    free = memory.free_bytes()
    assert free is not None
    assert 0 < free < psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "5000\n", "memory.current": "2000\n"}, 3000),
        ({"memory.max": "5000\n", "memory.current": "6000\n"}, 0),
        ({"memory/memory.limit_in_bytes": "900\n", "memory/memory.usage_in_bytes": "1\n"}, 899),
        ({"memory.max": "max\n", "memory.current": "2000\n"}, None),
        ({"memory.max": "5000\n"}, None),
        ({}, None),
    ],
)
def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    if left is None:  # no limit: a machine that runs this has more than 10 MB
        assert memory.free_bytes() > 10_000_000
    else:
        assert memory.free_bytes() == left
