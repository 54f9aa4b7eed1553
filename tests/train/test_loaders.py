"""jaxnet/train/{batches,loaders}.py: what fit takes as data, and how it gets to the device."""

import random
import signal
import sys
import threading

import jax
import numpy as np
import pytest

from jaxnet import _memory as memory
from jaxnet import data, losses, nn, optim, train
from jaxnet.random import Generator
from jaxnet.train import _batches as batches
from jaxnet.train import _loaders as loaders
from jaxnet.train import _runner as runner
from tests.data.test_sharded import reader, shards  # noqa: F401  (a fixture)

OPTIMIZER = optim.Adam(lr=0.02)
LOSS = train.supervised(losses.cross_entropy)
STEP = train.make_train_step(LOSS, OPTIMIZER)
EVAL = train.make_eval_step(LOSS)
N = 50


def rows(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.RandomState(0).standard_normal((n, 2)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int32)


def run(source, step=STEP, **options) -> train.Result:
    state = train.create(nn.Linear(2, 2, rngs=Generator(1)), OPTIMIZER, seed=3)
    options = {"epochs": 2, "compilation_cache": False, "quiet": True} | options
    return train.fit(state, step, source, **options)


def bits(result: train.Result) -> bytes:
    arrays = [np.asarray(x).tobytes() for x in jax.tree.leaves(result.state.opt_state)]
    return repr(result.history).encode() + b"".join(arrays)


class Rows(data.Dataset):
    """Rows by number."""

    def __init__(self, change=lambda x: x):
        self.x, self.y = rows()
        self.change = change

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.change(self.x[i]), self.y[i]


class Stream(data.IterableDataset):
    """Rows one after another."""

    def __iter__(self):
        return zip(*rows(), strict=True)


class Batches:
    """Any iterable of batches, of no known length, in an order that numpy draws."""

    def __init__(self, draw=np.random.permutation, count=8):
        self.draw, self.count = draw, count

    def __iter__(self):
        x, y = rows()
        for part in np.array_split(self.draw(N), 8)[: self.count]:
            yield x[part], y[part]


def loader(**options):
    return data.DataLoader(Rows(), 8, shuffle=True, **options)


def noisy():
    return data.DataLoader(Rows(lambda x: x + random.random()), 8, True, rngs=Generator(5))


def mapped():
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(Rows()).shuffle(seed=4).batch(8)


def torch_loader(**options):
    from torch.utils import data as library

    x, y = rows()

    class Torchs(library.Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return x[i], y[i]

    return library.DataLoader(Torchs(), 8, shuffle=True, **options)


def distributed():
    from torch.utils import data as library

    sampler = library.DistributedSampler(range(N), num_replicas=1, rank=0, seed=8)
    return library.DataLoader(torch_loader().dataset, 8, sampler=sampler)


def seeded_torch_loader():
    import torch

    return torch_loader(generator=torch.Generator().manual_seed(6))


class Refilled:
    """Batches in arrays that are filled again for the next ones."""

    def __iter__(self):
        x, y = rows()
        filled = x[:8].copy(), y[:8].copy()
        for first in range(0, N, 8):
            parts = x[first : first + 8], y[first : first + 8]
            for array, part in zip(filled, parts, strict=True):
                array[: len(part)] = part
            yield tuple(array[: len(part)] for array, part in zip(filled, parts, strict=True))


def test_a_data_set_trains_as_its_arrays_do():
    of_arrays = run(rows(), batch_size=8, generator=Generator(5))
    assert bits(of_arrays) == bits(run(Rows(), batch_size=8, generator=Generator(5)))
    tensors = data.Subset(data.TensorDataset(*rows()), range(N))
    assert bits(of_arrays) == bits(run(tensors, batch_size=8, generator=Generator(5)))
    assert bits(of_arrays) == bits(run(loader(rngs=Generator(5))))
    given = Generator(5)
    assert bits(of_arrays) == bits(run(loader(rngs=given), generator=given))
    unshuffled = run(rows(), batch_size=8, shuffle=False)
    assert bits(unshuffled) == bits(run(Rows(), batch_size=8, shuffle=False))
    assert bits(unshuffled) == bits(run(Stream(), batch_size=8))
    assert bits(unshuffled) == bits(run(Refilled()))


@pytest.mark.torch
def test_torchs_loaders_and_data_sets_train_as_arrays_do():
    import torch
    from torch.utils import data as library

    arrays = run(rows(), batch_size=8, generator=Generator(5))
    torch.manual_seed(5)
    assert bits(arrays) == bits(run(torch_loader()))
    assert bits(arrays) == bits(run(torch_loader().dataset, batch_size=8, generator=Generator(5)))
    x, y = map(torch.from_numpy, rows())
    assert bits(arrays) == bits(run((x, y), batch_size=8, generator=Generator(5)))
    tensors = library.TensorDataset(x, y)
    said: list[str] = []
    whole = run(tensors, batch_size=8, generator=Generator(5), log=said.append)
    assert bits(arrays) == bits(whole)
    assert "put on the device" in said[0]


def test_every_loader_validates():
    x, y = rows()
    expected = run((x, y), batch_size=8, validation=(x, y), eval_step=EVAL)
    unshuffled = data.DataLoader(Rows(), 8)
    for validation in (Rows(), unshuffled, data.TensorDataset(x, y), Stream()):
        again = run((x, y), batch_size=8, validation=validation, eval_step=EVAL)
        assert bits(again) == bits(expected)
    of_both = run(loader(rngs=Generator(0)), validation=unshuffled, eval_step=EVAL)
    assert bits(of_both) == bits(expected)


SOURCES = {
    "data set": (lambda: Rows(), {"batch_size": 8}),
    "noisy data set": (lambda: Rows(lambda x: x + np.random.rand()), {"batch_size": 8}),
    "rngs": (lambda: loader(rngs=Generator(5)), {}),
    "generator": (lambda: loader(generator=Generator(5)), {}),
    "noisy": (noisy, {}),
    "sampler": (
        lambda: data.DataLoader(
            Rows(), 8, sampler=data.SubsetRandomSampler(range(20, N), Generator(7))
        ),
        {},
    ),
    "threads": (lambda: loader(rngs=Generator(5), num_workers=2), {}),
    "threads that draw": (
        lambda: data.DataLoader(
            Rows(lambda x: x + np.random.rand()), 8, True, rngs=Generator(5), num_workers=2
        ),
        {},
    ),
    "stream": (lambda: Stream(), {"batch_size": 8}),
    "iterable": (lambda: Batches(), {}),
    "function": (
        lambda: lambda epoch: data.DataLoader(Rows(), 8, True, rngs=Generator(epoch)),
        {},
    ),
    "Grain": (mapped, {}),
    "torch": (torch_loader, {}),
    "torch, seeded": (seeded_torch_loader, {}),
    "torch, distributed": (distributed, {}),
    "torch in ours": (lambda: data.DataLoader(seeded_torch_loader()), {}),
}


def ctrl_c(report) -> None:
    signal.raise_signal(signal.SIGINT)


# Within the first epoch, after it, within the second, and not at all.
AT_ONCE = {"callbacks": [train.EverySteps(1, ctrl_c)]}
STOPS = [AT_ONCE, {"epochs": 1}, AT_ONCE, {}]


def interrupted(make, folder, options) -> train.Result:
    """Stopped within each epoch and between them; each start has other global states."""
    reasons = []
    for start, stop in enumerate(STOPS):
        scatter(100 + start)
        result = run(make(), checkpoint=folder, chunk_steps=4, **{**options, **stop})
        reasons.append((result.reason, len(result.history)))
    assert reasons == [("interrupted", 0), ("done", 1), ("interrupted", 1), ("done", 2)]
    return result


def scatter(seed: int) -> None:
    np.random.seed(seed)
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.torch) if n.startswith("torch") else n for n in SOURCES],
)
def test_a_stopped_run_ends_with_the_same_bits(name, tmp_path):
    make, options = SOURCES[name]
    make()  # imports torch, if this is torch's, so that `scatter` seeds it
    scatter(100)
    whole = run(make(), **options)
    assert bits(whole) == bits(interrupted(make, tmp_path, options))
    assert len({line["loss"] for line in whole.history}) == 2


