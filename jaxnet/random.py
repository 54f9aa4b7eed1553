"""PyTorch's CPU random numbers on the host, without PyTorch.

`torch.manual_seed(s)` seeds an MT19937 twister with `init_genrand(s)`; numpy's
legacy seeding gives the same 32-bit words. From the words this module computes the
same numbers as ATen's CPU kernels (`aten/src/ATen/native/cpu/
DistributionTemplates.h` and `aten/src/ATen/core/DistributionsHelper.h`), so
that a program which draws in the same order gets the same numbers.

Everything here returns numpy arrays: drawing happens once, on the host, before
anything is compiled.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from jaxnet._checks import is_integer

__all__ = ["Generator"]

# The bytes of torch.get_rng_state() for the CPU: the C++ struct CPUGeneratorImplState,
# which wraps the older layout of TH.
_STATE = np.dtype(
    {
        "names": [
            "seed",
            "left",
            "seeded",
            "next",
            "words",
            "normal_x",
            "normal_y",
            "normal_rho",
            "normal_is_valid",
            "next_float_normal",
            "next_float_is_valid",
        ],
        "formats": ["<u8", "<i4", "<i4", "<u8", ("<u8", 624)] + ["<f8"] * 3 + ["<i4", "<f4", "?"],
        "offsets": [0, 8, 12, 16, 24, 5016, 5024, 5032, 5040, 5048, 5052],
        "itemsize": 5056,
    }
)


_DIGITS = {2: 11, 4: 24, 8: 53}  # binary digits of a float's significand, by its size in bytes
_MOST_ITEMS = (2**32 - 1) // 20  # from here on torch's randperm has another algorithm


class Generator:
    """A CPU random generator that repeats `torch.Generator`.

    `rand`, `uniform`, `randint`, `random_`, `randperm`, and `bernoulli` of an array of
    probabilities are torch's bit for bit. `randn` and `normal` agree to 4 ulp in float32
    (torch's vectorised logarithm, sine and cosine round differently) and to 1e-15 in float64.

    Not reproduced is `torch.Tensor.bernoulli_(p)` with one number p, and so the
    mask of torch's dropout, which torch's x86 builds draw from a vendor library.

    Args:
        seed: The seed, any integer that torch takes, in [-2**63, 2**64); only its low 32 bits
            count, as in torch. By default it is the seed of `torch.Generator()`.

    Raises:
        TypeError: The seed is not an integer.
        ValueError: The seed does not fit 64 bits.

    >>> Generator(1).rand(3)
    array([0.7576316 , 0.27931088, 0.40306926], dtype=float32)
    """

    def __init__(self, seed: int = 67280421310721) -> None:  # torch.Generator()'s
        self.manual_seed(seed)

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed})"

    def manual_seed(self, seed: int) -> "Generator":
        """Starts over from a seed and returns the generator, as torch does.

        Args:
            seed: The seed, in [-2**63, 2**64).

        Raises:
            TypeError: The seed is not an integer.
            ValueError: The seed does not fit 64 bits.
        """
        if not is_integer(seed):
            raise TypeError(f"seed: {seed!r} is not an integer; give one, such as Generator(0)")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"seed: {seed} does not fit 64 bits; accepted is [-2**63, 2**64)")
        self._seed = int(seed) % 2**64
        legacy: Any = np.random.RandomState(self._seed % 2**32).get_state(legacy=False)
        self._bits = np.random.MT19937()
        self._bits.state = {"bit_generator": "MT19937", "state": legacy["state"]}
        self._fresh = True
        self._next_normal: float | None = None
        return self

    def initial_seed(self) -> int:
        """The seed that the generator was started from."""
        return self._seed

    # words

    def _words(self, n: int) -> np.ndarray:
        """The next n 32-bit words, as uint64."""
        self._fresh = self._fresh and n == 0
        return self._bits.random_raw(n)

    def _words64(self, n: int) -> np.ndarray:
        """The next n 64-bit words, each from two words of 32 bits, the high half first."""
        pairs = self._words(2 * n).reshape(n, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    # continuous

    def rand(self, *size: int | Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """Uniform numbers in [0, 1): `torch.rand`.

        Args:
            *size: The shape, as separate integers or one sequence.
            dtype: The dtype, float32 or float64.
        """
        return self.uniform(0.0, 1.0, size, dtype)

    def uniform(
        self,
        low: float = 0.0,
        high: float = 1.0,
        size: int | Sequence[Any] = (),
        dtype: DTypeLike = np.float32,
    ) -> np.ndarray:
        """Uniform numbers in [low, high): `torch.empty(size).uniform_(low, high)`.

        A number that rounding lifts to `high` becomes `low`, as in torch.

        Args:
            low: The lower bound, which can be drawn.
            high: The upper bound, which is not drawn.
            size: The shape.
            dtype: The dtype, float32 or float64.

        Raises:
            ValueError: The bounds are in the wrong order or do not fit the dtype.
        """
        shape, kind = _shape(size), _float(dtype)
        if not low <= high:
            raise ValueError(f"low, high: [{low}, {high}) is empty; low must not exceed high")
        largest = float(np.finfo(kind).max)
        if not (-largest <= low and high <= largest and high - low <= largest):
            raise ValueError(f"low, high: [{low}, {high}) does not fit {kind.__name__}")
        start, end = kind(low), kind(high)
        drawn = _fused(self._unit(math.prod(shape), kind), end - start, start)
        return np.where(drawn == end, start, drawn).reshape(shape)

    def _unit(self, n: int, kind: type[np.floating]) -> np.ndarray:
        if kind is np.float32:
            mask = np.uint64(2**24 - 1)
            return (self._words(n) & mask).astype(np.float32) * np.float32(2.0**-24)
        return (self._words64(n) & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53

    def randn(self, *size: int | Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """Standard normal numbers: `torch.randn`.

        Args:
            *size: The shape, as separate integers or one sequence.
            dtype: The dtype, float32 or float64.
        """
        return self.normal(0.0, 1.0, size, dtype)

    def normal(
        self,
        mean: float = 0.0,
        std: float = 1.0,
        size: int | Sequence[Any] = (),
        dtype: DTypeLike = np.float32,
    ) -> np.ndarray:
        """Normal numbers: `torch.empty(size).normal_(mean, std)`.

        Torch has two algorithms. Fewer than 16 numbers come one by one from 53-bit uniforms
        by Box-Muller, and the second of a pair waits in the generator for the next
        call. From 16 on, uniforms fill the tensor and are transformed in blocks
        of 8 + 8; the last 16 are drawn again when the size is no multiple of 16.

        Args:
            mean: The mean.
            std: The standard deviation, at least 0.
            size: The shape.
            dtype: The dtype, float32 or float64.

        Raises:
            ValueError: The standard deviation is negative or nan.
        """
        shape, kind = _shape(size), _float(dtype)
        if not std >= 0:
            raise ValueError(f"std: {std}; a standard deviation is at least 0")
        n = math.prod(shape)
        if n < 16:
            flat = np.array([self._one_normal() for _ in range(n)], dtype=np.float64)
            return _fused(flat, np.float64(std), np.float64(mean)).astype(kind).reshape(shape)
        flat = self._unit(n, kind)
        whole = n - n % 16
        flat[:whole] = _box_muller_blocks(flat[:whole], kind)
        if whole != n:
            flat[-16:] = _box_muller_blocks(self._unit(16, kind), kind)
        return _fused(flat, kind(std), kind(mean)).reshape(shape)

    def _one_normal(self) -> float:
        if self._next_normal is not None:
            value, self._next_normal = self._next_normal, None
            return value
        u1, u2 = self._unit(2, np.float64)
        radius = math.sqrt(-2.0 * math.log1p(-u2))
        theta = 2.0 * math.pi * u1
        self._next_normal = radius * math.sin(theta)
        return radius * math.cos(theta)

    # discrete

    def randint(
        self,
        low: int | None = None,
        high: int | Sequence[int] | None = None,
        size: int | Sequence[int] = (),
        dtype: DTypeLike = np.int64,
    ) -> np.ndarray:
        """Integers in [low, high): `torch.randint(low, high, size)`.

        `randint(high, size)` and `randint(high=high, size=size)` start at 0, as in torch.

        Args:
            low: The smallest integer.
            high: The largest integer plus one.
            size: The shape.
            dtype: The dtype: bool, an integer, or a float that represents all of the integers
                exactly.

        Raises:
            ValueError: The range is empty or does not fit the dtype.
        """
        if low is None:
            low = 0
        elif high is None or isinstance(high, Sequence):
            low, high, size = 0, low, size if high is None else high
        low, high = _integer("low", low), _integer("high", high)
        shape, kind = _shape(size), np.dtype(np.int64 if dtype is None else dtype)
        if not low < high:
            raise ValueError(f"low, high: [{low}, {high}) is empty; high must exceed low")
        least, most = _range(kind)
        if low < max(least, -(2**63)) or high - 1 > min(most, 2**63 - 1):
            raise ValueError(
                f"low, high: [{low}, {high}) does not fit {kind}, which is drawn from {least} "
                f"to {most}"
            )
        # From 2**28 on torch takes two words a number, so that the remainder of the division
        # is nearly uniform.
        draw = self._words64 if high - low >= 2**28 else self._words
        offsets = (draw(math.prod(shape)) % np.uint64(high - low)).astype(np.int64)
        return (offsets + low).astype(kind).reshape(shape)

    def random_(self, size: int | Sequence[int] = (), dtype: DTypeLike = np.int64) -> np.ndarray:
        """Numbers over the whole range that torch uses for the dtype: `Tensor.random_()`.

        Integers lie in [0, largest]; floats are the integers in [0, 2**digits], where digits
        is the number of bits of the significand.

        Args:
            size: The shape.
            dtype: The dtype: bool, an integer or a float.
        """
        shape, kind = _shape(size), np.dtype(np.int64 if dtype is None else dtype)
        count = np.uint64(_range(kind)[1] + 1)
        draw = self._words64 if kind.itemsize == 8 else self._words
        return (draw(math.prod(shape)) % count).astype(kind).reshape(shape)

    def randperm(self, n: int) -> np.ndarray:
        """A random order of 0 .. n-1 as int64: `torch.randperm(n)`.

        Args:
            n: The number of items, below 214,748,364. For more torch has another algorithm,
                which is not reproduced.

        Raises:
            ValueError: The number is negative or too large.
        """
        n = _integer("n", n)
        if n < 0:
            raise ValueError(f"n: {n} is negative; give the number of items, at least 0")
        if n >= _MOST_ITEMS:
            raise ValueError(
                f"n: {n}; torch shuffles {_MOST_ITEMS} items and more in another way, "
                "which is not reproduced"
            )
        order = list(range(n))
        if n > 1:
            words = self._words(n - 1)
            jumps = (words % np.arange(n, 1, -1, dtype=np.uint64)).tolist()
            for i, jump in enumerate(jumps):
                order[i], order[i + jump] = order[i + jump], order[i]
        return np.array(order, dtype=np.int64)

    def bernoulli(self, p: ArrayLike) -> np.ndarray:
        """Zeros and ones, one with probability p: `torch.bernoulli(p)` of a tensor.

        Args:
            p: An array of probabilities, float32 or float64, of any shape.

        Returns:
            An array of the shape and dtype of `p`.

        Raises:
            TypeError: p is one number. Torch's `bernoulli_(p)` of a number draws from a
                vendor library on x86, which this generator cannot repeat.
            ValueError: p is not float32 or float64, or lies outside [0, 1].
        """
        if isinstance(p, (bool, int, float, np.generic)):
            raise TypeError(
                f"p: {p!r} is one number, for which torch draws from a vendor library that is "
                "not reproduced; give an array of probabilities, such as np.full(shape, p)"
            )
        probabilities = np.asarray(p)
        if probabilities.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"p: dtype {probabilities.dtype}; give float32 or float64 probabilities"
            )
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("p: a probability lies outside [0, 1]")
        draws = self._unit(probabilities.size, _float(probabilities.dtype))
        return (draws.reshape(probabilities.shape) < probabilities).astype(probabilities.dtype)

    # state

    def get_state(self) -> np.ndarray:
        """The state as the 5,056 bytes (uint8) that `torch.get_rng_state()` returns."""
        # A generator that has drawn nothing since its seed says left = 1 and next = 0 in torch:
        # the first draw makes the words. Later `left` counts down while `next` counts up.
        inner: Any = self._bits.state["state"]
        position = int(inner["pos"])
        packed = np.zeros((), _STATE)
        packed["seed"] = self._seed
        packed["left"] = 1 if self._fresh else 625 - position
        packed["seeded"] = 1
        packed["next"] = 0 if self._fresh else position
        packed["words"] = inner["key"]
        if self._next_normal is not None:
            packed["normal_y"] = self._next_normal
            packed["normal_is_valid"] = 1
        return np.frombuffer(packed.tobytes(), np.uint8).copy()

    def set_state(self, state: ArrayLike) -> "Generator":
        """Continues from a state of this class or of torch.

        Args:
            state: The bytes (uint8) of `get_state()` or `torch.get_rng_state().numpy()`.

        Returns:
            The generator.

        Raises:
            ValueError: The bytes are not the state of a generator.
        """
        raw = np.asarray(state)
        if raw.dtype != np.uint8 or raw.shape != (_STATE.itemsize,):
            raise ValueError(
                f"state: {raw.dtype}{list(raw.shape)}; accepted is what get_state() or "
                f"torch.get_rng_state().numpy() gives, uint8[{_STATE.itemsize}]"
            )
        packed = np.frombuffer(raw.tobytes(), _STATE)[0]
        left, following = int(packed["left"]), int(packed["next"])
        if not (packed["seeded"] == 1 and 1 <= left <= 624 and 0 <= following <= 624):
            raise ValueError("state: these bytes are not a generator's state")
        if left != 1 and left + following != 625:
            raise ValueError("state: these bytes are not a generator's state")
        self._seed = int(packed["seed"])
        # torch makes new words when `left` has counted down to 1.
        position = 624 if left == 1 else following
        self._fresh = left == 1 and following == 0
        self._bits = np.random.MT19937()
        self._bits.state = {
            "bit_generator": "MT19937",
            "state": {"key": packed["words"].astype(np.uint32), "pos": position},
        }
        self._next_normal = float(packed["normal_y"]) if packed["normal_is_valid"] else None
        return self


def _shape(size: int | Sequence[Any]) -> tuple[int, ...]:
    """A shape from any of the forms (3, 4), 3, ((3, 4),) and [3, 4]."""
    axes: Any = size if isinstance(size, Sequence) else (size,)
    if len(axes) == 1 and isinstance(axes[0], Sequence):
        axes = axes[0]
    shape = tuple(_integer("size", axis) for axis in axes)
    if any(axis < 0 for axis in shape):
        raise ValueError(f"size: {shape} has a negative axis; every axis is at least 0")
    return shape


def _integer(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: {value!r} is not an integer")
    return operator.index(value)


def _range(kind: np.dtype) -> tuple[int, int]:
    """The first and the last of the integers that torch draws for a dtype."""
    if kind == np.bool_:
        return 0, 1
    if kind.kind in "iu":
        return int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    if kind.kind == "f" and kind.itemsize in _DIGITS:
        digits = _DIGITS[kind.itemsize]
        return -(2**digits), 2**digits
    raise ValueError(f"dtype: {kind} has no range; accepted are bool, integers and floats")


def _float(dtype: DTypeLike | None) -> type[np.floating]:
    # None is torch's default, float32. NumPy takes it for float64, whose draws are others.
    kind = np.dtype(np.float32 if dtype is None else dtype)
    if kind == np.float32:
        return np.float32
    if kind == np.float64:
        return np.float64
    raise ValueError(f"dtype: {kind}; random floats are float32 or float64")


def _fused(x: np.ndarray, width: np.floating, start: np.floating) -> np.ndarray:
    """x * width + start with one rounding, since torch's builds compile it to an FMA."""
    if start == 0:
        return x * width
    if x.dtype == np.float32:  # the product is exact in float64
        return _odd_sum(x.astype(np.float64) * float(width), float(start)).astype(np.float32)
    # Boldo and Melquiond's emulation of an FMA: the product and both sums are exact pairs of
    # a number and its rounding error, and the smallest parts are rounded to odd, so that only
    # the last sum rounds.
    scale = 2.0 ** -math.frexp(max(abs(width), abs(start)))[1]
    width, start = width * scale, start * scale  # no overflow in the split
    product = x * width
    x_high, w_high = _upper_half(x), _upper_half(width)
    x_low, w_low = x - x_high, width - w_high
    lost = ((x_high * w_high - product) + x_high * w_low + x_low * w_high) + x_low * w_low
    low, lower = _sum(lost, start)
    total, rest = _sum(product, low)
    return (total + _odd_sum(rest, lower)) / scale


_Float64 = np.ndarray | np.floating[Any] | float
"""A number or an array of float64."""


def _sum(a: _Float64, b: _Float64) -> tuple[Any, Any]:
    """The rounded sum of a and b, and its rounding error (Knuth's TwoSum)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def _odd_sum(a: _Float64, b: _Float64) -> np.ndarray:
    """a + b rounded to odd: the last bit of an inexact sum is 1, which a later rounding sees."""
    total, lost = _sum(a, b)
    even = (total.view(np.int64) & 1) == 0
    return np.where((lost != 0) & even, np.nextafter(total, np.copysign(np.inf, lost)), total)


def _upper_half(x: _Float64) -> Any:
    scaled = x * 134217729.0  # 2**27 + 1: Veltkamp's split of 53 bits
    return scaled - (scaled - x)


def _box_muller_blocks(uniforms: np.ndarray, kind: type[np.floating]) -> np.ndarray:
    blocks = uniforms.reshape(-1, 2, 8)
    # theta is rounded in the dtype of the result, as in torch. The rest is computed in
    # float64, nearly exact; torch's vectorised functions differ in the last digit anyway.
    theta = (kind(2.0 * math.pi) * blocks[:, 1]).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((kind(1.0) - blocks[:, 0]).astype(np.float64)))
    out = np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)
    return out.astype(kind).reshape(uniforms.shape)
