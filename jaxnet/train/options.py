"""The arguments of `fit` that say how to train, checked."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jaxnet.train.callbacks import Callback
from jaxnet.train.step import Step

__all__ = ["Options"]


@dataclasses.dataclass(frozen=True)
class Options:
    """See `fit`.

    Raises:
        ValueError: one is out of range, or does not go with another.
    """

    data: Any
    epochs: int
    batch_size: int | None
    shuffle: bool | None
    validation: Any
    eval_step: Step | None
    eval_batch_size: int | None
    schedule: Callable[[Any, int], Any] | None
    callbacks: Sequence[Callback]
    monitor: str | None
    mode: str
    patience: int | None
    time_budget: float | None
    checkpoint: Any
    save_every: int
    save_seconds: float | None
    keep: int
    resume: bool
    nonfinite: str
    quiet: bool | None
    log: Callable[[str], None] | None
    chunk_steps: int | None
    feed: str
    compilation_cache: bool
    config: Any

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("save_every", 1), ("keep", 1)):
            self._check_count(name, least)
        for name in ("batch_size", "eval_batch_size", "patience", "chunk_steps"):
            if getattr(self, name) is not None:
                self._check_count(name, 1)
        self._check_word("mode", "min", "max")
        self._check_word("nonfinite", "stop", "skip", "go on")
        self._check_word("feed", "auto", "device", "host")
        for name in ("time_budget", "save_seconds"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}: {value!r}; accepted is a number of seconds")
        if (self.validation is None) != (self.eval_step is None):
            raise ValueError("validation, eval_step: one without the other; give both or none")

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: {value!r}; accepted is an integer, at least {least}")

    def _check_word(self, name: str, *words: str) -> None:
        value = getattr(self, name)
        if value not in words:
            raise ValueError(f"{name}: {value!r}; accepted are {', '.join(map(repr, words))}")