def test_a_shuffled_validation_comes_back_too(tmp_path):
    half = data.SubsetRandomSampler(range(N), Generator(9))

    def validated(**options):
        half.generator.manual_seed(9)
        part = data.DataLoader(Rows(), 8, sampler=half, drop_last=True)
        options |= {"validation": part, "eval_step": EVAL}
        return run(loader(rngs=Generator(5)), **options)

    whole = validated()
    assert len({line["val_loss"] for line in whole.history}) == 2
    for stop in STOPS:
        again = validated(checkpoint=tmp_path, chunk_steps=4, **stop)
    assert bits(whole) == bits(again)


def test_a_sharded_reader_goes_on_within_an_epoch(shards, tmp_path):  # noqa: F811
    def ours(model, batch):
        values, labels = batch
        return losses.cross_entropy(model(values / 47), labels % 2)

    step = train.make_train_step(ours, OPTIMIZER)

    def source(**options):
        return reader(shards, seed=3, **{"epochs": 2, **options})

    whole = run(source(), step)
    assert [line["step"] for line in whole.history] == [6, 12]
    again = interrupted(source, tmp_path, {"step": step})
    assert bits(whole) == bits(again)
    with pytest.raises(ValueError, match="seed: 3 before, 4 now"):
        run(reader(shards, seed=4, epochs=2), step, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="has 1 epochs, the run 2; make it with epochs=None"):
        run(source(epochs=1), step)


