"""jaxnet/data/_sharded.py"""

import itertools
import json
import os
import shutil
import sys

import numpy as np
import pytest

from jaxnet import data
from tests import forked

DATA = os.environ.get("JAXNET_DATA")
ROWS = 47
SHARDS = (20, 3, 24)


def encode(i):
    return np.array([i, -i], np.float32).tobytes()


def decode(record):
    values = np.frombuffer(record, np.float32)  # np.load is not safe in threads of Python 3.11
    return values, int(values[0])


def write(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    pytest.importorskip("grain")
    folder = tmp_path_factory.mktemp("shards")
    rows = iter(range(ROWS))
    for i, length in enumerate(SHARDS):
        part = [encode(row) for row in itertools.islice(rows, length)]
        write(folder / f"part.array_record-{i:05d}-of-{len(SHARDS):05d}", part)
    return folder


def reader(files, batch_size=8, **options):
    return data.ShardedReader(files, batch_size, **{"decode": decode, **options})


def rows(batches):
    return [batch[1].tolist() for batch in batches]


def joined(lists):
    return [*itertools.chain.from_iterable(lists)]


def test_records_as_they_lie(shards):
    whole = reader(shards)
    batches = list(whole)
    assert len(whole) == len(batches) == 6
    values, labels = batches[0]
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [[i, -i] for i in range(8)])
    assert labels.tolist() == list(range(8))
    assert joined(rows(batches)) == list(range(ROWS))
    assert len(batches[-1][1]) == 7
    assert rows(reader(shards, drop_last=True)) == rows(batches[:-1])
    turned = [shards / f"part.array_record-{i:05d}-of-00003" for i in (2, 0, 1)]
    assert rows(reader(turned))[0] == list(range(23, 31))
    assert rows(reader(turned[2], 5)) == [[20, 21, 22]]


def test_an_order_for_each_seed_and_epoch(shards):
    once = rows(reader(shards, seed=3, epochs=3))
    assert len(once) == 18
    assert rows(reader(shards, seed=3, epochs=3)) == once
    assert rows(reader(shards, seed=3, epochs=3, num_workers=0)) == once
    assert rows(reader(shards, seed=4, epochs=3)) != once
    epochs = [joined(once[i : i + 6]) for i in (0, 6, 12)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(ROWS))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    endless = reader(shards, seed=3, epochs=None)
    assert rows(itertools.islice(endless, 18)) == once
    with pytest.raises(TypeError, match="never ends has no length"):
        len(endless)


@pytest.mark.parametrize("seed", [None, 5])
def test_shares_are_disjoint_and_complete(shards, seed):
    def share(i, drop_last=False):
        return reader(shards, 4, seed=seed, epochs=2, process_index=i, process_count=3,
                      drop_last=drop_last)  # fmt: skip

    shares = [share(i) for i in range(3)]
    epochs = []
    for part in shares:
        cut = part.batches_per_epoch
        batches = rows(part)
        assert len(batches) == 2 * cut
        epochs.append((joined(batches[:cut]), joined(batches[cut:])))
    for epoch in (0, 1):
        assert sorted(joined(part[epoch] for part in epochs)) == list(range(ROWS))
    even = [rows(share(i, drop_last=True)) for i in range(3)]
    assert [len(part) for part in even] == [6, 6, 6]
    assert {len(batch) for part in even for batch in part} == {4}
    first = [row for part in even for batch in part[:3] for row in batch]
    assert len({*first}) == len(first) == 36


@pytest.mark.parametrize("done", [0, 1, 5, 6, 17, 18])
def test_a_resumed_reader_gives_what_was_left(shards, done):
    batches = iter(reader(shards, seed=3, epochs=3))
    list(itertools.islice(batches, done))
    state = json.loads(json.dumps(batches.get_state()))
    left = rows(batches)
    assert len(left) == 18 - done
    other = iter(reader(shards, seed=3, epochs=3, num_workers=1, prefetch_factor=5))
    next(other)
    other.set_state(state)
    assert other.get_state() == state
    assert rows(other) == left
    batches.set_state(state)
    assert rows(batches) == left
    batches.close()


@pytest.mark.slow
def test_another_process_goes_on_elsewhere(shards, tmp_path):
    moved = shutil.copytree(shards, tmp_path / "moved")
    batches = iter(reader(shards, seed=9, epochs=2))
    next(batches)
    code = (
        "import json, sys; from tests.data.test_sharded import reader, rows\n"
        "batches = iter(reader(sys.argv[1], seed=9, epochs=2))\n"
        "batches.set_state(json.loads(sys.argv[2])); print(rows(batches))"
    )
    arguments = [str(moved), json.dumps(batches.get_state())]
    done = forked.run("-c", code, *arguments)
    assert done.stdout.strip() == str(rows(batches)), done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch_size": 4}, "its batch_size is 8, this reader's 4"),
        ({"seed": 4}, "its seed is 3, this reader's 4"),
        ({"drop_last": True}, "its drop_last is False"),
        ({"process_index": 1, "process_count": 2}, "its process_index is 0"),
        ({"files": 1}, "its files is"),
        ({"epochs": 1}, "17 batches were given, but this reader has 6; raise epochs"),
    ],
)
def test_a_state_of_another_reader_is_refused(shards, change, says):
    batches = iter(reader(shards, seed=3, epochs=3))
    list(itertools.islice(batches, 17))
    options = {"batch_size": 8, "seed": 3, "epochs": 3} | change
    files = sorted(shards.iterdir())[:2] if options.pop("files", 0) else shards
    with pytest.raises(ValueError, match=says):
        iter(reader(files, **options)).set_state(batches.get_state())


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({}, "it has no 'files'"),
        ({"batches": -1}, "batches: -1"),
        ({"batches": "1"}, "batches: '1'; accepted is an integer"),
    ],
)
def test_what_is_no_state(shards, state, says):
    batches = iter(reader(shards))
    with pytest.raises(ValueError, match=says):
        batches.set_state(batches.get_state() | state if state else state)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size: 0; accepted is an integer, at least 1"),
        ({"batch_size": True}, "batch_size: True"),
        ({"seed": -1}, "seed: -1; accepted is an integer from 0 to 4294967295"),
        ({"seed": 2**32}, "seed: 4294967296"),
        ({"epochs": 0}, "epochs: 0"),
        ({"num_workers": -1}, "num_workers: -1"),
        ({"prefetch_factor": 0}, "prefetch_factor: 0"),
        ({"process_index": 1}, "give both or neither"),
        ({"process_index": 2, "process_count": 2}, "process_index: 2; .* from 0 to 1"),
        ({"process_index": 0, "process_count": 0}, "process_count: 0"),
        ({"process_index": 0, "process_count": 48}, "48; there are only 47 records"),
        ({"batch_size": 48, "drop_last": True}, "48; this process has 47 records .* at most 47"),
        ({"split": "train"}, "split: 'train'; only a prepared data set"),
    ],
)
def test_arguments_outside_their_range(shards, options, says):
    with pytest.raises(ValueError, match=says):
        reader(shards, **options)


