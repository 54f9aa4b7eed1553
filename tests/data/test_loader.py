"""jaxnet/data/_dataset.py, sampler.py, collate.py, loader.py: torch's batches in torch's order."""

import itertools
import threading
import time
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data
from jaxnet.random import Generator

ROWS = [(n, b, d) for n in (1, 12, 13) for b in (1, 4, 20) for d in (False, True)]


def lists(loader, most=None):
    return [np.asarray(batch).tolist() for batch in itertools.islice(loader, most)]


@pytest.mark.torch
@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize(("n", "batch_size", "drop_last"), ROWS)
def test_batches_are_torchs(n, batch_size, drop_last, explicit):
    """A generator that is given is drawn from otherwise than the global one."""
    from torch import Generator as TorchGenerator
    from torch import manual_seed
    from torch.utils.data import DataLoader

    theirs = manual_seed(5) if not explicit else TorchGenerator().manual_seed(5)
    name = "generator" if explicit else "rngs"
    options = {"generator": theirs} if explicit else {}
    shuffled = DataLoader(range(n), batch_size, True, drop_last=drop_last, **options)
    plain = DataLoader(range(n), batch_size, **options)
    generator = Generator(5)
    mine = data.DataLoader(range(n), batch_size, True, drop_last=drop_last, **{name: generator})
    also = data.DataLoader(range(n), batch_size, **{name: generator})
    assert len(mine) == len(shuffled)
    for most in (None, 1, None, None):  # a pass that is broken off advances less
        assert lists(mine, most) == lists(shuffled, most)
        assert lists(also) == lists(plain)
    np.testing.assert_array_equal(generator.get_state(), theirs.get_state().numpy())


@pytest.mark.torch
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("num_samples", [None, 3, 40, 64])
def test_random_sampler_is_torchs(replacement, num_samples):
    import torch
    from torch.utils.data import RandomSampler

    torch.manual_seed(2)
    theirs = RandomSampler(range(9), replacement, num_samples)
    mine = data.RandomSampler(range(9), replacement, num_samples, rngs=Generator(2))
    assert list(mine) == list(theirs)
    assert len(mine) == len(theirs)
    given = RandomSampler(range(9), replacement, num_samples, torch.Generator().manual_seed(3))
    mine = data.RandomSampler(range(9), replacement, num_samples, Generator(3))
    assert [list(mine), list(mine)] == [list(given), list(given)]


@pytest.mark.torch
@pytest.mark.parametrize("lengths", [[5, 12], [0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.9]])
def test_random_split_is_torchs(lengths):
    import torch

    theirs = torch.utils.data.random_split(range(17), lengths, torch.Generator().manual_seed(4))
    mine = data.random_split(range(17), lengths, Generator(4))
    assert [part.indices for part in mine] == [part.indices for part in theirs]


@pytest.mark.torch
def test_torchs_own_data_sets_and_loaders_are_taken():
    import torch
    from torch.utils import data as theirs

    class Rows(theirs.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return {"x": torch.full((2,), float(i)), "y": i, "name": str(i)}

    class Stream(theirs.IterableDataset):
        def __iter__(self):
            return iter([(torch.ones(2) * i, i) for i in range(5)])

    torch.manual_seed(0)
    for a, b in zip(
        theirs.DataLoader(Rows(), 2, True),
        data.DataLoader(Rows(), 2, True, rngs=Generator(0)),
        strict=True,
    ):
        np.testing.assert_array_equal(a["x"].numpy(), b["x"])
        assert isinstance(b["x"], np.ndarray)
        assert b["x"].dtype == np.float32
        assert b["y"].dtype == np.int64
        assert a["y"].tolist() == b["y"].tolist()
        assert a["name"] == b["name"]
    for drop_last, workers in itertools.product((False, True), (0, 2)):
        a = list(theirs.DataLoader(Stream(), 2, drop_last=drop_last))
        b = list(data.DataLoader(Stream(), 2, drop_last=drop_last, num_workers=workers))
        assert [y.tolist() for _, y in a] == [y.tolist() for _, y in b]
    through = data.DataLoader(theirs.DataLoader(Rows(), 2))
    assert len(through) == 3
    assert [batch["y"].tolist() for batch in through] == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="shuffle: True; a DataLoader has its own order"):
        data.DataLoader(theirs.DataLoader(Rows(), 2), shuffle=True, rngs=Generator(0))


def arrays(n=7):
    return data.TensorDataset(np.arange(2 * n, dtype=np.float32).reshape(n, 2), np.arange(n))


def test_a_seed_repeats_itself_through_subsets_and_threads():
    runs = []
    for workers in (0, 1, 3):
        generator = Generator(7)
        part, _ = data.random_split(data.ConcatDataset([arrays(), arrays(4)]), [8, 3], generator)
        loader = data.DataLoader(part, 3, True, num_workers=workers, rngs=generator)
        runs.append([[y.tolist() for _, y in loader] for _ in range(2)])
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0] != runs[0][1]


