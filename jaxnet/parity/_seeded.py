"""Initial weights that are stored as the seed and the draws that they are the results of.

`jaxnet.random.Generator` draws what torch draws on the CPU. So what a program draws before its
first step is drawn again when that step is written, and a parameter whose bits come out again is
left out of the file. Of normal numbers, whose logarithms and cosines differ in the last digit, the
file has the difference in units in the last place, as int8, under "SITE^". What does not come out
again, as a weight that was scaled after it was drawn, is stored as an array.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxnet.random import Generator

# So many numbers at most are drawn again when a trace is read.
_MOST = 10**8


class InitialDraws:
    """What a program draws from torch's default generator before its first step, in order."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.seed: int | None = None
        self._draws: list[dict[str, Any]] = []
        self._known = True

    def add(self, found: tuple[str, dict[str, Any], Any] | None, generator: Any) -> None:
        """Adds a draw.

        Args:
            found: Its kind, what it was drawn with, and its result; None where that is not known.
            generator: The generator that it was given, or None.
        """
        if generator is not None and generator is not self.torch.default_generator:
            return
        seed = self.torch.initial_seed()
        if seed != self.seed:  # all that comes after torch.manual_seed is its own
            self.seed, self._draws, self._known = seed, [], True
        known = found is not None and found[2].device.type == "cpu"
        self._known = self._known and known
        if self._known and found is not None:
            kind, arguments, tensor = found
            dtype = str(tensor.dtype).removeprefix("torch.")
            shape = [*tensor.shape]
            self._draws.append(
                {"kind": kind, "arguments": arguments, "shape": shape, "dtype": dtype}
            )

    def of(self, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """How arrays are drawn again: the seed, the draws, and by site the number of its draw.

        Args:
            arrays: The arrays of the first step by site.

        Returns:
            That, and what the file has of the arrays whose draws do not have all bits, under
            "SITE^". Both are empty if none of the arrays has the bits of a draw.
        """
        wanted: dict[Any, list[str]] = {}
        for site, array in arrays.items():
            if array.size > 1:
                wanted.setdefault((array.shape, array.dtype.name), []).append(site)
        sites: dict[str, int] = {}
        corrections: dict[str, np.ndarray] = {}
        if self.seed is None or sum(_size(draw) for draw in self._draws) > _MOST:
            return {}, {}
        for number, array in enumerate(_drawn(self.seed, self._draws)):
            for site in wanted.get((array.shape, array.dtype.name), ()):
                apart = None if site in sites else _ulps(arrays[site], array)
                if apart is not None:
                    sites[site] = number
                    if apart.any():
                        corrections[f"{site}^"] = apart
                    break
        used = self._draws[: max(sites.values(), default=-1) + 1]
        seeded = {"seed": self.seed, "draws": used, "sites": sites}
        return (seeded if sites else {}), corrections


def _ulps(array: np.ndarray, drawn: np.ndarray) -> np.ndarray | None:
    """The difference in units in the last place, as int8; None where it is another array."""
    if array.dtype != np.float32:
        return np.zeros(1, np.int8) if np.array_equal(array, drawn) else None
    apart = array.view(np.int32).astype(np.int64) - drawn.view(np.int32)
    return apart.astype(np.int8) if np.all(np.abs(apart) < 128) else None


def replayed(seeded: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by site, from what `InitialDraws.of` gave and the corrections in the file."""
    if not seeded:
        return {}
    numbers = [*_drawn(seeded["seed"], seeded["draws"])]
    found = {}
    for site, number in seeded["sites"].items():
        array, apart = numbers[number], stored.get(f"{site}^")
        if apart is not None:
            array = (array.view(np.int32) + apart).astype(np.int32).view(np.float32)
        found[site] = array
    return found


def _drawn(seed: int, draws: Iterable[Mapping[str, Any]]) -> Iterable[np.ndarray]:
    """The results of draws in order, as far as they can be drawn again."""
    generator = Generator(seed)
    for draw in draws:
        try:
            yield _one(generator, draw["kind"], draw["arguments"], draw["shape"], draw["dtype"])
        except (ValueError, TypeError, KeyError):  # and nothing that comes after it
            return


def _one(
    generator: Generator, kind: str, given: Mapping[str, Any], shape: list[int], dtype: str
) -> np.ndarray:
    if kind == "normal":
        return generator.normal(given["mean"], given["std"], shape, dtype)
    if kind == "uniform":
        return generator.uniform(given["low"], given["high"], shape, dtype)
    if kind == "integers" and given["high"] is not None:
        return generator.randint(given["low"], given["high"], shape, dtype)
    if kind == "integers":
        return generator.random_(shape, dtype)
    if kind == "permutation":
        return generator.randperm(given["n"])
    raise ValueError(kind)


def _size(draw: Mapping[str, Any]) -> int:
    return int(np.prod(draw["shape"], dtype=np.int64))
