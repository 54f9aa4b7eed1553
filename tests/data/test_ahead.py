"""Loaders that read ahead or send ahead: errors, memory that is filled again, kinds of batches."""

import collections
import dataclasses
import json
import random
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data
from jaxnet.random import Generator

DEVICE = jax.devices()[0]
WAYS = [{}, {"num_workers": 2}, {"device": DEVICE}, {"num_workers": 2, "device": DEVICE}]


class Rows(data.Dataset[int]):
    """Eight rows, of which some fail."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i in self.bad:
            raise OSError(f"row {i} is broken")
        return i


@pytest.mark.parametrize("options", WAYS)
def test_an_error_stands_in_the_place_of_its_batch_and_the_others_come(options):
    batches = iter(data.DataLoader(Rows(3, 6), 2, **options))
    seen = []
    for _ in range(4):
        try:
            seen.append(next(batches).tolist())
        except OSError as error:
            seen.append(str(error))
    assert seen == [[0, 1], "row 3 is broken", [4, 5], "row 6 is broken"]
    assert next(batches, None) is None
    assert next(batches, None) is None


@pytest.mark.parametrize("options", WAYS[1:])
def test_an_error_of_a_sampler_comes_after_the_batches_before_it(options):
    def order():
        yield from [0, 1]
        raise OSError("no more rows")

    class Sampler:
        def __iter__(self):
            return order()

    batches = iter(data.DataLoader(Rows(), 2, sampler=Sampler(), **options))
    assert next(batches).tolist() == [0, 1]
    with pytest.raises(OSError, match="no more rows"):
        next(batches)
    assert list(batches) == []


def test_a_row_that_raises_stop_iteration_is_no_end():
    class Odd(Rows):
        def __getitem__(self, i):
            if i == 2:
                raise StopIteration
            return i

    with pytest.raises(RuntimeError, match="a row raised StopIteration"):
        list(data.DataLoader(Odd(), 2, num_workers=1))


class Refilled(data.IterableDataset[np.ndarray]):
    def __iter__(self):
        frame = np.zeros(1024, np.float32)
        for i in range(5):
            frame[:] = i
            yield frame


class RefilledByNumber(data.Dataset[np.ndarray]):
    frame = np.zeros(1024, np.float32)

    def __len__(self):
        return 5

    def __getitem__(self, i):
        self.frame[:] = i
        return self.frame


@pytest.mark.parametrize("dataset", [Refilled(), RefilledByNumber()])
@pytest.mark.parametrize("options", [{"device": DEVICE}, {"num_workers": 1}])
def test_batches_of_a_loader_within_a_loader_may_be_filled_again(dataset, options):
    loader = data.DataLoader(data.DataLoader(dataset, batch_size=None), **options)
    seen = []
    for batch in loader:
        time.sleep(0.02)  # what reads ahead is ahead now
        seen.append(float(batch.mean()))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.torch
def test_random_rows_of_a_subset_are_torchs():
    import torch
    from torch.utils import data as torch_data

    rows = range(10, 30)
    torch.manual_seed(3)
    theirs = torch_data.DataLoader(
        range(40), 8, sampler=torch_data.SubsetRandomSampler(rows), num_workers=0
    )
    expected = [[batch.tolist() for batch in theirs] for _ in range(2)]
    ours = data.DataLoader(range(40), 8, sampler=data.SubsetRandomSampler(rows, rngs=Generator(3)))
    assert [[batch.tolist() for batch in ours] for _ in range(2)] == expected

    given = torch.Generator().manual_seed(4)
    theirs = torch_data.DataLoader(
        range(40), 8, sampler=torch_data.SubsetRandomSampler(rows, generator=given)
    )
    ours = data.DataLoader(range(40), 8, sampler=data.SubsetRandomSampler(rows, Generator(4)))
    assert [b.tolist() for b in ours] == [b.tolist() for b in theirs]


@pytest.mark.torch
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", ["RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler"])
def test_torchs_own_samplers_give_torchs_batches(kind, batched):
    import torch
    from torch.utils import data as torch_data

    def options():
        sampler = {
            "RandomSampler": lambda: torch_data.RandomSampler(range(6)),
            "SubsetRandomSampler": lambda: torch_data.SubsetRandomSampler(range(6)),
            "WeightedRandomSampler": lambda: torch_data.WeightedRandomSampler(range(1, 7), 6),
        }[kind]()
        if batched:
            return {"batch_sampler": torch_data.BatchSampler(sampler, 2, False)}
        return {"sampler": sampler, "batch_size": 2}

    passes = []
    for loader in (torch_data.DataLoader, data.DataLoader):
        torch.manual_seed(0)
        batches = loader(range(6), **options())
        passes.append([[batch.tolist() for batch in batches] for _ in range(2)])
    assert passes[0] == passes[1]


@pytest.mark.parametrize("options", WAYS)
def test_dictionaries_keep_their_order_and_their_class(options):
    rows = [{"x": np.zeros(2), "label": i, 0: 1.0} for i in range(4)]
    assert list(next(iter(data.DataLoader(rows, 2, **options)))) == ["x", "label", 0]

    class Batch(collections.UserDict[str, np.ndarray]):
        pass

    loader = data.DataLoader(
        range(4), 2, collate_fn=lambda rows: Batch(b=np.array(rows), a=np.zeros(2)), **options
    )
    batch = next(iter(loader))
    assert isinstance(batch, Batch)
    assert list(batch) == ["b", "a"]
    kind = jax.Array if "device" in options else np.ndarray
    assert isinstance(batch["b"], kind)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    x: np.ndarray
    y: np.ndarray


def test_a_class_that_jax_knows_goes_to_the_device():
    loader = data.DataLoader(
        range(4), 2, collate_fn=lambda rows: Pair(np.array(rows), np.zeros(2)), device=DEVICE
    )
    batch = next(iter(loader))
    assert isinstance(batch, Pair)
    assert isinstance(batch.x, jax.Array)


@pytest.mark.torch
@pytest.mark.parametrize("options", WAYS)
def test_tensors_of_a_collate_fn_become_arrays(options):
    import torch
    from torch.utils import data as torch_data

    rows = torch_data.TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6))
    loader = data.DataLoader(rows, 2, collate_fn=torch_data.default_collate, **options)
    x, y = next(iter(loader))
    kind = jax.Array if "device" in options else np.ndarray
    assert isinstance(x, kind)
    assert isinstance(y, kind)
    np.testing.assert_array_equal(x, [[0, 1], [2, 3]])


def test_indices_may_be_an_array_of_jax():
    part = data.Subset(list(range(10, 20)), jnp.array([0, 3]))
    assert list(part) == [10, 13]
    with pytest.raises(IndexError):
        part[7]
    assert sorted(data.SubsetRandomSampler(jnp.array([2, 5]), Generator(0))) == [2, 5]


def test_a_read_that_never_returns_does_not_keep_the_program_from_its_end():
    program = """
