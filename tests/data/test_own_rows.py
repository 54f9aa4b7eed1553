"""jaxnet/data/_own_rows.py and _state.py: what each of two processes reads, here one by one."""

import copy
import gc
import itertools
import random
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import data
from jaxnet.data._own_rows import OwnRows, by_number
from jaxnet.data._state import state_of
from jaxnet.random import Generator
from tests.data.test_sharded import reader, shards  # noqa: F401
from tests.marks import slow_among

X = np.arange(44.0).reshape(22, 2)
DRAWS = np.random.default_rng(0)
SEEN = {}
ONE = 6  # the last row of the first batch that `loader` gives, but not of the next pass's


@pytest.fixture(autouse=True, scope="module")
def objects_are_listed():
    """The collected tests are frozen, for speed, and a generator among them is then hidden."""
    gc.unfreeze()


class Plain(data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], i


class OfItsNumber(Plain):
    """Each row draws, from a generator of its own."""

    def __getitem__(self, i):
        return X[i] + np.random.default_rng(i).random(), i


class Opened(Plain):
    """What is opened at the first read, as a file of HDF5 is."""

    rows = None

    def __getitem__(self, i):
        if self.rows is None:
            self.rows = X.copy()
        return self.rows[i], i


class DrawsFromNumpy(Plain):
    def __getitem__(self, i):
        return X[i] + np.random.rand(), i


class DrawsFromPython(Plain):
    def __getitem__(self, i):
        import random as hidden

        return X[i] + hidden.random(), i


class DrawsFromAModule(Plain):
    """Of one row only."""

    def __getitem__(self, i):
        return X[i] + (DRAWS.random() if i == ONE else 0), i


class DrawsFromItsOwn(Plain):
    def __init__(self, generator, which=(ONE,)):
        self.transform, self.which = lambda row: row + generator.random(), which

    def __getitem__(self, i):
        return (self.transform(X[i]) if i in self.which else X[i]), i


class OfJaxnets(DrawsFromItsOwn):
    def __init__(self, generator, which=(ONE,)):
        self.transform, self.which = lambda row: row + generator.rand(), which


class OfAClass(Plain):
    class Noise:
        draws = np.random.RandomState(0)

    def __getitem__(self, i):
        return X[i] + (self.Noise.draws.rand() if i == ONE else 0), i


class Counts(Plain):
    count = 0

    def __getitem__(self, i):
        self.count += 1
        return X[i] + self.count, i


class GoesOn(Plain):
    def __init__(self):
        self.noise = iter(range(1000))

    def __getitem__(self, i):
        return X[i] + next(self.noise), i


class Keeps(Plain):
    def __init__(self):
        self.seen = {}

    def __getitem__(self, i):
        return self.seen.setdefault(i, X[i] + len(self.seen)), i


class KeepsInAModule(Plain):
    def __getitem__(self, i):
        if i not in SEEN:
            SEEN[i] = X[i] + DRAWS.random()
        return SEEN[i], i


class Opens(Plain):
    """Has what cannot be pickled, as an open file."""

    def __init__(self):
        self.file = threading.Lock()


class SaysWhatItIs(Opens):
    def __getstate__(self):
        return {}


class Raises(Plain):
    def __getstate__(self):
        raise RuntimeError("not to be looked at")


class Large(Plain):
    """Names and numbers whose pickle is large."""

    def __init__(self):
        self.samples = [(f"{i:09}.png", i) for i in range(400_000)]


class Together(Plain):
    def __getitems__(self, rows):
        return [(X[i] - X[rows[0]], i) for i in rows]


def with_stack(rows):
    return data.default_collate(rows)


def loader(dataset, **options):
    return data.DataLoader(dataset, 4, shuffle=True, rngs=Generator(3), **options)


def half(index):
    """The places of one of two processes; a batch of 2 rows stands for one that no split fits."""
    return lambda rows: None if rows == 2 else np.arange(rows)[index * 2 : index * 2 + 2]


def read(made, index, passes=2):
    own = OwnRows(made)
    return [list(own.read(half(index))) for _ in range(passes)]


