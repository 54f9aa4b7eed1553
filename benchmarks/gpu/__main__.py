"""jaxnet on an NVIDIA card: right, fast, and how near to what the card can do.

    python -m benchmarks.gpu                                all, in less than 6 minutes
    python -m benchmarks.gpu --parts fast --only Net MLP    some tasks
    python -m benchmarks.gpu --missing                      go on with what is not there yet
    python -m benchmarks.gpu --tiny --seconds 120           try the program, on any machine

It needs what jaxnet imports (pyproject.toml), matplotlib, and torch for the comparison; no
network, and no data but for part document (see --data). One child process runs the tasks, the
most valuable first, each with a time limit. After every task OUT/results.json and OUT/GPU.md are
written anew, so a run that is stopped keeps what it has: after Ctrl-C, a crash, the end of the
time.

parts:
  right     layers, losses, optimizers, dropout, batch norm, resumed runs: the card's float32
            against float64 on the CPU
  peaks     what the card's matrix units and its memory can do
  fast      training steps beside PyTorch eager, channels_last, torch.compile and CUDA graphs,
            in float32, TF32 and bfloat16
  loops     other ways to run the loop over the steps, and attention
  document  100 residual blocks on CIFAR's birds and airplanes (needs --data)
  lowered   (not by default) what is in the programs for a card; none is needed

The exit status is 0 if all that ran is right, also where the time was over before the end; 1 if
something is wrong or failed; 2 for a wrong command line; 130 or 143 after a signal.
"""

import argparse
import math
import signal
import sys
import tempfile
import traceback
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.gpu import report
from benchmarks.gpu.child import EndedError
from benchmarks.gpu.plan import HOW_TO_PACK, PARTS, PRECISIONS, CommandLineError
from benchmarks.gpu.run import Run


class Stopped(BaseException):
    """A signal to this program; its number is the argument."""


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; gives the exit status."""
    options = _options(arguments)
    try:
        earlier = None if options.missing is None else report.read(options.missing)
    except CommandLineError as error:
        way_out = "give the folder of an earlier run, or leave --missing away to begin anew"
        print(f"error: --missing: {error}; {way_out}", file=sys.stderr)
        return 2
    run = Run(options, earlier)
    kept = {n: signal.signal(n, _stop) for n in (signal.SIGINT, signal.SIGTERM)}
    status = 0
    try:
        run.go()
    except Stopped as stopped:
        run.results["ended"] = f"stopped by signal {stopped.args[0]}"
        status = 128 + int(stopped.args[0])
    except EndedError as error:
        run.results["ended"], status = str(error), 1
    except CommandLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # such as a full disk
        run.results["ended"], status = f"stopped by {type(error).__name__}: {error}", 1
    except Exception as error:  # a fault of this program must not take away what is measured
        traceback.print_exc()
        run.results["ended"], status = f"stopped by {type(error).__name__}: {error}", 1
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        run.stop()
    try:
        run.save()
        run.picture()
    except OSError as error:
        print(f"error: {run.results['ended']}; not written: {error}", file=sys.stderr)
        return status or 1
    except Exception:
        traceback.print_exc()
        status = status or 1
    off = report.wrong(run.results)
    run.say(f"{run.results['ended']}; wrong or failed: {'; '.join(off) if off else 'nothing'}")
    run.say(f"{options.out / 'GPU.md'} and {options.out / 'results.json'}")
    return status or (1 if off else 0)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--tiny", action="store_true", help="small sizes, for a CPU")
    add("--seconds", type=float, default=340.0, help="for all; %(default)s")
    parts = f"of {', '.join(PARTS)}; by default all but the last"
    add("--parts", nargs="+", choices=PARTS, default=PARTS[:-1], metavar="PART", help=parts)
    add("--only", nargs="+", metavar="NAME", help="tasks with one of these words in their names")
    precisions = f"of {', '.join(PRECISIONS)}; by default all"
    add("--precision", nargs="+", choices=PRECISIONS, metavar="PRECISION", help=precisions)
    add("--out", type=Path, default=Path("runs/gpu"), help="folder; %(default)s")
    add("--data", type=Path, metavar="FILE", help=f"images for part document; {HOW_TO_PACK}")
    missing = (
        "keep what an earlier run in OUT (or FOLDER) measured on this card with these versions, "
        "and measure the rest"
    )
    add("--missing", nargs="?", type=Path, const=True, metavar="FOLDER", help=missing)
    options = parser.parse_args(arguments)
    if not 0 < options.seconds < math.inf:
        parser.error(f"--seconds: {options.seconds}; a positive number is needed")
    if options.data is not None and not options.data.is_file():
        parser.error(f"--data: there is no file {options.data}; {HOW_TO_PACK}")
    if options.data is not None and not _is_packed(options.data):
        parser.error(f"--data: {options.data} holds no packed images; {HOW_TO_PACK}")
    if options.missing is True:
        options.missing = options.out
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out):
            pass
    except OSError as error:
        parser.error(f"--out: {error}; a folder that can be written to is needed")
    return options


def _is_packed(path: Path) -> bool:
    """Whether a file has the arrays of benchmarks.gpu.document, by their names alone."""
    names = {f"{split}_{what}.npy" for split in ("train", "test") for what in ("images", "labels")}
    try:
        with zipfile.ZipFile(path) as packed:
            return names <= set(packed.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    sys.exit(main())