def test_a_loader_that_gives_other_batches_after_the_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "_SECONDS", 60.0)  # so that it stops after two steps
    hidden = np.random.default_rng(0)
    after_two = {"callbacks": [train.EverySteps(2, ctrl_c)], "chunk_steps": 2}
    stopped = run(Batches(hidden.permutation), checkpoint=tmp_path, **after_two)
    assert stopped.reason == "interrupted"
    with pytest.raises(ValueError, match=r"does not give the batches again.*give it a generator"):
        run(Batches(hidden.permutation), checkpoint=tmp_path)
    with pytest.raises(ValueError, match="gave 1 batches where it gave 2"):
        run(Batches(count=1), checkpoint=tmp_path)


def test_the_step_is_named_where_a_loader_gives_what_is_not_finite():
    x, y = rows()
    x[29] = np.nan
    tensors = data.TensorDataset(x, y)
    with pytest.raises(train.NonFiniteError, match="epoch 1, step 4: not finite") as caught:
        run(data.DataLoader(tensors, 8))
    assert int(caught.value.state.step) == 3
    np.testing.assert_array_equal(caught.value.batch[0], x[24:32])


def test_an_error_in_a_data_set_comes_through():
    class Broken(Rows):
        def __getitem__(self, i):
            if i == 30:
                raise KeyError("no label for row 30")
            return super().__getitem__(i)

    before = threading.active_count()
    with pytest.raises(KeyError, match="no label for row 30"):
        run(Broken(), batch_size=8)
    assert threading.active_count() <= before


def test_progress_knows_a_loaders_rows(capsys):
    run(loader(rngs=Generator(0)), quiet=False)
    assert "100/100 rows" in capsys.readouterr().err
    run(Batches(), quiet=False)
    assert "100 rows" in capsys.readouterr().err


WRONG = [
    (lambda: loader(rngs=Generator(0)), {"batch_size": 8}, "batch_size: 8; a DataLoader has its"),
    (lambda: loader(rngs=Generator(0)), {"shuffle": False}, "shuffle: False; a DataLoader has"),
    (lambda: loader(rngs=Generator(0)), {"generator": Generator(0)}, "generator: a loader draws"),
    (lambda: loader(rngs=Generator(0)), {"feed": "device"}, "feed: 'device'; a DataLoader gives"),
    (lambda: iter(Batches()), {}, "a generator gives its batches only once"),
    (lambda: Rows(), {}, "batch_size: None; accepted is an integer"),
    (lambda: rows(), {}, "batch_size: None; accepted is an integer"),
    (lambda: Stream(), {"batch_size": 8, "shuffle": True}, "shuffle: True; a Stream has its own"),
    (lambda: Batches(lambda n: np.arange(0)), {}, "arrays of shapes|holds no rows"),
    (lambda: data.DataLoader([], 8), {}, "DataLoader gave no batch"),
    (lambda: mapped().repeat(), {}, "has no end; leave its repeat"),
    (lambda: mapped().filter(lambda batch: len(batch[1]) < 8), {}, "a batch: arrays of shapes"),
    (
        lambda: loader(rngs=Generator(0), num_workers=1, persistent_workers=True),
        {"checkpoint": "folder"},
        "with persistent_workers=True a DataLoader does not give its batches again",
    ),
]