class WithTransform(Plain):
    def __init__(self, transform):
        self.transform = transform

    def __getitem__(self, i):
        return self.transform(X[i]), i


ALONE = [
    lambda: Plain(),
    lambda: OfItsNumber(),
    lambda: list(zip(X, range(22), strict=True)),
    lambda: data.TensorDataset(X, np.arange(22)),
    lambda: data.Subset(Plain(), list(range(21, -1, -1))),
    lambda: data.ConcatDataset([data.Subset(Plain(), range(12)), data.Subset(Plain(), range(10))]),
    lambda: data.StackDataset(X, Plain()),
    lambda: WithTransform(lambda row: row + len(X)),
    lambda: SaysWhatItIs(),
]


@pytest.mark.parametrize("make", ALONE)
@pytest.mark.parametrize("workers", slow_among([0, 2], [2]))
def test_rows_that_depend_on_their_number_are_read_alone(make, workers):
    whole = loader(make(), num_workers=workers)
    for index in (0, 1):
        made = loader(make(), num_workers=workers)
        for batches, wanted in zip(read(made, index), (list(whole), list(whole)), strict=True):
            assert [each.whole for each in batches] == [True, *[False] * 4, True]
            assert [each.rows for each in batches] == [4, 4, 4, 4, 4, 2]
            for each, of_all in zip(batches, wanted, strict=True):
                places = slice(None) if each.whole else slice(index * 2, index * 2 + 2)
                assert_same(each.batch, of_all, places)
        whole = loader(make(), num_workers=workers)


def assert_same(batch, wanted, places):
    if isinstance(batch, (tuple, list)):
        for part, of_all in zip(batch, wanted, strict=True):
            assert_same(part, of_all, places)
    else:
        assert batch.dtype == wanted.dtype
        np.testing.assert_array_equal(batch, wanted[places])


WHOLE = [
    lambda: loader(DrawsFromNumpy()),
    lambda: loader(DrawsFromPython()),
    lambda: loader(DrawsFromAModule()),
    lambda: loader(DrawsFromItsOwn(random.Random(0))),
    lambda: loader(DrawsFromItsOwn(np.random.default_rng(0))),
    lambda: loader(OfJaxnets(Generator(0))),
    lambda: loader(OfAClass()),
    lambda: loader(Counts()),
    lambda: loader(GoesOn()),
    lambda: loader(Keeps()),
    lambda: loader(KeepsInAModule()),
    lambda: loader(Opens()),
    lambda: loader(Raises()),
    lambda: loader(Large()),
    lambda: loader(DrawsFromNumpy(), num_workers=2),
    lambda: loader(DrawsFromAModule(), num_workers=2),
    lambda: loader(data.Subset(DrawsFromNumpy(), range(22))),
]


@pytest.mark.parametrize("make", WHOLE)
def test_rows_that_depend_on_what_was_read_before_are_read_whole(make):
    states = random.getstate(), np.random.get_state(), copy.deepcopy(DRAWS.bit_generator.state)
    draws = copy.deepcopy(OfAClass.Noise.draws.get_state())

    def again():
        random.setstate(states[0])
        np.random.set_state(states[1])
        DRAWS.bit_generator.state = states[2]
        OfAClass.Noise.draws.set_state(draws)
        SEEN.clear()
        return make()

    made = again()
    wanted = [list(made), list(made)]
    for index in (0, 1):
        for batches, of_all in zip(read(again(), index), wanted, strict=True):
            for each, batch in zip(batches, of_all, strict=True):
                assert each.whole
                assert_same(each.batch, batch, slice(None))