def test_missing_and_damaged_shards_are_named(shards, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nope"):
        reader(tmp_path / "nope")
    with pytest.raises(FileNotFoundError, match="no array_record files in it"):
        reader(tmp_path)
    with pytest.raises(ValueError, match="none given"):
        reader([])
    folder = shutil.copytree(shards, tmp_path / "hurt")
    (folder / "part.array_record-00001-of-00003").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 shards are missing.*record-00001-of-00003"):
        reader(folder)
    (folder / "part.array_record-00001-of-00003").write_bytes(b"no records")
    with pytest.raises(ValueError, match=r"00001-of-00003: damaged or no array_record"):
        reader(folder)
    (folder / "part.array_record-00001-of-00003").write_bytes(b"")
    with pytest.raises(ValueError, match=r"00001-of-00003: damaged or no array_record"):
        reader(folder)


def test_a_damaged_record_is_named(tmp_path):
    pytest.importorskip("grain")
    noise = np.random.default_rng(0)
    file = tmp_path / "one.array_record"
    write(file, [noise.bytes(3000) for _ in range(40)])
    raw = bytearray(file.read_bytes())
    raw[70_000:70_200] = bytes(200)
    file.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"one\.array_record, record \d+: damaged"):
        list(data.ShardedReader(file, 4))


def test_an_error_of_decode_says_where(shards):
    def bad(record):
        if decode(record)[1] == 21:
            raise KeyError("pixels")
        return 0

    with pytest.raises(KeyError, match="pixels") as caught:
        list(reader(shards, decode=bad))
    assert any("00001-of-00003, record 1" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("workers", [0, 4])
def test_after_an_error_the_batches_behind_it_come(shards, workers):
    def bad(record):
        values, i = decode(record)
        if i in (9, 46):
            raise OSError(f"record {i}")
        return values, i

    batches = iter(reader(shards, decode=bad, num_workers=workers))
    seen, states = [], []
    while (batch := _next(batches)) is not None:
        seen.append(batch if isinstance(batch, str) else batch[1].tolist())
        states.append(batches.get_state()["batches"])
    whole = rows(reader(shards))
    assert seen == [whole[0], "record 9", *whole[2:5], "record 46"]
    assert states == [1, 2, 3, 4, 5, 6]
    again = reader(shards, num_workers=workers).__iter__()
    again.set_state({**batches.get_state(), "batches": 3})
    assert rows(again) == whole[3:]


def _next(batches):
    try:
        return next(batches, None)
    except OSError as error:
        return str(error)


def test_nothing_is_left_out_in_silence(shards):
    """Grain takes StopIteration for the end, and None for a row that is filtered out."""

    def ends(record):
        raise StopIteration

    for options, says in (
        ({"decode": ends}, "decode: StopIteration at .*record 0"),
        ({"decode": lambda record: None}, "decode: it gave None for .*record 0"),
        ({"collate_fn": lambda samples: None}, "collate_fn: it gave None"),
    ):
        for workers in (0, 2):
            with pytest.raises((RuntimeError, ValueError), match=says):
                list(data.ShardedReader(shards, 2, num_workers=workers, **options))


def test_raw_records_and_a_collate_of_ones_own(shards):
    first = next(iter(data.ShardedReader(shards, 3)))
    assert first == [encode(0), encode(1), encode(2)]
    lengths = data.ShardedReader(shards, 3, collate_fn=len)
    assert list(lengths)[-1] == 2


@pytest.mark.data
def test_a_prepared_data_set():
    pytest.importorskip("grain")
    folder = f"{DATA}/tfds/mnist/3.0.1"
    batches = data.ShardedReader(
        folder, 100, split="test", seed=0, decode=lambda r: (r["image"], r["label"])
    )
    assert len(batches) == 100
    images, labels = next(iter(batches))
    assert images.shape == (100, 28, 28, 1)
    assert images.dtype == np.uint8
    assert set(labels.tolist()) == set(range(10))
    with pytest.raises(ValueError, match=r'split: None; .* give "train"'):
        data.ShardedReader(folder, 100)
    with pytest.raises(ValueError, match=r"split: 'all'; .* has 'train', 'test'"):
        data.ShardedReader(folder, 100, split="all")


def test_without_grain_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match="pip install grain array_record"):
        data.ShardedReader(tmp_path, 1)
