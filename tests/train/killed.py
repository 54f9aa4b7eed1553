"""A run to be killed, as test_killed.py starts it: FOLDER EPOCHS [MOMENT ...].

Without moments it is run here. Else every run is a fork of this process, which has
imported all but started no backend: one for each moment, which goes on from the
checkpoints of the one before. `N` kills it (SIGKILL) at its N-th operation on a file or
folder of the checkpoints, `N+M` M milliseconds after that, and 0 lets it come to its end.
"""

import os
import signal
import sys
import threading
import zlib

from jax._src import xla_bridge

from jaxnet import train
from jaxnet.random import Generator
from tests.train import runs


def run(folder: str, epochs: int) -> None:
    result = train.fit(
        runs.make_state(),
        runs.STEP,
        runs.rows(),
        epochs=epochs,
        batch_size=8,
        generator=Generator(2),
        checkpoint=f"{folder}/checkpoints",
        records=f"{folder}/records",
        save_seconds=0.0,
        chunk_steps=2,
        quiet=True,
        keep=2,
        patience=100,
        callbacks=[runs.plateau(runs.OPTIMIZER)],
    )
    digest = zlib.crc32(b"".join(runs.bits(result.state)) + repr(result.history).encode())
    print("digest", digest, flush=True)


def kill_at(moment: str, folder: str) -> None:
    """Counts what is done in a folder, in every thread, and ends the process then."""
    number, _, milliseconds = moment.partition("+")
    done = 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple) -> None:
        nonlocal done
        if any(isinstance(arg, str | os.PathLike) and str(arg).startswith(folder) for arg in args):
            done += 1
            if done == int(number):
                threading.Timer(float(milliseconds) / 1e3, kill).start() if milliseconds else kill()

    sys.addaudithook(hook)


def main(folder: str, epochs: str, *moments: str) -> None:
    if not moments:
        run(folder, int(epochs))
    if moments and xla_bridge.backends_are_initialized():
        # The threads of a backend do not come along, and the fork would wait for them for ever.
        sys.exit("an import has started JAX, whose backend cannot be forked; make it do so later")
    for moment in moments:
        child = os.fork()
        if child == 0:
            kill_at(moment, f"{folder}/checkpoints")
            run(folder, int(epochs))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        left = sorted(os.listdir(f"{folder}/checkpoints"))
        print("ended", os.waitstatus_to_exitcode(status), *left, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