@pytest.mark.torch
def test_torchs_generators_and_data_sets():
    torch = pytest.importorskip("torch")

    class Rows(torch.utils.data.Dataset):
        def __init__(self, generator=None):
            self.generator = generator

        def __len__(self):
            return 22

        def __getitem__(self, i):
            drawn = i == ONE and self.generator is not None
            return torch.arange(2) + i + (torch.rand(1, generator=self.generator) if drawn else 0)

    class Draws(Rows):
        def __getitem__(self, i):
            return torch.rand(2) + i

    def wholes(dataset):
        return [each.whole for each in read(loader(dataset), 0, 1)[0]]

    split = torch.utils.data.random_split(Rows(), [20, 2])[0]
    assert wholes(Rows()) == [True, *[False] * 4, True]
    assert wholes(split) == [True, *[False] * 4]
    assert wholes(torch.utils.data.TensorDataset(torch.arange(22))) == [True, *[False] * 4, True]
    assert all(wholes(Rows(torch.Generator())))
    generator, rows = torch.Generator(), torch.zeros(10_000)
    for made, change in (
        (generator, lambda: torch.rand(1, generator=generator)),
        (rows, lambda: rows.add_(1)),
    ):
        before = state_of([made], [])
        assert before is not None
        assert state_of([made], []) == before
        change()
        assert state_of([made], []) != before
    assert all(wholes(Draws()))


class OfALoader(data.DataLoader):
    pass


class OneAfterAnother(data.IterableDataset):
    def __iter__(self):
        return iter(range(22))


@pytest.mark.parametrize(
    "made",
    [
        loader(Plain(), collate_fn=with_stack),
        loader(Together()),
        OfALoader(Plain(), 4),
        data.DataLoader(OneAfterAnother(), 4),
        data.DataLoader(Plain(), None),
        [X, X],
    ],
)
def test_what_may_mix_the_rows_of_a_batch_is_read_whole(made):
    assert not by_number(made)


def test_where_generators_may_be_hidden_rows_are_read_whole():
    gc.freeze()
    try:
        assert all(each.whole for each in read(loader(Plain()), 0, 1)[0])
        assert not all(each.whole for each in read(loader(data.TensorDataset(X)), 0, 1)[0])
    finally:
        gc.unfreeze()


def test_what_is_opened_at_the_first_read_is_read_alone_from_the_next_pass_on():
    first, second = read(loader(Opened()), 0)
    assert all(each.whole for each in first)
    assert [each.whole for each in second] == [True, *[False] * 4, True]


class DrawsLater(Plain):
    """Nothing in the first batch."""

    def __init__(self, late):
        self.late = late

    def __getitem__(self, i):
        import random as hidden

        return X[i] + (hidden.random() if i in self.late else 0), i


class CountsLater(DrawsLater):
    count = 0

    def __getitem__(self, i):
        if i in self.late:
            self.count += 1
        return X[i] + self.count, i


def draws_of_its_own(late):
    return DrawsFromItsOwn(np.random.default_rng(0), late)


@pytest.mark.parametrize("kind", [DrawsLater, CountsLater, draws_of_its_own])
def test_what_the_first_batch_did_not_do_is_an_error_and_no_other_number(kind):
    order = [int(i) for batch in loader(Plain()) for i in batch[1]]
    made = loader(kind(order[4:]))
    with pytest.raises(RuntimeError, match="read whole batches in each by a collate_fn of your"):
        read(made, 0, 1)
    assert all(each.whole for each in read(loader(kind(order[:4])), 0, 1)[0])
    # It does not matter to one process, which reads them all, each once.
    whole = list(OwnRows(loader(kind(order[4:]))).read(lambda rows: None))
    assert [each.rows for each in whole] == [4, 4, 4, 4, 4, 2]


