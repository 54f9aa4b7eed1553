"""What a recording and a check cost: python -m benchmarks.parity_speed [--check] [NAME ...]

A recording is measured against the bare program: the same training loop in the same process, its
model and loader made anew, without imports. All run in turn, and the numbers are medians. The
weights that both end with are compared bit by bit. Beside them stands what no recording goes below,
since it computes each step in float32 and in float64: the bare program and the same program with
its model and data in float64, unrecorded, as torch's own kernels compute it. With --check recording
and check of the document's Net are measured over several numbers of steps, each in a process of its
own, from which follows what a further step costs, and its memory. It needs torch.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import machine, markdown
from jaxnet import parity

Train = Callable[[int], Any]


def _images(seed: int, rows: int, *shape: int) -> tuple[Any, Any]:
    import torch

    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, *shape, generator=draw)
    return inputs, torch.randint(0, 2, (rows,), generator=draw)


def _net() -> tuple[Any, Any, Any]:
    from tests.parity import documents_torch

    return documents_torch.Net(), _images(0, 64, 3, 32, 32), ("SGD", {"lr": 1e-2})


def _mlp() -> tuple[Any, Any, Any]:
    from torch import nn

    from benchmarks import torch_models

    model = torch_models.mlp(784, 256, 256, 2, activation=nn.ReLU)
    return model, _images(0, 64, 784), ("Adam", {"lr": 1e-3})


def _lstm() -> tuple[Any, Any, Any]:
    from benchmarks import torch_models

    return torch_models.Recurrent(), _images(0, 64, 32, 32), ("Adam", {"lr": 1e-3})


def _gpt() -> tuple[Any, Any, Any]:
    import torch

    from benchmarks import torch_models

    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 65, (8, 65), generator=draw)
    model = torch_models.GPT(65, 64, 128, 2, 4)
    return model, (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()), ("AdamW", {"lr": 1e-3})


def _resnet() -> tuple[Any, Any, Any]:
    from benchmarks import torch_models

    return torch_models.ResNet18(2), _images(0, 8, 3, 32, 32), ("SGD", {"lr": 0.1, "momentum": 0.9})


# Each with the number of steps that take it about a second.
WORKLOADS = {
    "Net, batch 64": (_net, 50),
    "MLP 784-256-256-2, batch 64": (_mlp, 200),
    "LSTM of 2 layers, batch 64": (_lstm, 50),
    "GPT, 2 layers of 128, 8 x 64": (_gpt, 50),
    "ResNet-18, batch 8": (_resnet, 10),
}


def training(make: Callable[[], tuple[Any, Any, Any]], double: bool = False) -> Train:
    """A function of the number of steps that trains a new model and returns its weights.

    Args:
        make: The workload.
        double: Whether it is trained in float64.
    """

    def train(steps: int) -> Any:
        import torch
        from torch.nn import functional as F
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        model, batch, (name, arguments) = make()
        if double:
            model = model.double()
            batch = tuple(each.double() if each.is_floating_point() else each for each in batch)
        rows = len(batch[0])
        data = TensorDataset(*(each.repeat(steps, *[1] * (each.dim() - 1)) for each in batch))
        optimizer = getattr(torch.optim, name)(model.parameters(), **arguments)
        for inputs, targets in DataLoader(data, rows):
            optimizer.zero_grad()
            outputs = model(inputs)
            F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)).backward()
            optimizer.step()
        return model.state_dict()

    return train


def recorded(train: Train, steps: int, folder: str) -> Any:
    """The weights of a recorded training."""
    with parity.recording(folder, steps=steps):
        return train(steps)


def recording(name: str, rounds: int) -> list[Any]:
    """The row of a workload."""
    import torch

    make, steps = WORKLOADS[name]
    train, wide = training(make), training(make, double=True)
    costs: dict[str, list[Sequence[float]]] = {
        key: [] for key in ("bare", "double", "recorded", "one")
    }
    for number in range(rounds + 1):
        # Removing a trace is no part of recording it.
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            length = steps if number else 2  # the first round is not counted
            bare = _cost(lambda n=length: train(n), costs["bare"])
            own = _cost(lambda n=length, f=first: recorded(train, n, f), costs["recorded"])
            _cost(lambda f=second: recorded(train, 1, f), costs["one"])
            _cost(lambda n=length: wide(n), costs["double"])
        if not all(torch.equal(bare[key], own[key]) for key in bare):
            raise AssertionError(f"{name}: the recorded run has other bits than the bare one")
    wall, processor = (
        {key: statistics.median(each[i] for each in some[1:]) for key, some in costs.items()}
        for i in (0, 1)
    )
    further = (processor["recorded"] - processor["one"]) / (steps - 1)
    return [
        name,
        steps,
        f"{processor['bare']:.2f}",
        f"{processor['recorded'] / processor['bare']:.2f}",
        f"{wall['recorded'] / wall['bare']:.2f}",
        f"{processor['one']:.2f}",
        f"{further * steps / processor['bare']:.2f}",
        f"{1 + processor['double'] / processor['bare']:.2f}",
    ]


def _cost(run: Callable[[], Any], costs: list[Sequence[float]]) -> Any:
    """Adds the seconds of a run: of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    result = run()
    costs.append((time.perf_counter() - clock, time.process_time() - processor))
    return result