@pytest.mark.parametrize(("make", "options", "says"), WRONG)
def test_what_does_not_go_together(make, options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        run(make(), **options)


def test_what_is_no_data():
    with pytest.raises(TypeError, match="data: object; accepted are a pytree of arrays, a pandas"):
        run(object(), batch_size=8)
    validation = {"validation": lambda epoch: rows(), "eval_step": EVAL}
    with pytest.raises(TypeError, match="validation: function; accepted are"):
        run(rows(), batch_size=8, **validation)


@pytest.mark.pandas
def test_pandas_frames_train_as_their_arrays_do():
    import pandas

    x, y = rows()
    frame, labels = pandas.DataFrame(x, columns=["a", "b"]), pandas.Series(y)
    of_arrays = run((x, y), batch_size=8)
    assert bits(of_arrays) == bits(run((frame, labels), batch_size=8))
    state = of_arrays.state
    predicted = train.predict(state, frame, batch_size=8)
    np.testing.assert_array_equal(predicted, train.predict(state, x, batch_size=8))
    named = pandas.DataFrame({"a": [1.0, 2.0], "name": ["x", "y"]})
    with pytest.raises(
        TypeError, match=r"a DataFrame with values that are not numbers \(columns a"
    ):
        run((named, labels), batch_size=8)


def test_nested_lists_are_told_what_to_do():
    with pytest.raises(TypeError, match=r"lists with single values such as 1.0.*numpy.array\("):
        run(([[1.0, 2.0]], [0]), batch_size=8)


# where the data lies


@pytest.mark.parametrize("rest", [0, 2])
def test_the_host_feed_gives_the_bits_of_the_device_feed(rest, tmp_path, monkeypatch):
    pytest.importorskip("grain")
    monkeypatch.setattr(runner, "_BYTES", 1000)  # so that there are many parts
    source, options = rows(160 + rest), {"batch_size": 8}
    on_device = run(source, **options, feed="device")
    assert bits(on_device) == bits(run(source, **options, feed="host"))
    parts = batches.open_feed(source, batch_size=8, where="host")[0].batches(0, 0, lambda _: 7)
    assert [p.last for p in parts] == [7, 14, 20] + [21] * (rest > 0)
    for _ in range(3):  # stopped within an epoch
        stop = {"save_seconds": 0.0, "chunk_steps": 5, "callbacks": [train.EverySteps(5, ctrl_c)]}
        run(source, **options, feed="host", checkpoint=tmp_path, **stop)
    resumed = run(source, **options, feed="host", checkpoint=tmp_path)
    assert bits(on_device) == bits(resumed)


@pytest.mark.parametrize(
    ("free", "options", "says"),
    [
        (2**30, {}, r"data \(0.0 MiB\) put on the device: 1,024.0 MiB are free there"),
        (None, {}, "put on the device: its free memory is not known"),
        (1000, {}, r"fed from the host in pieces: 0.0 MiB are free there"),
        (1000, {"feed": "device"}, "put on the device, as asked for"),
        (2**30, {"feed": "host"}, "fed from the host, as asked for"),
    ],
)
def test_the_choice_is_measured_and_said_once(free, options, says, monkeypatch):
    if "host" in says:
        pytest.importorskip("grain")
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    said: list[str] = []
    run(rows(), batch_size=8, log=said.append, validation=rows(), eval_step=EVAL, **options)
    about = [line for line in said if line.startswith(("data", "validation"))]
    assert len(about) == 1
    assert pytest.importorskip("re").search(says, about[0]), about


def test_arrays_on_the_device_take_no_room(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10)
    said: list[str] = []
    run(jax.device_put(rows()), batch_size=8, log=said.append)
    assert "stays on the device" in said[0]


def test_free_memory_is_that_of_the_machine():
    free = memory.free_bytes()
    assert free is None or 2**20 < free < 2**50


def test_without_grain_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"fed from the host.*pip install grain"):
        run(rows(), batch_size=8, feed="host")
    run(rows(), batch_size=8)  # from the device it is not needed


def test_iterators_where_one_pass_is_enough(tmp_path):
    def batches(epoch):
        yield from Batches(lambda n: np.roll(np.arange(n), epoch))

    whole = run(batches)
    run(batches, epochs=1, checkpoint=tmp_path)
    assert bits(run(batches, checkpoint=tmp_path)) == bits(whole)
    measured = train.evaluate(whole.state, EVAL, batches(0))
    assert measured == train.evaluate(whole.state, EVAL, Batches(np.arange))
    with pytest.raises(ValueError, match="validation: a generator gives its batches only once"):
        run(batches, validation=batches(0), eval_step=EVAL)