def test_batches_after_one_that_no_split_fits_are_read_whole():
    order = [[0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]
    own = OwnRows(data.DataLoader(Counts(), batch_sampler=order))
    assert [each.whole for each in own.read(half(0))] == [True] * 3
    own = OwnRows(data.DataLoader(Plain(), batch_sampler=order[1:]))
    assert [each.whole for each in own.read(half(0))] == [True, False]


class Subtracts(Plain):
    """Changes the rows that it keeps, in an array too large to compare."""

    def __init__(self):
        self.rows = np.ones((22, 200))

    def __getitem__(self, i):
        row = self.rows[i]
        row -= 0.25
        return row.copy(), i


class OutOfSight(Plain):
    """Counts where only a function of C's knows."""

    def __init__(self):
        self.next = itertools.count().__next__

    def __getitem__(self, i):
        return X[i] + self.next(), i


def test_a_row_that_is_another_one_when_it_is_read_again_is_an_error():
    with pytest.raises(RuntimeError, match="were read twice, and had other numbers the second"):
        read(loader(Subtracts()), 0, 1)
    assert all(each.whole for each in read(loader(OutOfSight()), 0, 1)[0])


class Kept:
    def __init__(self, value):
        self.value = value

    def replaced(self):
        self.value = self.value + 1


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: [1, "a"], lambda x: x.append(2)),
        (lambda: {"a": {3}}, lambda x: x["a"].add(4)),
        (lambda: np.zeros(3), lambda x: x.__iadd__(1)),
        (lambda: np.array([None, [1]], object), lambda x: x[1].append(2)),
        (lambda: Kept(np.zeros(10_000)), Kept.replaced),
        (lambda: Kept(np.zeros((100, 100)).T), Kept.replaced),
        (lambda: Kept(jnp.zeros(10_000)), Kept.replaced),
        (lambda: Generator(0), lambda x: x.rand()),
        (lambda: random.Random(0), lambda x: x.random()),
        (lambda: np.random.default_rng(0), lambda x: x.random()),
        (lambda: np.random.RandomState(0), lambda x: x.rand()),
        (lambda: (lambda kept: lambda: kept)([]), lambda x: x().append(1)),
        (lambda: Kept(0).replaced, lambda x: x()),
        (lambda: nnx.Rngs(0), lambda x: x.params()),
    ],
)
def test_a_change_shows_in_the_state_of_objects(make, change):
    made, kept = make(), []
    before = state_of([made], kept)
    assert before is not None
    assert state_of([made], kept) == before
    change(made)
    assert state_of([made], kept) != before


def test_what_is_too_large_or_cannot_be_pickled_has_no_state():
    assert state_of([np.zeros(10_000_000)], []) is not None
    for each in (bytes(10_000_000), Large(), Opens(), Raises(), (i for i in range(3))):
        assert state_of([each], []) is None


def test_a_loader_draws_from_its_generator_as_it_would_for_whole_batches():
    one, own = Generator(1), Generator(1)
    list(data.DataLoader(Plain(), 4, shuffle=True, rngs=one))
    read(data.DataLoader(Plain(), 4, shuffle=True, rngs=own), 1, 1)
    assert one.get_state().tolist() == own.get_state().tolist()


@pytest.mark.parametrize("workers", slow_among([0, 2], [2]))
def test_a_sharded_reader_reads_its_own_records(shards, workers):  # noqa: F811
    options = {"seed": 4, "process_index": 0, "process_count": 1, "num_workers": workers}
    made = reader(shards, 4, epochs=None, **options)
    assert by_number(made)
    n = made.batches_per_epoch  # 47 records: the last batch has 3
    wanted = [batch for batch, _ in zip(made, range(2 * n), strict=False)]
    for index in (0, 1):
        places = lambda rows: None if rows == 3 else np.arange(4)[index * 2 : index * 2 + 2]  # noqa: B023, E731
        for first, count in ((0, n), (n, n), (n + 5, n - 5), (2 * n - 1, 1)):
            found = list(OwnRows(made).read(places, first, count))
            assert [each.rows for each in found] == [4] * (count - 1) + [3]
            assert [each.whole for each in found] == [
                i == 0 or each.rows == 3 for i, each in enumerate(found)
            ]
            for each, batch in zip(found, wanted[first : first + count], strict=True):
                own = slice(None) if each.whole else slice(index * 2, index * 2 + 2)
                assert_same(each.batch, batch, own)


def test_a_sharded_reader_whose_records_draw_is_read_whole(shards):  # noqa: F811
    made = reader(shards, 4, decode=lambda record: np.random.rand(), num_workers=0)
    assert all(each.whole for each in OwnRows(made).read(half(0), 0, 12))
    assert not by_number(reader(shards, 4, collate_fn=with_stack))
