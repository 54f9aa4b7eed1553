"""What `fit` gives back, and which of its epochs is the best."""

import dataclasses
from collections.abc import Mapping
from html import escape
from typing import Any

from jaxnet._checks import better
from jaxnet.train._resume import RunPosition


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What `fit` gives back.

    Attributes:
        state: The state after the last step; with `patience`, with the weights of the best
            epoch.
        history: One dictionary an epoch: "epoch", "step", and the metrics. It makes a table by
            `pandas.DataFrame(result.history)`.
        reason: "done", "patience", "time", "interrupted", or what a callback said.
        best_epoch: The epoch with the best monitored metric, counted from 1.
        seconds: The seconds of this call, without compiling.
        compile_seconds: The seconds that this call compiled.
    """

    state: Any
    history: list[dict[str, Any]]
    reason: str
    best_epoch: int | None
    seconds: float
    compile_seconds: float

    def __repr__(self) -> str:
        epochs = len(self.history)
        last = {k: v for k, v in (self.history or [{}])[-1].items() if isinstance(v, float)}
        shown = "".join(f", {name} {value:.4g}" for name, value in last.items())
        best = "" if self.best_epoch is None else f", best epoch {self.best_epoch}"
        return (
            f"Result({self.reason!r} after {epochs} epoch{'s' * (epochs != 1)}{shown}{best}, "
            f"{self.seconds:.1f} s and {self.compile_seconds:.1f} s of compiling)"
        )

    def _repr_html_(self) -> str:
        """The history as a table, for notebooks."""
        names = list(dict.fromkeys(name for line in self.history for name in line))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)

        def cell(value: Any) -> str:
            return f"<td>{value:.4g}</td>" if isinstance(value, float) else f"<td>{value}</td>"

        rows = "".join(
            f"<tr>{''.join(cell(line.get(name, '')) for name in names)}</tr>"
            for line in self.history
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<p>{escape(repr(self))}</p>{table}"


class Monitor:
    """The metric that tells good epochs, and how many worse ones end the run.

    Args:
        name: The name of the metric; None for "val_loss", or "loss" without a validation.
        mode: "min" or "max": which way the metric gets better; None to go by its name.
        patience: The epochs in a row without a new best that end the run; None for no end.
        validates: Whether there is a validation.
    """

    def __init__(
        self, name: str | None, mode: str | None, patience: int | None, validates: bool
    ) -> None:
        self._asked = name is not None
        self.name = name or ("val_loss" if validates else "loss")
        self.patience = patience
        self.mode = better(self.name, mode)
        self._sign = 1 if self.mode == "min" else -1

    def judge(self, measured: Mapping[str, Any], position: RunPosition) -> bool:
        """Notes an epoch in the position; gives whether it is the best so far."""
        if self.name not in measured:
            if self.patience is None and not self._asked:
                return False
            there = ", ".join(measured)
            raise ValueError(f"monitor: no metric {self.name!r}; there are {there}")
        value, best = measured[self.name], position.best
        if not isinstance(value, float):
            raise ValueError(
                f"monitor: {self.name!r} is a list of {len(value)} numbers; accepted is the name "
                "of a metric that is one number"
            )
        if value == value and (best is None or self._sign * value < self._sign * best):
            position.best, position.best_epoch, position.bad_epochs = value, position.epoch, 0
            return True
        position.bad_epochs += 1
        return False

    def exhausted(self, position: RunPosition) -> str | None:
        """The reason to stop, after too many epochs without a new best."""
        worn = self.patience is not None and position.bad_epochs >= self.patience
        return "patience" if worn else None
