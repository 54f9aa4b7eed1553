"""The kernels over odd shapes, for a process with sanitizers: python -m tests.sanitized

tests/test_sanitizers.py starts it with a library that was compiled with the address and the
undefined-behaviour sanitizer, which end the process at the first fault. Every array of a call is
a buffer of its own, laid out as the kernel wants it, so that a step over its end is seen.
"""

import itertools

import jax
import numpy as np

from jaxnet import _kernels as kernels
from jaxnet._kernels.recurrent import Layer, recurrent, recurrent_gradient

rng = np.random.RandomState(0)


def drawn(*shape):
    return jax.device_put(rng.standard_normal(shape).astype(np.float32))


def stored(x):
    """Images as the kernels store them, (C, H, W, N), or the way back."""
    return x.transpose(1, 2, 3, 0)


def images(x):
    return x.transpose(3, 0, 1, 2)


def run(function, *arrays):
    """Calls a function of images and other arrays, with images as they are stored."""
    rank = [a.ndim == 4 and a.shape[1] > 4 for a in arrays]  # others lie image after image

    def whole(*given):
        arrays = [images(a) if r else a for a, r in zip(given, rank, strict=True)]
        return jax.tree.map(lambda y: stored(y) if y.ndim == 4 else y, function(*arrays))

    given = [stored(a) if r else a for a, r in zip(arrays, rank, strict=True)]
    for result in jax.tree.leaves(jax.jit(whole)(*map(jax.numpy.array, given))):
        assert np.isfinite(result).all()


def correlations(count):
    for _ in range(count):
        groups = rng.choice([1, 1, 2, 3, 11])
        channels, outputs = rng.randint(1, 10), groups * rng.randint(1, 14)
        window, sizes = rng.randint(1, 6, 2), rng.randint(1, 14, 2)
        stride, dilation = rng.randint(1, 5, 2), rng.randint(1, 4, 2)
        if rng.rand() < 0.4:
            groups, stride, dilation = 1, [1, 1], [1, 1]
            channels, window = rng.randint(5, 40), [3, 3] if rng.rand() < 0.7 else window
        pads, batch = rng.randint(-1, 5, (2, 2)), rng.randint(1, 37)
        axes = zip(sizes, pads, window, stride, dilation, strict=True)
        counts = [(n + sum(p) - (k - 1) * d - 1) // s + 1 for n, p, k, s, d in axes]
        if min(counts) < 1:
            continue
        steps = kernels.Steps(*(tuple(map(int, each)) for each in (stride, dilation)), int(groups))
        around, window = tuple((int(a), int(b)) for a, b in pads), tuple(map(int, window))
        x, w = drawn(batch, groups * channels, *sizes), drawn(outputs, channels, *window)
        y = drawn(batch, outputs, *counts)
        weight = jax.numpy.array(w)
        size = tuple(map(int, sizes))
        run(lambda x, w=weight, p=around, s=steps: kernels.correlate2d(x, w, p, s), x)
        run(lambda y, w=weight, z=size, p=around, s=steps: kernels.spread2d(y, w, z, p, s), y)
        run(
            lambda x, y, k=window, p=around, s=steps: kernels.correlate2d_gradient(x, y, k, p, s),
            x, y,
        )  # fmt: skip
        print("correlation", x.shape, w.shape, pads.tolist(), steps, flush=True)


def norms_and_pools():
    for batch, channels, sizes in itertools.product((1, 9, 37), (1, 7), ((1, 1), (5, 3), (16, 9))):
        x, dy, c = drawn(batch, channels, *sizes), drawn(batch, channels, *sizes), drawn(channels)
        if batch * sizes[0] > 1:
            run(lambda x, c: kernels.batch_norm(x, c, c, 1e-5), x, c)
            run(lambda x, dy, c: kernels.batch_norm_gradient(x, dy, c, c, c * c, 1e-5), x, dy, c)
        for groups in (1, channels):
            rows = drawn(batch, groups)
            run(lambda x, c, g=groups: kernels.group_norm(x, c, c, g, 1e-5), x, c)
            run(
                lambda x, dy, c, m: kernels.group_norm_gradient(x, dy, c, m, m * m, 1e-5),
                x, dy, c, rows,
            )  # fmt: skip
        for kh, kw, step, pad, apart in ((2, 2, 2, 0, 1), (3, 2, 1, 1, 1), (3, 3, 2, 1, 2)):
            counts = [
                (n + 2 * pad - (k - 1) * apart - 1) // step + 1
                for n, k in zip(sizes, (kh, kw), strict=True)
            ]
            if min(counts) < 1 or (apart - pad > 0 and min(sizes) < apart):
                continue
            numbers = (kh, kw, step, step, pad, pad, apart, apart)
            slopes = drawn(batch, channels, *counts)
            run(lambda x, k=tuple(counts), s=numbers: kernels.max_pool2d_pick(x, x, k, s), x)
            run(lambda x, d, s=numbers: kernels.max_pool2d_spread(x, d, s), x, slopes)
        print("norm and pools", x.shape, flush=True)


def products():
    for rows, inputs, outputs in itertools.product((1, 3, 8), (1, 9, 40), (1, 33, 70)):
        run(kernels.few_rows, drawn(rows, inputs), drawn(outputs, inputs))
    print("products", flush=True)


def sequences():
    gates = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}
    sizes = ((1, 1, 1, 1), (5, 19, 3, 33), (3, 40, 17, 70))
    for (cell, many), (steps, batch, inputs, hidden) in itertools.product(gates.items(), sizes):
        for reverse, first in ((False, (False, True)), (True, (True, False))):
            layer, rows = Layer(cell, reverse, first), many * hidden
            x = drawn(*((batch, steps) if first[0] else (steps, batch)), inputs)
            dy = drawn(*((batch, steps) if first[1] else (steps, batch)), hidden)
            weights = drawn(rows, inputs), drawn(rows, hidden), drawn(rows), drawn(rows)
            state = tuple(drawn(batch, hidden) for _ in range(2 if cell == "lstm" else 1))
            lengths = jax.numpy.array(rng.randint(1, steps + 1, batch))

            def both(x, weights, state, dy, layer=layer, lengths=lengths):
                y, last, kept = recurrent(layer, x, weights, state, lengths, True)
                slopes = (dy, *last)
                return y, recurrent_gradient(layer, x, weights, state, lengths, kept, slopes, True)

            for result in jax.tree.leaves(jax.jit(both)(x, weights, state, dy)):
                assert np.isfinite(result).all()
            print("sequence", cell, x.shape, hidden, reverse, flush=True)


if __name__ == "__main__":
    print(kernels.load(), flush=True)
    correlations(40)
    norms_and_pools()
    products()
    sequences()
    print("no fault")