def test_arrays_are_gathered_at_once_and_alike():
    class Slow(data.TensorDataset):
        def __getitem__(self, index):
            return super().__getitem__(index)

    fast, slow = arrays(), Slow(*arrays().tensors)
    for (x, y), (x2, y2) in zip(
        data.DataLoader(data.Subset(fast, [3, 1, 6]), 2),
        data.DataLoader(data.Subset(slow, [3, 1, 6]), 2),
        strict=True,
    ):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
        assert (x.dtype, y.dtype) == (x2.dtype, y2.dtype)


def test_batches_arrive_on_the_device_ahead_of_time():
    read = []

    class Rows:
        def __len__(self):
            return 8

        def __getitem__(self, i):
            read.append(i)
            return np.float32(i), "name"

    batches = iter(data.DataLoader(Rows(), 2, device=jax.devices()[1], prefetch=2))
    x, names = next(batches)
    assert isinstance(x, jax.Array)
    assert x.devices() == {jax.devices()[1]}
    assert names == ["name", "name"]
    assert read == list(range(6))
    assert [x.tolist() for x, _ in batches] == [[2, 3], [4, 5], [6, 7]]


def test_workers_read_ahead_in_order_and_stop_when_left():
    names = set()

    def slow(i):
        names.add(threading.current_thread().name)
        time.sleep(0.01 * (3 - i % 4))
        return i

    class Rows(data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            return slow(i)

    begun = []
    loader = data.DataLoader(Rows(), 1, num_workers=3, worker_init_fn=begun.append)
    assert lists(loader) == [[i] for i in range(12)]
    assert sorted(begun) == [0, 1, 2]
    assert "MainThread" not in names
    for _ in loader:
        break
    with pytest.raises(RuntimeError, match=r"no batch came within 0\.001"):
        list(data.DataLoader(Rows(), 1, num_workers=1, timeout=0.001))


def test_collate_goes_into_structures():
    Point = namedtuple("Point", ["x", "y"])
    assert data.default_collate([Point(1, 2.0), Point(3, 4.0)])._fields == ("x", "y")
    nested = data.default_collate([{"a": (1, [True])}, {"a": (2, [False])}])
    assert nested["a"][0].dtype == np.int64
    assert nested["a"][1][0].dtype == np.bool_
    assert isinstance(nested["a"], tuple)
    single = data.DataLoader([np.zeros(2), np.ones(3)], batch_size=None)
    assert [row.shape for row in single] == [(2,), (3,)]


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ([np.zeros(2), np.zeros(2), np.zeros(3)], r"samples 0 and 2 have the shapes \(2,\) and"),
        ([(1, 2), (1,)], "samples of"),
        ([np.array(["a"])], "accepted are arrays of numbers"),
        ([object()], "samples of object; accepted are"),
        ([1, None], "sample 1 is no number"),
        ([1.0, "a"], r"sample 1 is no number \(str\)"),
        ([2**70, 1], "do not fit int64"),
        ([2**63, 1], "do not fit int64"),
        ([np.zeros(2), 1], "sample 0 is a ndarray, but sample 1 is no array"),
        ([{"a": 1}, {"b": 2}], "sample 1 is without the key 'a'"),
        ([(1, 2), 3], "sample 1 is no tuple or list"),
    ],
)
def test_what_cannot_be_stacked(batch, says):
    with pytest.raises((ValueError, TypeError), match=says):
        data.default_collate(batch)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shuffle": True}, "generator, rngs: neither is given"),
        ({"shuffle": True, "rngs": Generator(0), "generator": Generator(0)}, "both are given"),
        ({"shuffle": True, "rngs": 0}, "rngs: int; accepted is"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"num_workers": -1}, "num_workers: -1"),
        ({"timeout": -1}, "timeout: -1"),
        ({"prefetch_factor": 2}, "prefetch_factor: 2 with 0 workers"),
        ({"persistent_workers": True}, "persistent_workers: there are no workers"),
        ({"multiprocessing_context": "fork"}, "workers are threads"),
        ({"batch_size": None, "drop_last": True}, "drop_last: there are no batches"),
        ({"sampler": [1], "shuffle": True, "rngs": Generator(0)}, "a sampler is the order"),
        ({"batch_sampler": [[1]], "batch_size": 2}, "takes the place of batch_size"),
        ({"prefetch": -1}, "prefetch: -1"),
        ({"num_workers": 1.5}, "num_workers: 1.5"),
        ({"device": "cpu"}, "device: 'cpu'; accepted is a JAX device"),
    ],
)
def test_options_that_do_not_go_together(options, says):
    with pytest.raises((ValueError, TypeError), match=says):
        data.DataLoader(range(4), **options)


