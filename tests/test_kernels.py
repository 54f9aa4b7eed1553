"""The layers in C against XLA's, and what happens without a compiler."""

import functools
import hashlib
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import _kernels as kernels
from jaxnet.backend import arithmetic_form
from jaxnet.nn import functional as F
from jaxnet.nn._correlation import correlate, spread
from tests import forked
from tests.tolerances import distance, tolerance

needs_compiler = pytest.mark.skipif(not kernels.available(), reason="no C compiler")

# x (N, C, H, W), w (O, C, kh, kw), pads: register tiles and bands whole, cut and padded
SHAPES = [
    ((64, 3, 32, 32), (16, 3, 3, 3), ((1, 1), (1, 1))),
    ((8, 1, 5, 4), (1, 1, 3, 3), ((0, 0), (0, 0))),
    ((17, 5, 7, 9), (11, 5, 1, 1), ((0, 0), (0, 0))),
    ((33, 2, 9, 8), (9, 2, 5, 4), ((2, 1), (0, 3))),
    ((16, 40, 17, 17), (24, 40, 3, 3), ((1, 1), (1, 1))),
    ((16, 3, 6, 11), (7, 3, 2, 7), ((4, 0), (7, 8))),
    ((9, 2, 8, 8), (3, 2, 3, 3), ((-1, 0), (1, -2))),
    ((20, 4, 6, 35), (5, 4, 3, 3), ((0, 2), (3, 1))),
    # Winograd's, of whole and of cut tiles
    ((32, 32, 16, 16), (32, 32, 3, 3), ((1, 1), (1, 1))),
    ((17, 9, 7, 5), (11, 9, 3, 3), ((2, 0), (0, 3))),
    ((8, 12, 3, 4), (8, 12, 3, 3), ((0, 0), (0, 0))),
    ((33, 16, 9, 8), (7, 16, 3, 3), ((-1, 0), (1, -2))),
    ((8, 70, 5, 4), (10, 70, 3, 3), ((3, 3), (2, 2))),
    ((8, 260, 4, 3), (258, 260, 3, 3), ((1, 1), (1, 1))),
]


