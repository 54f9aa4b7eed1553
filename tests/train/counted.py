"""Data whose reads are counted, for one process and for the several of processes_program.py."""

from functools import cache

import numpy as np

from jaxnet import data, optim, train
from jaxnet.random import Generator
from tests.train.test_mesh import LOSS, ROWS, Small


class Counted(data.Dataset):
    """Rows with a trace of each read in a file, which nothing else in the program sees."""

    def __init__(self, path, count=112):
        self.path, self.count = str(path), count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        with open(self.path, "a") as file:
            file.write(f"{i}\n")
        return ROWS[0][i], ROWS[1][i]


class Noisy(Counted):
    """Augmented by a generator that all rows share."""

    def __init__(self, path, count=112):
        super().__init__(path, count)
        self.noise = np.random.default_rng(0)

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + self.noise.normal(size=x.shape).astype(np.float32), y


@cache  # so that all runs share what is compiled
def plain_state():
    """A state and a step that take a batch of any number of rows, and are compiled soon."""
    optimizer = optim.Adam(lr=2e-3)
    return train.create(Small(Generator(1)), optimizer), train.make_train_step(LOSS, optimizer)


def loader_of(dataset, **options):
    return data.DataLoader(dataset, 16, shuffle=True, rngs=Generator(5), **options)


def joined_rows(rows):
    return data.default_collate(rows)


def decode(record):
    row = int(record)
    return ROWS[0][row], ROWS[1][row]


def reader_of(folder, **which):
    return data.ShardedReader(folder, 16, seed=3, decode=decode, epochs=None, **which)


ONE_EPOCH = {"epochs": 1, "batch_size": None, "generator": None}


READ = [
    ("counted", Counted, 112, {}),
    ("uneven", Counted, 103, {}),  # the last batch has 7 rows, which no split fits
    ("threads", Counted, 112, {"num_workers": 2}),
    ("noisy", Noisy, 112, {}),
    ("joined", Counted, 112, {"collate_fn": joined_rows}),
]
