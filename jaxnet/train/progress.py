"""What is seen of a run while it goes on, and the cache of compiled programs."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxnet.files import cache_folder

__all__ = ["Progress", "use_compilation_cache"]

_said: set[str] = set()


def use_compilation_cache(log: Callable[[str], None] = print) -> Path | None:
    """Keeps compiled programs in the user's cache, so that the next start does not compile.

    A folder that `jax_compilation_cache_dir` names already stays. Said once a process.

    Returns:
        The folder, or None if it cannot be written.
    """
    from jax.experimental.compilation_cache import compilation_cache

    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if folder is None:
        folder = str(cache_folder() / "compiled")
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            _once(f"compiled programs are not kept: {error}", log)
            return None
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        compilation_cache.reset_cache()  # it may have looked before, and found it was off
    _once(f"compiled programs are kept in {folder}", log)
    return Path(folder)


def _once(text: str, log: Callable[[str], None]) -> None:
    if text not in _said:
        _said.add(text)
        log(text)


class Progress:
    """A bar over the samples of a run, or a line an epoch where no one watches.

    Args:
        total: samples of the whole run; None where that is not known.
        done: of them, at the start.
        quiet: lines instead of a bar; None for a bar on a terminal only.
        log: where lines go; by default standard output.
    """

    def __init__(
        self,
        total: int | None,
        done: int,
        quiet: bool | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        if quiet is None:
            quiet = not sys.stderr.isatty()
        self.total, self.done = total, done
        self._log, self._quiet = log, quiet
        self._bar: Any = None

    def start(self) -> None:
        """Shows the bar, after the compilation; once is enough."""
        if not self._quiet and self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total,
                initial=self.done,
                unit=" samples",
                unit_scale=True,
                dynamic_ncols=True,
            )

    def write(self, text: str) -> None:
        """A line, above the bar if there is one."""
        if self._log is not None:
            self._log(text)
        elif self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def advance(self, samples: int, epoch: str, metrics: Mapping[str, Any]) -> None:
        """Some samples are done."""
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}", refresh=False)
            self._bar.set_postfix_str(_shown(metrics), refresh=False)
            self._bar.update(samples)

    def epoch(self, epoch: str, metrics: Mapping[str, Any], rate: float, seconds: float) -> None:
        """An epoch is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(_shown(metrics))
        else:
            self.write(f"epoch {epoch}: {_shown(metrics)}, {rate:,.0f} samples/s, {seconds:.2f} s")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _shown(metrics: Mapping[str, Any]) -> str:
    scalars = {name: value for name, value in metrics.items() if isinstance(value, float | int)}
    return ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
