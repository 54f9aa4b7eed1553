"""What jaxnet port ports: python -m benchmarks.port [--tier 1 2 3] [NAME ...]

Each model is ported, built with the seed of the PyTorch model, given its weights, and compared in
float64: initial weights, outputs in evaluation and in training with PyTorch's random draws,
gradients with respect to parameters and inputs, and three updates by SGD with momentum. Every rung
is counted on its own. No line of the output is edited by hand.

Needs torch and libcst; tier 2 torchvision, tier 3 timm. Results are kept in the file of --results,
one line for each model, so that a run that is stopped goes on where it was; --again forgets the
models that are named. --table prints them; benchmarks/PORT.md says which runs its tables are from.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RUNGS = ("ported", "builds", "names", "weights", "eval", "train", "gradients", "updates")
RESULTS = Path(tempfile.gettempdir()) / "portbench.jsonl"
LIMIT = 1800  # seconds for one model
TOLERANCE = 1e-8  # of the largest number, in float64
LARGEST = 50e6  # parameters; of larger models only names, shapes and weights are compared


@dataclasses.dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        tier: 1 to 3.
        name: What the table calls it.
        target: What is ported.
        build: Makes the model from the ported or the original class or function and, for jaxnet,
            `rngs`.
        inputs: Makes the arguments of the model, as arrays of NumPy.
    """

    tier: int
    name: str
    target: str
    build: Callable[..., Any]
    inputs: Callable[[], tuple[Any, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all models if none is given")
    parser.add_argument("--tier", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="run what has a result once more")
    parser.add_argument("--quick", action="store_true", help="stop after the initial weights")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    from benchmarks.port_cases import cases

    if options.child:
        by_name = {case.name: case for case in cases(options.tier)}
        for name in options.child:
            with contextlib.redirect_stdout(sys.stderr):
                result = run(by_name[name], options.quick)
            print(json.dumps(result), flush=True)
        return
    chosen = [
        case
        for case in cases(options.tier)
        if not options.names or any(name in case.name for name in options.names)
    ]
    results = _read(options.results)
    if not options.table:
        done = {name for name, r in results.items() if options.quick or not r.get("quick")}
        missing = [c for c in chosen if options.again or c.name not in done]
        with options.results.open("a", encoding="utf-8") as file:
            for group in [missing] if options.quick else _groups(missing):
                for result in _in_a_process(group, _command(group, options.quick)):
                    results[result["name"]] = result
                    file.write(json.dumps(result) + "\n")
                    file.flush()
                    reached = " ".join(rung for rung in RUNGS if result.get(rung) is True)
                    print(f"{result['name']}: {reached}; {result['cause'][:300]}", flush=True)
    print(table([results[c.name] for c in chosen if c.name in results]))


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["name"]: line for line in lines}


def _groups(cases: list[Case]) -> Iterator[list[Case]]:
    """The small models together, and each of the others in a process of its own."""
    small = [case for case in cases if case.tier == 1]
    if small:
        yield small
    yield from ([case] for case in cases if case.tier != 1)


def _in_a_process(cases: list[Case], command: list[str]) -> Iterator[dict[str, Any]]:
    """Runs models in another process, whose memory goes with it.

    Args:
        cases: The models.
        command: What runs them, to which their names are added.
    """
    # Compiling takes nearly all of the time, and each program runs three times at most.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    waiting = {case.name: case for case in cases}
    while waiting:
        with subprocess.Popen(
            [*command, *waiting], stdout=subprocess.PIPE, text=True, encoding="utf-8",
            env=environment,
        ) as child:  # fmt: skip
            stop = threading.Timer(LIMIT * len(waiting), child.kill)
            stop.start()
            assert child.stdout is not None
            for line in child.stdout:
                result = json.loads(line)
                del waiting[result["name"]]
                yield result
            status = child.wait()
            stop.cancel()
        if waiting:  # the first of them ended the process; the others have not been tried
            case = waiting.pop(next(iter(waiting)))
            cause = f"no result: exit status {status}, or more than {LIMIT} seconds"
            yield {"name": case.name, "tier": case.tier, "ported": False, "cause": cause}


def _command(cases: list[Case], quick: bool) -> list[str]:
    tiers = [str(tier) for tier in sorted({case.tier for case in cases})]
    command = [sys.executable, "-m", "benchmarks.port", "--tier", *tiers]
    command += [*(["--quick"] if quick else []), "--child"]
    return command


def run(case: Case, quick: bool = False) -> dict[str, Any]:
    """Climbs the rungs with one model, and says which held and why it stopped."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", str(RESULTS.with_name("portbench_cache")))
    result: dict[str, Any] = {"name": case.name, "tier": case.tier, "cause": "", "marked": 0}
    result["quick"] = quick
    begin = time.perf_counter()
    try:
        _climb(case, result, quick)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = str(error).strip().splitlines() or [""]
        result["cause"] = f"{type(error).__name__}: {words[0][:300]} ({last.name}:{last.lineno})"
    result["seconds"] = round(time.perf_counter() - begin, 1)
    return result


def _climb(case: Case, result: dict[str, Any], quick: bool) -> None:
    import numpy as np
    import torch

    from jaxnet.port import port
    from jaxnet.port._output import RULES
    from jaxnet.random import Generator

    start = time.perf_counter()
    ported = port(case.target)
    result["port_seconds"] = round(time.perf_counter() - start, 1)
    result["marked"] = len(ported.marked)
    result["marks"] = [str(note) for note in ported.marked][:5]
    result["lines"] = len(ported.code.splitlines())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model_jax.py"
        file.write_text(ported.code, encoding="utf-8")
        compile(ported.code, str(file), "exec")
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet"]
        command += ["--select", RULES, str(file)]
        ruff = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        result["ported"] = not ruff.returncode
        if ruff.returncode:
            raise ValueError(f"ruff: {ruff.stdout[:200]}")
        new = _module(file)
    original = _original(case.target)
    torch.manual_seed(0)
    model = case.build(original)
    count = sum(p.numel() for p in model.parameters())
    result["parameters"] = count
    arguments: dict[str, Any] = {"rngs": Generator(0)} if _takes_rngs(new, case) else {}
    twin = case.build(getattr(new, case.target.partition(":")[2]), **arguments)
    result["builds"] = True
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = twin.state_dict()
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    result["names"] = list(shapes.items()) == list(theirs.items())
    if not result["names"]:
        odd = sorted(set(shapes.items()) ^ set(theirs.items()))[:4]
        raise ValueError(f"names or shapes differ: {odd or 'their order'}")
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    apart = [n for n, v in weights.items() if not np.allclose(v, state[n], rtol=1e-4, atol=1e-6)]
    result["weights"] = not apart
    if apart:
        result["cause"] = f"initial weights differ: {len(apart)} of {len(weights)}, {apart[0]}"
    if quick:
        return
    if count > LARGEST:
        result["cause"] = result["cause"] or "only names and weights: it is large"
        return
    _compare(case, model.double(), twin, result)


def _compare(case: Case, model: Any, twin: Any, result: dict[str, Any]) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    from jaxnet import nn, optim, train

    twin.double()
    twin.load_state_dict(model.state_dict())
    inputs = case.inputs()
    tensors = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in inputs]

    model.eval()
    with torch.no_grad(), recorded_draws() as drawn:
        expected = _arrays(model(*tensors))
    structure, params, buffers = train.split(twin.eval())

    def evaluate(params: Any, buffers: Any, drawn: Any, *xs: Any) -> Any:
        with nn.draws(drawn):
            return _arrays(train.merge(structure, params, buffers)(*xs))

    _same(result, "eval", expected, jax.jit(evaluate)(params, buffers, drawn, *inputs))

    model.train()
    structure, params, buffers = train.split(twin.train())
    rng = np.random.default_rng(0)
    factors: list[Any] = []

    def objective(params: Any, buffers: Any, drawn: Any, factors: Any, *xs: Any) -> Any:
        merged = train.merge(structure, params, buffers)
        with nn.draws(drawn):
            outputs = _arrays(merged(*xs))
        loss = sum((jnp.asarray(f) * y).sum() for f, y in zip(factors, outputs, strict=True))
        return loss, (outputs, train.split(merged)[2])

    ours = optim.SGD(lr=1e-3, momentum=0.9)

    floats = [i for i, x in enumerate(inputs) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]

    @jax.jit
    def step(params: Any, memory: Any, *more: Any) -> Any:
        by = (0, *(4 + i for i in floats))
        (_, found), both = jax.value_and_grad(objective, by, has_aux=True)(params, *more)
        gradients, of_inputs = both[0], both[1:]
        updates, memory = ours.update(gradients, memory, params)
        return jax.tree.map(jnp.add, params, updates), memory, gradients, of_inputs, *found

    parameters = list(model.parameters())
    theirs = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9) if parameters else None
    memory = ours.init(params)
    for index in range(3):
        leaves = [tensors[i].clone().requires_grad_() for i in floats]
        given = list(tensors)
        for i, leaf in zip(floats, leaves, strict=True):
            given[i] = leaf * 1  # which a model may change in place
        with recorded_draws() as drawn:
            outputs = _tensors(model(*given))
        if not factors:
            factors = [rng.standard_normal(y.shape) / y.numel() for y in outputs]
        loss = sum((torch.from_numpy(f) * y).sum() for f, y in zip(factors, outputs, strict=True))
        if theirs is not None:
            theirs.zero_grad()
        if loss.requires_grad:
            loss.backward()
        params, memory, gradients, of_inputs, found, buffers = step(
            params, memory, buffers, drawn, factors, *inputs
        )
        if index == 0:
            _same(result, "train", [y.detach().numpy() for y in outputs], found)
            wanted = {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
                      for n, p in model.named_parameters()}  # fmt: skip
            names = [*wanted, *(f"input {i}" for i in floats)]
            of_leaves = [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves]
            _same(result, "gradients", [*wanted.values(), *of_leaves],
                  [*(gradients[n] for n in wanted), *of_inputs], names)  # fmt: skip
        if theirs is not None:
            theirs.step()
    after = {name: value.numpy() for name, value in model.state_dict().items()}
    merged = {**params, **buffers}
    both = [name for name in after if name in merged]
    wanted_state, found_state = [after[n] for n in both], [merged[n] for n in both]
    _same(result, "updates", wanted_state, found_state, both)


def _same(result: dict[str, Any], rung: str, expected: Any, found: Any, names: Any = None) -> None:
    """Notes whether arrays are the same, and raises ValueError where they are not."""
    import numpy as np

    result[rung] = False
    if not any(one.size for one in expected):
        raise ValueError(f"{rung}: there are no numbers to compare")
    if len(expected) != len(found):
        raise ValueError(f"{rung}: {len(found)} arrays for {len(expected)}")
    worst, where = 0.0, ""
    finite = [np.abs(one[np.isfinite(one)]) for one in map(np.asarray, expected)]
    scale = max((float(numbers.max(initial=0)) for numbers in finite), default=0.0)
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        other = np.asarray(other)
        if one.shape != other.shape:
            raise ValueError(f"{rung}: shape {other.shape} for {one.shape}")
        if one.size:
            where_now = names[index] if names else str(index)
            known = np.isfinite(one)
            # Masks are -inf in both; what is not a number says nothing of either.
            if np.isnan(one).any() or not np.array_equal(one[~known], other[~known]):
                raise ValueError(f"{rung}: {where_now} has what is not a number")
            if not np.isfinite(other[known]).all():
                raise ValueError(f"{rung}: {where_now} has what is not a number")
            largest = float(np.abs(one[known]).max(initial=0))
            own = scale if names is None else max(largest, 1e-3 * scale)
            error = float(np.abs(one[known] - other[known]).max(initial=0)) / max(own, 1e-30)
            if error > worst:
                worst, where = error, where_now
    result[rung] = worst <= TOLERANCE
    result[f"{rung}_error"] = worst
    if not result[rung]:
        raise ValueError(f"{rung}: relative error {worst:.1e} at {where}")


@contextlib.contextmanager
def recorded_draws() -> Iterator[list[Any]]:
    """The random numbers that torch draws inside, in order, as nn.draws takes them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[Any] = []
    kinds = ("bernoulli", "normal", "rand", "uniform", "exponential", "randn", "randint")

    class Draws(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__.removesuffix("_").removesuffix("_like")
            if name == "native_dropout":
                found.append(out[1].numpy().copy())
            elif name in kinds:
                found.append(out.detach().numpy().copy())
            return out

    with Draws():
        yield found


def _tensors(output: Any) -> list[Any]:
    import torch

    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, list | tuple | dict):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _arrays(output: Any) -> list[Any]:
    if hasattr(output, "detach"):
        return [output.detach().numpy()]
    if hasattr(output, "shape"):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, list | tuple | dict):
        return [array for value in values for array in _arrays(value)]
    return []


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _original(target: str) -> Any:
    where, _, name = target.partition(":")
    module = _module(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    return getattr(module, name)


def _takes_rngs(module: Any, case: Case) -> bool:
    import inspect

    made = getattr(module, case.target.partition(":")[2])
    return "rngs" in inspect.signature(made).parameters


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown: counts by tier, then what failed and why."""
    lines = [
        "| tier | models | " + " | ".join(RUNGS) + " | all |",
        "|" + " --- |" * (len(RUNGS) + 3),
    ]
    for tier in sorted({result["tier"] for result in results}):
        rows = [result for result in results if result["tier"] == tier]
        counts = Counter(rung for row in rows for rung in RUNGS if row.get(rung) is True)
        whole = sum(_whole(row) for row in rows)
        cells = [str(counts[rung]) for rung in RUNGS]
        lines.append(f"| {tier} | {len(rows)} | {' | '.join(cells)} | {whole} |")
    lines += ["", "| model | tier | reached | marked | cause |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        if not _whole(result):
            reached = [rung for rung in RUNGS if result.get(rung) is True]
            cause = result["cause"].replace("|", "\\|")[:200]
            last = reached[-1] if reached else "nothing"
            cells = [result["name"], result["tier"], last, result.get("marked", 0), cause]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _whole(result: dict[str, Any]) -> bool:
    large = result.get("parameters", 0) > LARGEST
    needed = RUNGS[:4] if large or result.get("quick") else RUNGS
    return all(result.get(rung) is True for rung in needed)


if __name__ == "__main__":
    main()
