"""A PyTorch model and a JAX model trained side by side in one process."""

import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from jaxnet.parity._check import Weights, check
from jaxnet.parity._result import Report


def compare(
    torch_model: Any,
    jax_model: Any,
    batches: Iterable[Any],
    steps: int | None = None,
    *,
    loss: tuple[Callable[..., Any], Callable[..., Any]],
    optimizer: tuple[Callable[[Any], Any], Any],
    weights: Weights | Literal["generic"] = "copy",
    trace: str | Path | None = None,
) -> Report:
    """Trains a PyTorch model on some batches and compares each step with a JAX model's.

    It is a `recording` of the plain training loop, into a temporary folder, and a `check` of it.

    Args:
        torch_model: The torch.nn.Module. It is trained, in the mode that it is in.
        jax_model: The model of jaxnet or another library, as in `check`, which stays as it is.
        batches: The batches (inputs, targets), arrays or tensors. A tuple of inputs becomes the
            arguments of the models.
        steps: The number of steps; None for all batches.
        loss: For each of both a criterion of outputs and targets, such as (F.cross_entropy,
            losses.cross_entropy), or a function `(model, batch)` of the user's own that is
            written in both.
        optimizer: A function of the parameters that makes torch's optimizer, and the optimizer of
            jaxnet: (lambda p: torch.optim.SGD(p, 0.1), optim.SGD(lr=0.1)).
        weights: "copy" gives the JAX model torch's weights. "own" compares its own with them.
            "generic" does the first, and repeats all of it with random numbers in every parameter
            and running statistic of both, beside which no mistake hides as beside a bias of zero.
        trace: A new folder in which the traces stay, for a certificate; by default they go.

    Returns:
        The report of `check`.

    Raises:
        ValueError: There are fewer batches than steps, or none.
        SubjectError: The models have other parameters.
        ImportError: torch is not installed.
    """
    torch: Any = importlib.import_module("torch")
    from jaxnet.parity._record import recording

    torch_loss, jax_loss = loss
    make_optimizer, jax_optimizer = optimizer
    library = str(getattr(torch_loss, "__module__", type(torch_loss).__module__))
    is_criterion = isinstance(torch_loss, torch.nn.Module) or library.startswith("torch")

    def value(batch: Any) -> Any:
        if not is_criterion:
            return torch_loss(torch_model, batch)
        inputs, targets = batch
        outputs = torch_model(*inputs) if isinstance(inputs, tuple) else torch_model(inputs)
        return torch_loss(outputs, targets)

    batches = list(batches) if weights == "generic" else batches

    def recorded(path: Path, kind: str) -> Path:
        made = make_optimizer(torch_model.parameters())
        done = 0
        with recording(path, steps=steps or 10**9, weights=kind):
            for batch in _loader(torch, batches):
                made.zero_grad()
                value(batch).backward()
                made.step()
                done += 1
                if done == steps:
                    break
        if done < (steps or 1):
            raise ValueError(f"compare: batches: there are {done}, for {steps or 1} steps")
        return path

    program = jax_model, jax_loss, jax_optimizer
    with tempfile.TemporaryDirectory(prefix="jaxnet-parity-") as folder:
        path = Path(folder) / "trace" if trace is None else Path(trace)
        if weights == "generic":
            first = recorded(path / "own", "own")
            second = recorded(path / "generic", "generic")
            report = check(first, *program, weights="copy", generic=second)
        else:
            report = check(recorded(path, "own"), *program, weights=weights)
    if trace is None:
        for one in (report, report.generic):
            if one is not None:
                del one.subject["trace"]
    return report


def _loader(torch: Any, batches: Iterable[Any]) -> Iterable[Any]:
    """The batches as tensors, by a DataLoader, from which a recording knows them in their form."""

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]  # torch has no types
        def __iter__(self) -> Iterator[Any]:
            return iter(batches)

    def convert(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(convert(part) for part in value)
        if isinstance(value, dict):
            return {name: convert(part) for name, part in value.items()}
        return value if isinstance(value, torch.Tensor) else torch.tensor(value)

    loader: Iterable[Any] = torch.utils.data.DataLoader(
        Stream(), batch_size=None, collate_fn=convert
    )
    return loader