import threading
from jaxnet import data

class Stuck:
    def __len__(self):
        return 4
    def __getitem__(self, i):
        threading.Event().wait()

try:
    next(iter(data.DataLoader(Stuck(), 2, num_workers=2, timeout=0.2)))
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=True
    )
    assert "no batch came within 0.2 seconds" in done.stdout


class Drawing:
    """Rows that draw from a generator."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return i + self.draw(i)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda i: np.random.rand(), "NumPy"),
        (lambda i: random.random(), "Python"),
        (lambda i: random.random() + np.random.rand(), "Python and of NumPy"),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_rows_that_draw_from_what_threads_share_are_refused(draw, name, workers):
    said = f"num_workers: reading a row draws from the generator of {name}, which"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=said):
            next(iter(data.DataLoader(Drawing(draw), 2, num_workers=workers)))
    with pytest.raises(RuntimeError, match=said):
        list(data.DataLoader(range(8), 2, num_workers=workers, collate_fn=lambda rows: draw(0)))
    assert len(list(data.DataLoader(Drawing(draw), 2))) == 4


def test_rows_with_generators_of_their_own_are_the_same_in_threads():
    rows = Drawing(lambda i: np.random.default_rng(i).random())
    expected = [batch.tolist() for batch in data.DataLoader(rows, 2)]
    batches = iter(data.DataLoader(rows, 2, num_workers=3))
    found = []
    for _ in range(4):
        np.random.rand()  # what the program itself draws is no draw of the rows
        found.append(next(batches).tolist())
    assert found == expected


DRAWN = """
import json, random
import numpy as np
import torch

class Rows:
    def __len__(self):
        return 9

    def __getitem__(self, i):
        return i + np.random.rand(), random.random(), float(torch.rand(()))

def collate(rows):
    return np.array(rows).T * np.random.randint(1, 9)

def begin(worker):
    np.random.seed(7 + worker)

def passes(kind, generator):
    options = {"num_workers": 2, "collate_fn": collate, "generator": generator}
    loaders = [kind(Rows(), 2, True, worker_init_fn=f, **options) for f in (None, begin)]
    return [[np.asarray(b).tolist() for b in loader] for loader in loaders for _ in range(2)]
"""


@pytest.mark.torch
def test_workers_draw_torchs_numbers():
    """From all global generators, in rows and in collate_fn, with and without worker_init_fn."""
    theirs = """
from torch.utils.data import DataLoader
print(json.dumps(passes(DataLoader, torch.Generator().manual_seed(3))))
"""
    # Torch's workers are forked, which a process with JAX in it must not be.
    command = [sys.executable, "-c", DRAWN + theirs]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    ours = {}
    exec(DRAWN, ours)
    assert ours["passes"](data.DataLoader, Generator(3)) == json.loads(found.stdout)


def test_what_workers_draw_is_not_drawn_from_the_programs_generators():
    rows = Drawing(lambda i: np.random.rand() + random.random())
    np.random.seed(1)
    random.seed(1)
    expected = [(np.random.rand(), random.random()) for _ in range(4)]
    runs = []
    for _ in range(2):
        np.random.seed(1)
        random.seed(1)
        drawn, seen = [], []
        for batch in data.DataLoader(rows, 2, num_workers=3, rngs=Generator(0)):
            drawn.append((np.random.rand(), random.random()))
            seen.append(batch.tolist())
        assert drawn == expected
        runs.append(seen)
    assert runs[0] == runs[1]