# x, w, stride, pads, dilation, groups: phases without a window, beyond the ends, rows and columns
# that no window sees, tiles of few channels, depthwise
STEPS = [
    ((19, 64, 8, 8), (70, 64, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    ((9, 6, 11, 13), (13, 6, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    ((8, 6, 11, 13), (9, 2, 5, 4), (3, 2), ((2, 1), (0, 3)), (2, 3), 3),
    ((33, 32, 9, 9), (32, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 32),
    ((17, 5, 12, 7), (15, 1, 5, 4), (2, 3), ((-1, 2), (3, -1)), (1, 2), 5),
    ((8, 4, 12, 12), (4, 4, 4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1), 1),
    ((8, 4, 3, 3), (5, 4, 7, 7), (4, 3), ((3, 3), (9, 2)), (1, 1), 1),
    ((8, 4, 30, 20), (5, 4, 3, 3), (2, 4), ((3, 3), (9, 2)), (4, 6), 1),
    ((40, 48, 5, 5), (96, 4, 3, 2), (2, 1), ((1, 1), (1, 1)), (1, 1), 12),
    ((16, 200, 6, 5), (20, 200, 3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((9, 5, 4, 1), (7, 5, 2, 1), (1, 3), ((-1, -1), (0, 0)), (1, 5), 1),
    ((9, 5, 2, 2), (7, 5, 3, 3), (2, 2), ((3, -1), (0, 1)), (1, 1), 1),
    ((8, 12, 3, 3), (8, 12, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
]


def arrays(*shapes):
    rng = np.random.RandomState(0)
    return [jax.device_put(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def in_form(form, function, *inputs):
    with arithmetic_form(form):
        return jax.tree.leaves(jax.jit(lambda *inputs: function(*inputs))(*inputs))


@needs_compiler
@pytest.mark.parametrize(("x", "w", "pads"), SHAPES)
def test_the_kernel_gives_what_xla_gives(x, w, pads):
    sizes = [n + sum(p) - k + 1 for n, p, k in zip(x[2:], pads, w[2:], strict=True)]
    dy = (x[0], w[0], *sizes)

    def both(x, w, dy):
        y, back = jax.vjp(lambda x, w: correlate(x, w, (1, 1), pads, (1, 1)), x, w)
        low = tuple(p for p, _ in pads)
        again, back_again = jax.vjp(
            lambda y, w: spread(y, w, x.shape[2:], (1, 1), low, (1, 1)), dy, w
        )
        return y, back(dy), again, back_again(x)

    inputs = arrays(x, w, dy)
    with arithmetic_form("kernel"):
        name = "jaxnet_winograd" if w[2:] == (3, 3) and w[1] > 8 else "jaxnet_correlate2d"
        assert f"{name}_gradient" in jax.jit(both).lower(*inputs).as_text()
    with jax.enable_x64(True):
        exact = in_form("native", both, *(np.asarray(a, np.float64) for a in inputs))
    for ours, theirs in zip(in_form("kernel", both, *inputs), exact, strict=True):
        assert distance("gradient", ours, theirs) <= tolerance("gradient", "float32")


@needs_compiler
@pytest.mark.parametrize(("x", "w", "stride", "pads", "dilation", "groups"), STEPS)
def test_stride_dilation_and_groups(x, w, stride, pads, dilation, groups):
    axes = zip(x[2:], pads, w[2:], stride, dilation, strict=True)
    sizes = [(n + sum(p) - (k - 1) * d - 1) // s + 1 for n, p, k, s, d in axes]

    def both(x, w, dy):
        def there(x, w):
            return correlate(x, w, stride, pads, dilation, groups)

        def again(dy, w):
            low = tuple(p for p, _ in pads)
            return spread(dy, w, x.shape[2:], stride, low, dilation, groups)

        (y, back), (z, back_again) = jax.vjp(there, x, w), jax.vjp(again, dy, w)
        return y, back(dy), z, back_again(x)

    inputs = arrays(x, w, (x[0], w[0], *sizes))
    with arithmetic_form("kernel"):
        text = jax.jit(both).lower(*inputs).as_text()
    assert ("jaxnet_correlate2d_gradient" in text) == (max(sizes) > 1)
    assert ("jaxnet_spread2d" in text) == (max(sizes) > 1 and w[2:] != (1, 1))
    with jax.enable_x64(True):
        exact = in_form("native", both, *(np.asarray(a, np.float64) for a in inputs))
    for ours, theirs in zip(in_form("kernel", both, *inputs), exact, strict=True):
        assert distance("gradient", ours, theirs) <= tolerance("gradient", "float32")


@needs_compiler
def test_the_same_bits_every_time():
    x, w = arrays((64, 8, 16, 16), (16, 8, 3, 3))

    def gradient(x, w):
        return jax.grad(lambda w: (F.conv2d(x, w, padding=1) ** 2).sum())(w)

    first = in_form("kernel", gradient, x, w)[0]
    for _ in range(5):
        assert np.array_equal(first, in_form("kernel", gradient, x, w)[0])


BITS = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
from tests.test_kernels import bits
print(bits())
"""


def bits():
    """A digest of what the kernels for images give where the work falls into many tasks."""
    x, volumes, w, few, deep, scale, bias = arrays(
        (37, 24, 19, 18), (6, 3, 9, 8, 7), (26, 24, 3, 3), (48, 1, 3, 3), (5, 3, 3, 2, 3), (24,),
        (24,),
    )  # fmt: skip
    functions = [
        (lambda x, w: F.conv2d(x, w, stride=2, padding=1), x, w),
        (lambda x, w: F.conv2d(x, w, padding=1, groups=24), x, few),
        (lambda x, w: F.conv_transpose2d(x, w, None, 2, 1), x, w.transpose(1, 0, 2, 3)),
        (lambda x, w: F.conv3d(x, w, padding=1), volumes, deep),
        (lambda x, w, b: F.group_norm(x, 3, w, b), x, scale, bias),
    ]

    def both(function, *given):
        y, back = jax.vjp(function, *given)
        return y, back(jnp.cos(y))

    found = [jax.jit(functools.partial(both, f))(*given) for f, *given in functions]
    whole = b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(found))
    return hashlib.sha256(whole).hexdigest()


@pytest.mark.long
@needs_compiler
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_the_same_bits_with_one_thread_and_with_many():
    many = bits()
    assert all(bits() == many for _ in range(3))
    done = subprocess.run([sys.executable, "-c", BITS], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == many


@needs_compiler
def test_second_derivative():
    def penalty(x, w):
        slopes = jax.grad(lambda x: jnp.sum(jnp.tanh(F.conv2d(x, w, padding=1))))(x)
        return (slopes**2).sum()

    def second(x, w):
        return jax.grad(penalty, (0, 1))(x, w)

    x, w = arrays((8, 2, 5, 4), (3, 2, 3, 3))
    for ours, theirs in zip(*(in_form(f, second, x, w) for f in ("kernel", "native")), strict=True):
        assert distance("gradient", ours, theirs) <= tolerance("gradient", "float32")


@pytest.mark.long
@needs_compiler
def test_a_net_of_convolution_norm_and_pool_alike_in_both_forms():
    def slopes(x, w, v):
        def loss(x, w, v):
            y = F.max_pool2d(jax.nn.relu(F.conv2d(x, w, padding=1)), 2)
            y = F.batch_norm(F.conv2d(y, v), None, None, training=True)
            return (F.max_pool2d(y, 3, 1, 1) ** 3).sum()

        return jax.grad(loss, (0, 1, 2))(x, w, v)

    inputs = arrays((10, 3, 8, 8), (4, 3, 3, 3), (5, 4, 3, 3))
    with arithmetic_form("kernel"):
        eager = slopes(*inputs)
    compiled = in_form("kernel", slopes, *inputs)
    for ours, direct, theirs in zip(
        compiled, eager, in_form("native", slopes, *inputs), strict=True
    ):
        assert distance("gradient", ours, theirs) <= tolerance("gradient", "float32")
        assert distance("gradient", ours, direct) <= tolerance("gradient", "float32")


# window, stride, padding, dilation, ceil_mode: apart, overlapping, cut at the ends
POOLS = [
    (2, 2, 0, 1, False),
    (3, 1, 1, 1, False),
    ((2, 3), (3, 2), (1, 1), (1, 2), True),
    (3, 2, 1, 2, True),
    (1, 1, 0, 1, False),
    ((5, 1), 4, (2, 0), 1, False),
]


@needs_compiler
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("batch", [8, 21])
def test_pooling_is_that_of_xla_bit_for_bit(pool, batch):
    x = np.random.RandomState(1).randint(-3, 3, (batch, 3, 9, 11)).astype(np.float32)  # many ties
    x[0, 0, :3, :3] = np.nan
    x[1, 1] = -np.inf

    def slopes(x):
        pooled = F.max_pool2d(x, *pool)
        weights = jnp.arange(float(pooled.size)).reshape(pooled.shape)
        return jnp.nansum(jnp.where(jnp.isinf(pooled), 0, pooled) * weights), pooled

    both = jax.grad(slopes, has_aux=True)
    with arithmetic_form("kernel"):
        assert "jaxnet_max_pool2d_spread" in jax.jit(both).lower(x).as_text()
    for ours, theirs in zip(in_form("kernel", both, x), in_form("native", both, x), strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True)


@needs_compiler
@pytest.mark.parametrize(("shape", "factors"), [
    ((8, 1, 1, 2), True), ((64, 5, 8, 8), True), ((21, 3, 7, 5), False), ((9, 2, 40, 41), True)
])  # fmt: skip
def test_batch_norm_by_definition(shape, factors):
    x, dy, w, b = arrays(shape, shape, shape[1], shape[1])
    x, w, b = x * 3 + 100, w if factors else None, b if factors else None

    def both(x, dy, *given):
        def norm(x, *given):
            return F.batch_norm(x, None, None, *(given or (None, None)), training=True)

        y, back = jax.vjp(norm, x, *given)
        return y, back(dy)

    given = [v for v in (w, b) if v is not None]
    with arithmetic_form("kernel"):
        assert "jaxnet_batch_norm_gradient" in jax.jit(both).lower(x, dy, *given).as_text()
    with jax.enable_x64(True):
        exact = in_form("native", both, *(np.asarray(a, np.float64) for a in (x, dy, *given)))
    for ours, theirs in zip(in_form("kernel", both, x, dy, *given), exact, strict=True):
        # The mean of numbers about 100 is known to a float32's 4e-6, of values about 3.
        assert distance("gradient", ours, theirs) <= 10 * tolerance("gradient", "float32")


@needs_compiler
@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_group_norm_of_numbers_far_from_zero(offset):
    """A mean that is rounded to float32 would cost 1e-3 at 1e4."""
    x = (offset + np.random.RandomState(0).standard_normal((19, 8, 8, 8))).astype(np.float32)
    grouped = np.asarray(x, np.float64).reshape(19, 4, -1)
    mean, var = grouped.mean(2, keepdims=True), grouped.var(2, keepdims=True)
    exact = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    assert np.abs(in_form("kernel", lambda x: F.group_norm(x, 4), x) - exact).max() < 1e-5


@needs_compiler
@pytest.mark.parametrize(("shape", "groups", "factors"), [
    ((8, 2, 2, 3), 1, True), ((64, 6, 8, 8), 3, True), ((21, 4, 7, 5), 4, False),
    ((9, 2, 40, 41), 1, True),
])  # fmt: skip
def test_group_norm_by_definition(shape, groups, factors):
    x, dy, w, b = arrays(shape, shape, shape[1], shape[1])
    x, w, b = x * 3 + 100, w if factors else None, b if factors else None

    def both(x, dy, *given):
        y, back = jax.vjp(lambda x, *given: F.group_norm(x, groups, *given), x, *given)
        return y, back(dy)

    given = [v for v in (w, b) if v is not None]
    with arithmetic_form("kernel"):
        assert "jaxnet_group_norm_gradient" in jax.jit(both).lower(x, dy, *given).as_text()
    with jax.enable_x64(True):
        exact = in_form("native", both, *(np.asarray(a, np.float64) for a in (x, dy, *given)))
    for ours, theirs in zip(in_form("kernel", both, x, dy, *given), exact, strict=True):
        # The mean of numbers about 100 is known to a float32's 4e-6, of values about 3.
        assert distance("gradient", ours, theirs) <= 10 * tolerance("gradient", "float32")


@needs_compiler
def test_float32_images_among_float64():
    """With jax_enable_x64 what is made along the way must not become float64."""
    x, w = arrays((9, 4, 6, 6), (8, 4, 3, 3))

    def slopes(x, w):
        def loss(x, w):
            y = F.batch_norm(F.conv2d(x, w), None, None, training=True)
            return (F.max_pool2d(y, 2) ** 3).mean()

        return jax.grad(loss, (0, 1))(x, w)

    with jax.enable_x64(True):
        wide = in_form("kernel", slopes, x, w)
    for ours, theirs in zip(wide, in_form("kernel", slopes, x, w), strict=True):
        assert ours.dtype == jnp.float32
        assert np.array_equal(ours, theirs)


@needs_compiler
def test_running_statistics_are_those_of_xla():
    from jaxnet import nn

    x = arrays((16, 3, 6, 6))[0] * 2 + 5
    kept = []
    for form in ("kernel", "native"):
        norm = nn.BatchNorm2d(3)
        norm.train()
        with arithmetic_form(form):
            norm(x)
        kept.append([norm.running_mean[...], norm.running_var[...]])
    for ours, theirs in zip(*kept, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-6)


@needs_compiler
def test_second_derivatives_of_pool_and_norm():
    def penalty(x, w):
        def value(x):
            return jnp.sum(F.max_pool2d(F.batch_norm(x, None, None, w, training=True), 2) ** 3)

        return (jax.grad(value)(x) ** 2).sum()

    def second(x, w):
        return jax.grad(penalty, (0, 1))(x, w)

    x, w = arrays((8, 2, 6, 4), (2,))
    for ours, theirs in zip(*(in_form(f, second, x, w) for f in ("kernel", "native")), strict=True):
        assert distance("gradient", ours, theirs) <= 4 * tolerance("gradient", "float32")


@needs_compiler
def test_vmap():
    x, w = arrays((2, 8, 2, 5, 5), (2, 4, 2, 3, 3))
    gradient = jax.grad(lambda w, x: (F.conv2d(x, w) ** 2).sum())
    together = in_form("kernel", jax.vmap(gradient), w, x)[0]
    for i in range(2):
        alone = in_form("kernel", gradient, w[i], x[i])[0]
        assert np.array_equal(together[i], alone)


def test_without_a_compiler_xla_does_it_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(kernels.build, "load", kernels.load.__wrapped__)
    monkeypatch.setattr(kernels, "available", functools.cache(kernels.available.__wrapped__))
    x, w = arrays((8, 2, 5, 5), (3, 2, 3, 3))
    ours = jax.jit(lambda x, w: F.conv2d(x, w))(x, w)  # lowered now, whatever ran before
    jax.jit(lambda x, w: F.conv2d(x, w))(x, w)
    assert [r.message for r in caplog.records] == [
        "images and sequences run in plain XLA, 1.5 to 4 times slower on a CPU: "
        "no-such-compiler: there is no such compiler"
    ]
    with arithmetic_form("native"):
        assert distance("forward", ours, F.conv2d(x, w)) <= tolerance("forward", "float32")


def freshly_loaded(folder, **environment) -> subprocess.CompletedProcess:
    """What a new process says that loads the kernels and uses one, with what it logs."""
    program = """
import logging, jax, jax.numpy as jnp
logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
logging.getLogger("jax").setLevel("WARNING")
from jaxnet import _kernels as kernels
from jaxnet.nn import functional as F
print(kernels.available(), kernels.available() and kernels.load())
print(jax.jit(F.conv2d)(jnp.ones((8, 1, 3, 3)), jnp.ones((1, 1, 2, 2))).sum())
"""
    env = {**os.environ, "JAXNET_CACHE": str(folder), "TMPDIR": str(folder.parent / "tmp")}
    (folder.parent / "tmp").mkdir(exist_ok=True)
    env |= environment
    return forked.run("-c", program, env={k: v for k, v in env.items() if v is not None})


def assert_loaded(done: subprocess.CompletedProcess) -> None:
    assert done.stdout.startswith("True "), done.stdout + done.stderr
    assert done.stdout.endswith("\n128.0\n"), done.stdout + done.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache in which the kernels lie, and a compiler that counts its calls.

    What it made once it gives again, since only the first time is worth the seconds.
    """
    if not kernels.available():
        pytest.skip("no C compiler")
    home = tmp_path_factory.mktemp("kept")
    compiler = home / "counting"
    compiler.write_text(
        f"""#!/bin/sh
echo "$*" >> {home}/calls
for made; do :; done
before={home}/before/$(basename "$made")
[ -f "$before" ] && exec cp "$before" "$made"
{kernels.load()} "$@" || exit
[ ! -f "$made" ] || cp "$made" "$before"
"""
    )
    (home / "before").mkdir()
    compiler.chmod(0o755)
    assert_loaded(freshly_loaded(home / "cache", CC=str(compiler)))
    return home, str(compiler)


def compiled(home) -> int:
    """How often a C file was compiled."""
    return (home / "calls").read_text().count(" -c ")


@needs_compiler
def test_compiled_once_and_kept(kept):
    home, compiler = kept
    before = compiled(home)
    done = freshly_loaded(home / "cache", CC=compiler)
    assert_loaded(done)
    assert done.stderr == ""
    assert compiled(home) == before == len(kernels.build._SOURCES)
    names = sorted(p.name for p in (home / "cache" / "kernels").iterdir())
    assert [name[-3:] for name in names] == ["ock", "256", ".so"]
    assert not any((home / "tmp").iterdir())


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize(
    "what", [pytest.param("zeros", marks=pytest.mark.slow), "no sum", "writable"]
)
def test_a_damaged_library_is_never_loaded(kept, tmp_path, what):
    home, compiler = kept
    shutil.copytree(home / "cache", tmp_path / "cache")
    (library,) = (tmp_path / "cache" / "kernels").glob("*.so")
    sums = library.with_suffix(".sha256")
    match what:
        case "zeros":
            library.write_bytes(bytes(library.stat().st_size))
        case "no sum":
            sums.unlink()
        case "writable":  # by others, who may have put anything there
            library.chmod(0o777)
    before = compiled(home)
    done = freshly_loaded(tmp_path / "cache", CC=compiler)
    assert_loaded(done)
    assert f"jaxnet._kernels.build WARNING {library}: damaged" in done.stderr
    assert compiled(home) == before + len(kernels.build._SOURCES)
    assert sums.read_text() == hashlib.sha256(library.read_bytes()).hexdigest()
    assert_loaded(again := freshly_loaded(tmp_path / "cache", CC=compiler))
    assert again.stderr == ""


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("ways", [15, pytest.param(100, marks=pytest.mark.slow)])
def test_damaged_in_many_ways_it_is_compiled_again(kept, tmp_path, monkeypatch, ways):
    """In this process, which a damaged library would end."""
    home, compiler = kept
    shutil.copytree(home / "cache", tmp_path / "cache")
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path / "cache"))
    (library,) = (tmp_path / "cache" / "kernels").glob("*.so")
    sums = library.with_suffix(".sha256")
    whole = {file: file.read_bytes() for file in (library, sums)}
    numbers, calls = random.Random(0), compiled(home)
    for way in range(ways):
        broken = sums if way % 7 == 6 else library
        content = bytearray(whole[broken])
        at = numbers.randrange(len(content))
        match way % 5:
            case 0:
                content = content[: [0, at][way % 2]]
            case 1:
                content = bytearray(len(content))
            case 2:
                content[at : at + 4096] = b"?" * len(content[at : at + 4096])
            case _:
                content[at] ^= 1 << numbers.randrange(8)
        broken.unlink()  # this process runs the code in the file that was there
        broken.write_bytes(content)
        broken.chmod(0o700)
        kernels.build._by_compiler([compiler])
        again = {file: file.read_bytes() for file in (library, sums)}
        assert hashlib.sha256(again[library]).hexdigest().encode() == again[sums], way
    assert compiled(home) - calls == ways * len(kernels.build._SOURCES)


@needs_compiler
@pytest.mark.long
def test_a_cache_that_cannot_be_used_does_not_cost_each_start(kept, tmp_path):
    _, compiler = kept
    (tmp_path / "cache").write_text("a file where the folder should be")
    times = set()
    for _ in range(2):
        done = freshly_loaded(tmp_path / "cache", CC=compiler)
        assert_loaded(done)
        assert "cannot keep the kernels" in done.stderr
        (folder,) = (tmp_path / "tmp").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        (library,) = folder.glob("*.so")
        times.add(library.stat().st_mtime_ns)
    assert len(times) == 1  # the second start did not compile


@needs_compiler
@pytest.mark.long
def test_first_starts_at_once_compile_once(kept, tmp_path):
    home, compiler = kept
    before = compiled(home)
    with ThreadPoolExecutor(3) as starts:
        for done in starts.map(lambda _: freshly_loaded(tmp_path / "c", CC=compiler), range(3)):
            assert_loaded(done)
    assert compiled(home) == before + len(kernels.build._SOURCES)


@needs_compiler
@pytest.mark.parametrize("named", ["no-such-compiler", "gcc 'x", "false", "strange", "hangs"])
def test_the_next_compiler_when_one_fails(monkeypatch, tmp_path, caplog, named):
    """No command in CC makes an end of it, whatever it does."""
    programs = {"strange": "printf '\\377\\376'; exit 1", "hangs": "sleep 1000 & wait"}
    command = named
    if named in programs:
        (tmp_path / named).write_text(f"#!/bin/sh\n{programs[named]}\n")
        (tmp_path / named).chmod(0o755)
        command = str(tmp_path / named)
    if named == "hangs":
        monkeypatch.setattr(kernels.build, "_SECONDS", 0.2)
        with pytest.raises(RuntimeError, match=r"hangs --version took over 0\.2 seconds"):
            kernels.build._by_compiler([command])
        return
    monkeypatch.setenv("CC", command)
    _, used = kernels.build._loaded()
    assert used in ("cc", "gcc", "clang")
    (record,) = caplog.records
    assert f"compiled by {used}, since {command}: " in record.message


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("unknown", ["-march=native", "=native"])
def test_a_compiler_that_does_not_know_a_flag_compiles_without_it(kept, tmp_path, unknown):
    """Some know the processor at hand by -mcpu alone, as clang for ARM, and some not at all."""
    _, compiler = kept
    strict = tmp_path / "strict"
    strict.write_text(
        f"""#!/bin/sh
case "$*" in *{unknown}*) echo "unsupported: {unknown}"; exit 1;; esac
case "$*" in *-mcpu=native*) flags=$(echo " $* " | sed "s/ -mcpu=native / /");; *) flags=$*;; esac
exec {compiler} $flags
"""
    )
    strict.chmod(0o755)
    assert_loaded(done := freshly_loaded(tmp_path / "cache", CC=str(strict)))
    assert done.stderr == ""
    assert done.stdout.startswith(f"True {strict}")


CLANG = """
import shlex, sys, jax, jax.numpy as jnp, numpy as np
from jaxnet import _kernels as kernels
from jaxnet.backend import arithmetic_form
from jaxnet.nn import functional as F
from jaxnet.nn._recurrent import Weights, recurrent_layer
from tests.tolerances import distance, tolerance
rng = np.random.RandomState(0)
shapes = [(19, 5, 9, 8), (11, 5, 2, 3), (13, 11, 3, 3), (13,), (3, 260), (70, 260),
          (9, 33, 7), (20, 7), (20, 5), (20,)]
arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
def net(x, w, v, scale, rows, matrix, sequence, w_ih, w_hh, bias):
    y = F.group_norm(F.conv2d(F.conv2d(x, w, stride=(1, 2)), v, padding=1), 1)
    y = F.max_pool2d(F.batch_norm(y, None, None, scale, scale, training=True), 3, 2, 1)
    first = (jnp.zeros((33, 5), x.dtype),) * 2
    z, _ = recurrent_layer("lstm", sequence, Weights(w_ih, w_hh, bias, bias, None), first)
    return (y**2).mean() + (F.linear(rows, matrix) ** 2).mean() + (z**2).mean()
def slopes(*arrays):
    return jax.value_and_grad(net, tuple(range(len(arrays))))(*arrays)
print(shlex.split(kernels.load())[0])
with arithmetic_form("kernel"):
    ours = jax.jit(lambda *a: slopes(*a))(*arrays)
with arithmetic_form("native"), jax.enable_x64(True):
    exact = jax.jit(lambda *a: slopes(*a))(*(np.asarray(a, np.float64) for a in arrays))
for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
    assert distance("gradient", a, b) <= 10 * tolerance("gradient", "float32")
print("alike")
"""


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed")
def test_clang_compiles_the_kernels_and_they_compute_the_same(tmp_path):
    env = {**os.environ, "JAXNET_CACHE": str(tmp_path), "CC": "clang"}
    done = forked.run("-c", CLANG, env=env)
    assert done.stdout == "clang\nalike\n", done.stdout + done.stderr


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_name_is_none(monkeypatch, blank):
    monkeypatch.setenv("CC", blank)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match=r"no C compiler \(install gcc\)"):
        kernels.build._commands()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path))
    compiler = tmp_path / "fails"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo "no space"; exit 1; }\n')
    compiler.chmod(0o755)
    with pytest.raises(RuntimeError, match=r"fails .*kernels.*\.c.* failed: no space"):
        kernels.build._by_compiler([str(compiler)])
    assert [p.name for p in (tmp_path / "kernels").iterdir()] == [".lock"]


def test_the_switch(tmp_path):
    done = freshly_loaded(tmp_path / "cache", JAXNET_KERNELS="off")
    assert done.stdout == "False False\n128.0\n", done.stderr
    assert "jaxnet._kernels.build INFO" in done.stderr
    assert "JAXNET_KERNELS is off" in done.stderr
    assert not (tmp_path / "cache").exists()
    done = freshly_loaded(tmp_path / "cache", JAXNET_KERNELS="no")
    assert "JAXNET_KERNELS: 'no'; accepted are 'on' and 'off'" in done.stderr


# How a program of one's own may call the C code: handler, shapes of the arguments, of the
# results, whole numbers. Each row has one thing wrong.
IMPOSSIBLE = {
    "no images": ("correlate2d_gradient", [(0, 2, 5, 5), (0, 3, 3, 3)], [(3, 2, 3, 3), (3,)], {}),
    "no window": ("correlate2d", [(8, 2, 5, 5), (3, 2, 0, 3)], [(8, 3, 6, 3)], {}),
    "no outputs": ("winograd_gradient", [(8, 2, 2, 2), (8, 3, 0, 0)], [(3, 2, 3, 3), (3,)], {}),
    "other channels": ("correlate2d", [(8, 2, 5, 5), (3, 4, 3, 3)], [(8, 3, 3, 3)], {}),
    "other batch": ("correlate2d", [(8, 2, 5, 5), (3, 2, 3, 3)], [(9, 3, 3, 3)], {}),
    "one argument": ("correlate2d", [(8, 2, 5, 5)], [(8, 3, 3, 3)], {}),
    "an array more": ("correlate2d", [(8, 2, 5, 5)] * 3, [(8, 3, 3, 3)], {}),
    "as a result": ("correlate2d", [(8, 2, 5, 5)], [(3, 2, 3, 3), (8, 3, 3, 3)], {}),
    "three axes": ("correlate2d", [(2, 5, 5), (3, 2, 3, 3)], [(8, 3, 3, 3)], {}),
    "far away": (
        "winograd", [(8, 2, 5, 5), (3, 2, 3, 3)], [(8, 3, 3, 3)], {"top": -(2**63), "left": 0}
    ),
    "window of 5": ("winograd", [(8, 2, 9, 9), (3, 2, 5, 5)], [(8, 3, 5, 5)], {}),
    "gradient": ("correlate2d_gradient", [(8, 2, 5, 5), (8, 3, 3, 3)], [(4, 2, 3, 3), (3,)], {}),
    "groups": ("correlate2d", [(8, 4, 5, 5), (3, 2, 3, 3)], [(8, 3, 3, 3)], {"groups": 2}),
    "no groups": ("correlate2d", [(8, 2, 5, 5), (3, 2, 3, 3)], [(8, 3, 3, 3)], {"groups": -1}),
    "a stride of 5": ("spread2d", [(8, 3, 3, 3), (3, 2, 3, 3)], [(8, 2, 9, 9)], {"down": 5}),
    "backwards": ("correlate2d", [(8, 2, 5, 5), (3, 2, 3, 3)], [(8, 3, 3, 3)], {"right": -1}),
    "far apart": (
        "spread2d", [(8, 3, 3, 3), (3, 2, 3, 3)], [(8, 2, 9, 9)], {"step_right": 2**31}
    ),
    "spread's": ("spread2d", [(8, 3, 3, 3), (3, 2, 3, 3)], [(8, 4, 5, 5)], {}),
    "spread of groups": (
        "spread2d", [(8, 3, 3, 3), (3, 2, 3, 3)], [(8, 4, 5, 5)], {"groups": 2}
    ),
    "spread from one argument": ("spread2d", [(8, 3, 3, 3)], [(8, 2, 5, 5)], {}),
    "winograd's": ("winograd_gradient", [(8, 2, 5, 5), (8, 3, 3, 3)], [(3, 2, 3, 2), (3,)], {}),
    "moments": ("batch_moments", [(0, 2, 5, 5)], [(2,), (2,)], {}),
    "norm": (
        "batch_norm_gradient", [(8, 2, 5, 5)] * 2 + [(2,), (1,), (2,)],
        [(8, 2, 5, 5), (2,), (2,)], {}
    ),
    "groups of moments": ("group_moments", [(8, 4, 5, 5)], [(8, 3)] * 3, {}),
    "moments of nothing": ("group_moments", [(8, 4, 0, 5)], [(8, 2)] * 3, {}),
    "group norm": (
        "group_norm_gradient", [(8, 4, 5, 5)] * 2 + [(4,), (8, 3), (8, 3)],
        [(8, 4, 5, 5), (4,), (4,)], {}
    ),
    "rows": ("few_rows", [(9, 4), (5, 4)], [(9, 5)], {}),
    "product": ("few_rows", [(2, 4), (5, 3)], [(2, 5)], {}),
    "no stride": ("max_pool2d_pick", [(8, 2, 6, 6)] * 2, [(8, 2, 3, 3)], {"kh": 2, "kw": 2}),
    "windows beside x": (
        "max_pool2d_pick", [(8, 2, 6, 6)] * 2, [(8, 2, 30, 3)],
        dict.fromkeys(("kh", "kw", "down", "right", "step_down", "step_right"), 2)
    ),
    "slopes": (
        "max_pool2d_spread", [(8, 2, 6, 6), (8, 1, 3, 3)], [(8, 2, 6, 6)],
        dict.fromkeys(("kh", "kw", "down", "right", "step_down", "step_right"), 2)
    ),
}  # fmt: skip


def recurrent_shapes(**wrong):
    """The arguments and results of a GRU of 5 steps, 16 sequences, 3 inputs and 4 units."""
    shapes = {
        "x": (5, 16, 3), "w_ih": (12, 3), "w_hh": (12, 4), "bias": (16,), "h0": (16, 4),
        "c0": (0, 0), "lengths": (16,), "y": (5, 16, 4), "h_n": (16, 4), "c_n": (0, 0),
        "slots": (5120,), "before": (1280,), "cells": (0,),
    } | wrong  # fmt: skip
    arguments = [shapes[n] for n in ("x", "w_ih", "w_hh", "bias", "h0", "c0", "lengths")]
    results = [shapes[n] for n in ("y", "h_n", "c_n", "slots", "before", "cells")]
    return arguments, results


def gradient_shapes(**wrong):
    """The same of its gradient."""
    shapes = {"dx": (5, 16, 3), "left": (5120,)} | wrong
    arguments, results = recurrent_shapes(
        **{name: shape for name, shape in wrong.items() if name not in ("dx", "left")}
    )
    x, w_ih, w_hh, bias, h0, c0, lengths = arguments
    y, h_n, c_n, *kept = results
    return (
        [x, w_ih, w_hh, c0, lengths, *kept, y, h_n, c_n],
        [shapes["dx"], w_ih, w_hh, bias, h0, c0, shapes["left"]],
    )


for _made, _handler in ((recurrent_shapes, "recurrent"), (gradient_shapes, "recurrent_gradient")):
    for _wrong in (
        {"x": (5, 0, 3)}, {"x": (6, 16, 3)}, {"x": (5, 16, 2)}, {"w_hh": (12, 5)},
        {"w_ih": (16, 3), "w_hh": (16, 4)}, {"bias": (12,)}, {"h0": (15, 4)},
        {"c0": (16, 4), "c_n": (16, 4)}, {"lengths": (15,)}, {"y": (16, 5, 4)},
        {"slots": (5119,)}, {"before": (80,)}, {"cells": (1280,)},
    ):  # fmt: skip
        IMPOSSIBLE[f"{_handler} {_wrong}"] = (_handler, *_made(**_wrong), {"kind": 3})
    for _kind in (-1, 0, 2, 4, 2**62):
        IMPOSSIBLE[f"{_handler} of kind {_kind}"] = (_handler, *_made(), {"kind": _kind})
for _wrong in ({"dx": (5, 16, 2)}, {"left": (5119,)}):
    IMPOSSIBLE[f"{_wrong}"] = ("recurrent_gradient", *gradient_shapes(**_wrong), {"kind": 3})


def called(name, arguments, results, numbers):
    """What a handler answers that is called without jaxnet's functions."""
    function = jax.ffi.ffi_call(
        f"jaxnet_{name}", [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results]
    )
    arrays = [np.zeros(shape, np.float32) for shape in arguments]
    return function(*arrays, **{key: np.int64(value) for key, value in numbers.items()})


@needs_compiler
@pytest.mark.parametrize("what", list(IMPOSSIBLE))
def test_impossible_shapes_are_refused_in_c(what):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
        jax.block_until_ready(called(*IMPOSSIBLE[what]))


@needs_compiler
def test_the_shapes_beside_the_impossible_ones_are_taken():
    called("recurrent", *recurrent_shapes(), {"kind": 3})
    called("few_rows", [(8, 4), (5, 4)], [(8, 5)], {})
    called("spread2d", [(8, 4, 3, 3), (4, 2, 3, 3)], [(8, 4, 9, 9)], {"groups": 2, "down": 4})
    called("correlate2d", [(8, 2, 5, 5), (3, 2, 3, 3)], [(8, 3, 3, 3)], {})
    with pytest.raises(jax.errors.JaxRuntimeError, match="belong where the slots are"):
        called("recurrent_gradient", *gradient_shapes(), {"kind": 3})
    function = jax.ffi.ffi_call("jaxnet_few_rows", jax.ShapeDtypeStruct((2, 2), jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
        jax.block_until_ready(function(*[np.zeros((2, 4), np.int32)] * 2))


# Handlers that need much more memory than their arrays have: 70 MB and more.
HUNGRY = {
    "correlate2d": ("correlate2d", [(8, 5000, 1, 1), (1, 5000, 30, 30)], [(8, 1, 1, 1)], {}),
    "its gradient": (
        "correlate2d_gradient", [(8, 500, 1, 1), (8, 1, 1, 1)], [(1, 500, 60, 60), (1,)], {}
    ),
    "spread": ("spread2d", [(8, 1, 1, 1), (1, 5000, 60, 60)], [(8, 5000, 1, 1)], {}),
    "winograd": ("winograd", [(8, 200000, 1, 1), (1, 200000, 3, 3)], [(8, 1, 1, 1)], {}),
    "winograd's gradient": (
        "winograd_gradient", [(256, 40000, 1, 1), (256, 4, 1, 1)], [(4, 40000, 3, 3), (4,)], {}
    ),
    "recurrent": (
        "recurrent",
        [(2, 16, 1), (16000, 1), (16000, 4000), (16000,), (16, 4000), (16, 4000), (16,)],
        [(2, 16, 4000), (16, 4000), (16, 4000), (0,), (0,), (0,)],
        {"kind": 2},
    ),
}  # fmt: skip


@needs_compiler
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.parametrize("what", list(HUNGRY))
def test_without_memory_there_is_an_error_and_with_it_nothing_stays(what):
    import resource

    import psutil

    name, arguments, results, numbers = HUNGRY[what]
    arrays = [jnp.zeros(shape) for shape in arguments]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results]
    numbers = {key: np.int64(value) for key, value in numbers.items()}
    function = jax.jit(lambda *x: jax.ffi.ffi_call(f"jaxnet_{name}", shapes)(*x, **numbers))
    compiled = function.lower(*arrays).compile()
    process = psutil.Process()
    before = process.memory_info()
    old = resource.getrlimit(resource.RLIMIT_AS)
    room = sum(4 * int(np.prod(shape)) for shape in results) + 20_000_000
    resource.setrlimit(resource.RLIMIT_AS, (before.vms + room, old[1]))
    try:
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED: no memory for"):
            jax.block_until_ready(compiled(*arrays))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    jax.block_until_ready(compiled(*arrays))
    assert process.memory_info().rss - before.rss < 64_000_000
