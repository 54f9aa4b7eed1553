"""jaxnet/data/_sampler.py, _dataset.py: weighted and distributed samplers, stacks and chains."""

import numpy as np
import pytest

from jaxnet import data
from jaxnet.random import Generator
from tests.data.test_loader import lists


@pytest.mark.torch
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize(("n", "num_samples"), [(1, 1), (9, 1), (9, 3), (9, 6), (3000, 2500)])
def test_weighted_sampler_is_torchs(n, num_samples, replacement):
    import torch
    from torch.utils.data import WeightedRandomSampler

    drawn = np.random.RandomState(n + num_samples)
    weights = drawn.rand(n) + 0.1
    weights[: n // 10] = 0
    for seed in range(20 if n < 100 else 2):
        theirs = torch.manual_seed(seed)
        sampler = WeightedRandomSampler(weights, num_samples, replacement)
        generator = Generator(seed)
        mine = data.WeightedRandomSampler(weights, num_samples, replacement, rngs=generator)
        assert len(mine) == len(sampler)
        for _ in range(2):
            assert list(mine) == list(sampler)
        np.testing.assert_array_equal(generator.get_state(), theirs.get_state().numpy())


@pytest.mark.torch
def test_a_loader_with_a_weighted_sampler_is_torchs():
    import torch
    from torch.utils.data import DataLoader, WeightedRandomSampler

    weights = [0.5, 0.1, 3.0, 1.0, 0.0]
    torch.manual_seed(7)
    theirs = DataLoader(range(5), 2, sampler=WeightedRandomSampler(weights, 6))
    mine = data.DataLoader(
        range(5), 2, sampler=data.WeightedRandomSampler(weights, 6, rngs=Generator(7))
    )
    for _ in range(2):
        assert lists(mine) == lists(theirs)


@pytest.mark.torch
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("n", "replicas"), [(10, 2), (11, 3), (2, 5)])
def test_distributed_sampler_is_torchs(n, replicas, shuffle, drop_last):
    from torch.utils.data import DistributedSampler

    for rank in range(replicas):
        theirs = DistributedSampler(range(n), replicas, rank, shuffle, 4, drop_last)
        mine = data.DistributedSampler(range(n), replicas, rank, shuffle, 4, drop_last)
        for epoch in (0, 3):
            theirs.set_epoch(epoch)
            mine.set_epoch(epoch)
            assert list(mine) == list(theirs)
            assert len(mine) == len(theirs)


def test_one_process_has_all_rows():
    assert list(data.DistributedSampler(range(4), shuffle=False)) == [0, 1, 2, 3]


@pytest.mark.torch
def test_stacks_and_chains_are_torchs():
    from torch.utils import data as theirs

    class Counting(data.IterableDataset):
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            return iter(range(self.n))

        def __len__(self):
            return self.n

    subset = data.Subset([10, 11, 12, 13], [3, 1, 0])  # reads several rows at once
    rows, names = np.arange(6.0).reshape(3, 2), ["a", "b", "c"]
    for args, kwargs in ((rows, names, subset), {}), ((), {"x": rows, "part": subset}):
        mine = data.StackDataset(*args, **kwargs)
        stack = theirs.StackDataset(*args, **kwargs)
        assert len(mine) == len(stack)
        assert str([mine[i] for i in range(3)]) == str([stack[i] for i in range(3)])
        assert str(mine.__getitems__([2, 0])) == str(stack.__getitems__([2, 0]))
    batches = list(data.DataLoader(data.StackDataset(x=rows, part=subset), 2))
    assert [sorted(batch) for batch in batches] == [["part", "x"]] * 2
    assert batches[0]["part"].tolist() == [13, 11]
    chain = Counting(3) + data.ChainDataset([Counting(2), Counting(1)])
    assert list(chain) == [0, 1, 2, 0, 1, 0]
    assert len(chain) == 6
    assert lists(data.DataLoader(chain, 4)) == [[0, 1, 2, 0], [1, 0]]


def test_a_sampler_of_ones_own():
    class Backwards(data.Sampler):
        def __iter__(self):
            return iter([2, 1, 0])

    assert lists(data.DataLoader(range(3), sampler=Backwards())) == [[2], [1], [0]]
    with pytest.raises(NotImplementedError, match="define __iter__"):
        iter(data.Sampler())


@pytest.mark.torch
def test_workers_know_themselves():
    """The numbers are torch's; an iterable data set that divides its rows loses none."""
    import torch
    from torch.utils.data import DataLoader

    seen = []

    class Rows(data.Dataset):
        def __getitem__(self, i):
            seen.append(data.get_worker_info())
            return i

        def __len__(self):
            return 6

    class Divided(data.IterableDataset):
        def __iter__(self):
            info = data.get_worker_info()
            yield from range(info.id, 6, info.num_workers)

    rows = Rows()
    list(data.DataLoader(rows, num_workers=2, rngs=Generator(3)))
    seed = DataLoader(range(6), generator=torch.manual_seed(3))._get_iterator()._base_seed
    assert {(info.id, info.num_workers, info.seed - seed) for info in seen} <= {
        (0, 2, 0),
        (1, 2, 1),
    }
    assert all(info.dataset is rows for info in seen)
    assert data.get_worker_info() is None
    assert lists(data.DataLoader(Divided(), num_workers=3)) == [[i] for i in range(6)]
    seen.clear()
    list(data.DataLoader(rows))
    assert seen == [None] * 6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda g: data.WeightedRandomSampler([1, 2], 0, rngs=g), "num_samples: 0"),
        (lambda g: data.WeightedRandomSampler([1, 2], 2, 1, rngs=g), "replacement: 1"),
        (lambda g: data.WeightedRandomSampler([1, 2], 2), "neither is given"),
        (lambda g: data.WeightedRandomSampler([[1, 2]], 2, rngs=g), r"shape \(1, 2\)"),
        (lambda g: data.WeightedRandomSampler([1, -2], 2, rngs=g), "negative or not finite"),
        (lambda g: data.WeightedRandomSampler([1, np.nan], 2, rngs=g), "negative or not finite"),
        (lambda g: data.WeightedRandomSampler([0, 0], 2, rngs=g), "0 are above 0"),
        (lambda g: data.WeightedRandomSampler([0, 1], 2, False, rngs=g), "1 are above 0"),
        (lambda g: data.DistributedSampler(range(3), 2, 2), "rank: 2"),
        (lambda g: data.DistributedSampler([], 2, 1), "dataset: it is empty"),
        (lambda g: data.StackDataset(), "none given"),
        (lambda g: data.StackDataset([1], x=[1]), "both are given"),
        (lambda g: data.StackDataset([1], [1, 2]), r"of \[1, 2\] rows"),
        (lambda g: data.ChainDataset([[1]]), "number 0 is a list"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises((ValueError, TypeError), match=says):
        make(Generator(0))
