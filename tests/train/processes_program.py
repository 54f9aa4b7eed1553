"""The program that test_processes.py starts in several processes; it writes what it found."""

import json
import os
import signal
import sys
from pathlib import Path

from jaxnet import train

PROCESSES = train.init_processes(timeout=120)

import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxnet import data  # noqa: E402
from jaxnet.random import Generator  # noqa: E402
from tests.train.counted import ONE_EPOCH, READ, Counted, loader_of, plain_state, reader_of  # noqa: E402
from tests.train.test_mesh import EVAL, ROWS, Small, fit, make_state  # noqa: E402

MESH = f"data={jax.device_count()}"


def refused(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except (ValueError, TypeError) as error:
        return str(error)
    return "nothing was refused"


class Repeated:
    """A loader that gives the rows as a batch, some times."""

    def __init__(self, times):
        self.times = times

    def __iter__(self):
        return iter([ROWS] * self.times)


def train_as_one(folder):
    """What `fit`, `evaluate` and `predict` give, and what is refused."""
    found = {"processes": PROCESSES, "devices": jax.device_count()}
    options = {"epochs": 8, "validation": ROWS, "eval_step": EVAL, "mesh": MESH}
    result = fit(*make_state(), sharding="fsdp", records=folder / "records", **options)
    found["history"] = result.history
    predicted = train.predict(result.state, ROWS[0], batch_size=16, quiet=True)
    found["predicted"] = np.asarray(predicted).tolist()
    home = train.gather(result.state)
    found["weight"] = np.asarray(home.params["fc1.weight"]).tolist()
    found["evaluated"] = train.evaluate(home, EVAL, ROWS, batch_size=16, quiet=True)

    loader = data.DataLoader(data.TensorDataset(*ROWS), 16, shuffle=True, rngs=Generator(5))
    options = {"epochs": 2, "batch_size": None, "generator": None, "mesh": MESH}
    found["loader"] = fit(*make_state(), loader, **options).history

    own = Generator(jax.process_index())
    loader = data.DataLoader(data.TensorDataset(*ROWS), 16, shuffle=True, rngs=own)
    found["refused"] = {
        "no mesh": refused(fit, *make_state(model=Small)),
        "other loader": refused(fit, *make_state(model=Small), loader, **options),
        "too large": refused(fit, *make_state(model=Small), mesh="data=64"),
        "too small": refused(fit, *make_state(model=Small), mesh="data=1"),
        "unknown axis": refused(
            train.shard, make_state(model=Small)[0], MESH, {"fc1.weight": ("model", None)}
        ),
    }
    index = jax.process_index()
    shifted = np.asarray(ROWS[0]) + np.float32(index), ROWS[1]
    part = tuple(column[: len(column) - 16 * index] for column in ROWS)
    found["refused"] |= {
        "other rows": refused(fit, *make_state(model=Small), shifted, mesh=MESH),
        "fewer rows": refused(fit, *make_state(model=Small), part, mesh=MESH),
        "other order": refused(fit, *make_state(model=Small), mesh=MESH, generator=own),
        "fewer batches": refused(
            fit, *make_state(model=Small), Repeated(33 - (index == 1)), **{**options, "epochs": 1}
        ),
    }
    state = make_state(model=Small)[0]
    other = jax.tree.map(lambda x: x + jax.process_index(), state.params)
    found["refused"]["other state"] = refused(train.shard, state.replace(params=other), MESH)
    (folder / f"found_{jax.process_index()}.json").write_text(json.dumps(found))


def read_own_rows(folder, shards):
    """What each process reads of the batches of its loaders, and what comes of it."""
    index = jax.process_index()
    options = {**ONE_EPOCH, "mesh": MESH}
    found = {}
    for name, kind, count, more in READ:
        path = folder / f"{name}_{index}.txt"
        result = fit(*plain_state(), loader_of(kind(path, count), **more), **options)
        found[name] = {"history": result.history, "read": path.read_text().split()}
    result = fit(*plain_state(), Counted(folder / "plain"), epochs=2, mesh=MESH)
    found["fit"] = {"history": result.history}
    if shards is not None:
        alone = reader_of(shards, process_index=0, process_count=1)
        found["reader"] = {"history": fit(*plain_state(), alone, **options).history}
        found["own reader"] = refused(fit, *plain_state(), reader_of(shards), **options)
    own = data.DataLoader(
        Counted(folder / "other"), 16, shuffle=True, rngs=Generator(jax.process_index())
    )
    found["other order"] = refused(fit, *plain_state(), own, **options)

    def stop(report):
        report.stop("enough")

    fit(
        *plain_state(),
        loader_of(Counted(folder / f"stopped_{index}")),
        **{**options, "epochs": 2},
        checkpoint=folder / "checkpoints",
        callbacks=[train.EverySteps(12, stop)],
    )
    (folder / f"found_{index}.json").write_text(json.dumps(found))


def train_until_killed(folder, killed_at):
    """Trains with checkpoints; the second process is killed after some steps.

    The first time it only ends by itself, which has to be noticed too.
    """
    again = (folder / "again").exists()

    def kill(report):
        if jax.process_index() == 1:
            if not again:
                sys.exit(3)
            os.kill(os.getpid(), signal.SIGKILL)

    result = fit(
        *make_state(model=Small),
        epochs=8,
        mesh=MESH,
        sharding="fsdp",
        checkpoint=folder / "checkpoints",
        save_seconds=0,
        chunk_steps=2,
        callbacks=[train.EverySteps(killed_at, kill)],
    )
    if jax.process_index() == 0:
        (folder / "history.json").write_text(json.dumps(result.history))


if __name__ == "__main__":
    what, out = sys.argv[1], Path(sys.argv[2])
    if what == "one":
        train_as_one(out)
    elif what == "own":
        read_own_rows(out, Path(sys.argv[3]) if len(sys.argv) > 3 else None)
    else:
        train_until_killed(out, int(what))
    print(f"process {jax.process_index()} is done", flush=True)