def steps_of(what: str, steps: int) -> dict[str, Any]:
    """Seconds and memory of recording or of checking so many steps of the document's Net."""
    import torch

    from tests.parity import pairs

    torch.set_num_threads(1)
    pair = pairs.document("Net", batch=64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"

        def record() -> None:
            with parity.recording(path, steps=steps):
                pair.train(steps)

        def check() -> None:
            trace = pairs.read(path)
            parity.check(trace, **pair.subject(trace)).raise_for_difference()

        if what == "record":
            pair.train(steps)  # what the program itself needs
        else:
            command = [sys.executable, "-m", "benchmarks.parity_speed", "--write", str(path)]
            subprocess.run([*command, "--steps", str(steps)], check=True)
        before = _peak()
        costs: list[Sequence[float]] = []
        _cost(record if what == "record" else check, costs)
        return {"cost": costs[0], "memory": (_peak() - before) / 1024}


def _peak() -> int:
    """The largest memory of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def checking(numbers: Sequence[int]) -> Iterator[list[Any]]:
    """The rows of recording and checking, for several numbers of steps."""
    sums = {steps: [0.0, 0.0] for steps in numbers}
    for what in ("record", "check"):
        before: tuple[int, float] | None = None
        for steps in numbers:
            command = [sys.executable, "-m", "benchmarks.parity_speed", "--one", what]
            command += ["--steps", str(steps)]
            out = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
            found = json.loads(out.splitlines()[-1])
            wall, processor = found["cost"]
            further = "-"
            if before is not None:
                further = f"{1e3 * (processor - before[1]) / (steps - before[0]):.0f}"
            before = steps, processor
            sums[steps] = [sums[steps][0] + wall, sums[steps][1] + processor]
            yield [
                what,
                steps,
                f"{wall:.1f}",
                f"{processor:.1f}",
                further,
                f"{found['memory']:.0f}",
            ]
    for steps, (wall, processor) in sums.items():
        yield ["both", steps, f"{wall:.1f}", f"{processor:.1f}", "-", "-"]


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="*", default=[25, 50, 100, 200])
    parser.add_argument("--one", choices=("record", "check"), help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help="parts of names of workloads")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.write:
        from tests.parity import pairs

        with parity.recording(asked.write, steps=asked.steps[0]):
            pairs.document("Net", batch=64).train(asked.steps[0])
        return
    if asked.one:
        print(json.dumps(steps_of(asked.one, asked.steps[0])))
        return
    print(machine())
    heads: tuple[str, ...] = ("what", "steps", "seconds", "of the processor")
    if asked.check:
        rows = []
        for row in checking(asked.steps):
            print(*row, sep=" | ", flush=True)
            rows.append(row)
        print(markdown((*heads, "ms for a further step", "MiB more"), rows))
        return
    rows = []
    for name in WORKLOADS:
        if not asked.names or any(each in name for each in asked.names):
            rows.append(recording(name, asked.rounds))
            print(*rows[-1], sep=" | ", flush=True)
    heads = ("program", "steps", "bare", "times, processor", "times, clock")
    more = ("one step recorded", "times, without the first step", "both precisions, unrecorded")
    print(markdown((*heads, *more), rows))


if __name__ == "__main__":
    main()
