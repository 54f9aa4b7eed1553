"""The layers in C against XLA's, and what happens without a compiler."""

import functools
import hashlib
import os
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
    ((8, 12, 3, 3), (8, 12, 3, 3), ((0, 0), (0, 0))),
    ((33, 16, 9, 8), (7, 16, 3, 3), ((-1, 0), (1, -2))),
    ((8, 70, 5, 4), (10, 70, 3, 3), ((3, 3), (2, 2))),
    ((8, 260, 4, 3), (258, 260, 3, 3), ((1, 1), (1, 1))),
]


def arrays(*shapes):
    rng = np.random.RandomState(0)
    return [jnp.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


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
def test_the_same_bits_every_time():
    x, w = arrays((64, 8, 16, 16), (16, 8, 3, 3))

    def gradient(x, w):
        return jax.grad(lambda w: (F.conv2d(x, w, padding=1) ** 2).sum())(w)

    first = in_form("kernel", gradient, x, w)[0]
    for _ in range(5):
        assert np.array_equal(first, in_form("kernel", gradient, x, w)[0])


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
    return subprocess.run(
        [sys.executable, "-c", program],
        env={name: value for name, value in (env | environment).items() if value is not None},
        capture_output=True,
        text=True,
    )


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
    "what", ["cut", "empty", "zeros", "flip", "no sum", "wrong sum", "writable"]
)
def test_a_damaged_library_is_never_loaded(kept, tmp_path, what):
    home, compiler = kept
    shutil.copytree(home / "cache", tmp_path / "cache")
    (library,) = (tmp_path / "cache" / "kernels").glob("*.so")
    content = bytearray(library.read_bytes())
    sums = library.with_suffix(".sha256")
    match what:
        case "cut":
            library.write_bytes(content[:5000])
        case "empty":
            library.write_bytes(b"")
        case "zeros":
            library.write_bytes(bytes(len(content)))
        case "flip":
            content[len(content) // 2] ^= 1
            library.write_bytes(content)
        case "no sum":
            sums.unlink()
        case "wrong sum":
            sums.write_text("0" * 64)
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
def test_a_cache_that_cannot_be_used_does_not_cost_each_start(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    times = set()
    for _ in range(2):
        done = freshly_loaded(tmp_path / "cache")
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
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path / "cache"))
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