def test_data_sets_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"of \[2, 3\] rows"):
        data.TensorDataset(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="number 0 is a float without rows"):
        data.TensorDataset(1.0)
    with pytest.raises(ValueError, match="none given"):
        data.ConcatDataset([])
    with pytest.raises(ValueError, match="no rows by number"):
        data.ConcatDataset([iter([1])])
    with pytest.raises(IndexError, match="index: 5 of 5 rows"):
        data.ConcatDataset([[1, 2], [3, 4, 5]])[5]
    with pytest.raises(ValueError, match=r"\[2, 2\] sum to 4"):
        data.random_split(range(5), [2, 2], Generator(0))
    with pytest.raises(ValueError, match="accepted are whole lengths"):
        data.random_split(range(5), [2.5, 2.5], Generator(0))
    with pytest.raises(ValueError, match="sum to nan"):
        data.random_split(range(5), [float("nan"), 1], Generator(0))
    assert data.random_split([], [], Generator(0)) == []
    for draw in (
        lambda: data.random_split(range(5), [5], 0),
        lambda: data.SubsetRandomSampler([1], 0),
        lambda: data.epoch_order(5, 0),
    ):
        with pytest.raises(TypeError, match=r"generator: .*; accepted is a jaxnet\.random"):
            draw()
    with pytest.raises(ValueError, match="a generator gives its rows once"):
        data.DataLoader(i for i in range(4))
    with pytest.raises(ValueError, match="dataset: a int; accepted is"):
        data.DataLoader(5)
    with pytest.warns(UserWarning, match="part 1 gets no rows"):
        data.random_split(range(1), [0.5, 0.5], Generator(0))
    with pytest.raises(ValueError, match="num_samples: 0"):
        data.DataLoader([], shuffle=True, rngs=Generator(0))
    assert list(data.DataLoader([])) == []
    joined = data.TensorDataset(np.arange(2)) + data.TensorDataset(np.arange(3))
    assert len(joined) == 5
    assert joined[-1] == (2,)


def test_rows_of_jax_arrays_end():
    """JAX gives the last row for one that is not there."""
    rows = data.TensorDataset(jnp.arange(3.0))
    assert [row for (row,) in rows] == [0, 1, 2]
    for dataset in (rows, data.Subset(rows, [7]), data.Subset(jnp.arange(3), [7])):
        with pytest.raises(IndexError):
            dataset[len(dataset) - 1 + 4]
    (batch,) = next(iter(data.DataLoader(rows, 2)))
    assert isinstance(batch, np.ndarray)
    twos = data.DataLoader(rows, None, sampler=data.BatchSampler(range(3), 2, False))
    assert [batch.tolist() for (batch,) in twos] == [[0, 1], [2]]


def test_a_subset_of_ones_own():
    class Doubled(data.Subset):
        def __getitem__(self, index):
            return 2 * super().__getitem__(index)

    doubled = Doubled(data.TensorDataset(np.arange(4)).tensors[0], [1, 3])
    assert lists(data.DataLoader(doubled, 2)) == [[2, 6]]


class Refilled(data.IterableDataset):
    """One array for all rows, as a reader of frames may have it."""

    def __iter__(self):
        frame = np.zeros(1024, np.float32)
        for i in range(5):
            frame[:] = i
            yield frame


@pytest.mark.parametrize("options", [{"device": jax.devices()[0]}, {"num_workers": 1}])
def test_an_array_that_is_filled_again(options):
    loader = data.DataLoader(Refilled(), None, **options)
    assert [float(batch.mean()) for batch in loader] == [0, 1, 2, 3, 4]


@pytest.mark.torch
def test_workers_draw_when_the_pass_begins():
    import torch
    from torch.utils.data import DataLoader

    torch.manual_seed(0)
    expected = lists(DataLoader(range(12), 4, True))  # as with workers, which would fork
    after = torch.rand(1).item()
    rngs = Generator(0)
    mine = iter(data.DataLoader(range(12), 4, True, num_workers=1, rngs=rngs))
    assert float(rngs.rand(1)[0]) == after
    assert lists(mine) == expected


@pytest.mark.torch
@pytest.mark.parametrize("batched", [False, True])
def test_a_samplers_generator_is_the_programs(batched):
    import torch
    from torch.utils import data as theirs

    def loader(kind, **options):
        sampler = kind.RandomSampler(range(6), **options)
        if batched:
            return kind.DataLoader(
                range(6), batch_sampler=kind.BatchSampler(sampler, 4, drop_last=False)
            )
        return kind.DataLoader(range(6), 6, sampler=sampler)

    torch.manual_seed(0)
    expected = loader(theirs)
    mine = loader(data, rngs=Generator(0))
    for _ in range(2):
        assert lists(mine) == lists(expected)


def test_a_worker_that_cannot_begin():
    def begin(worker):
        raise OSError("no such file")

    with pytest.raises(RuntimeError, match=r"worker_init_fn: it raised OSError\('no such file'\)"):
        list(data.DataLoader(range(4), 2, num_workers=2, worker_init_fn=begin))


@pytest.mark.torch
def test_bfloat16_and_rows_that_are_pairs():
    import torch

    rows = torch.arange(6.0).to(torch.bfloat16).reshape(3, 2)
    (batch,) = next(iter(data.DataLoader(data.TensorDataset(rows), 3)))
    assert str(batch.dtype) == "bfloat16"
    assert batch.astype(float).tolist() == rows.double().tolist()
    places = [[(0, 1), (2, 0)]]  # each is a row and a column
    (picked,) = next(
        iter(data.DataLoader(data.TensorDataset(np.arange(6).reshape(3, 2)), batch_sampler=places))
    )
    assert picked.tolist() == [1, 4]
