"""jaxnet/random.py"""

from pathlib import Path

import numpy as np
import pytest

from jaxnet import nn
from jaxnet.random import Generator
from tests.calls import Calls
from tests.golden.random import PROGRAM, SEEDS, SIZES, ours, theirs


def assert_drawn(found: np.ndarray, expected: np.ndarray, method: str, numbers: tuple = ()) -> None:
    """Bit for bit, but for normals: 4 ulp in float32, 1e-15 in float64, of a standard normal."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if method != "normal":
        np.testing.assert_array_equal(found, expected)
        return
    mean, std = numbers[:2]
    ulp = np.spacing(np.abs((expected - mean) / std).astype(expected.dtype)).astype(np.float64)
    if expected.dtype == np.float64:
        ulp = np.full(expected.shape, 1e-15 / 4)
    # The mean is added last, with a rounding of the sum.
    allowed = 4 * ulp * std + (0 if mean == 0 else np.spacing(np.abs(expected) + abs(mean)))
    gap = np.abs(found.astype(np.float64) - expected)
    assert (gap <= allowed).all(), f"{numbers}: {(gap / allowed).max():.2f} times what is allowed"


@pytest.mark.parametrize("seed", SEEDS)
def test_program_of_draws_equals_golden(seed):
    generator = Generator(seed)
    with np.load(Path(__file__).parent / "golden/random.npz") as golden:
        for i, (method, arguments) in enumerate(PROGRAM):
            found = ours(generator, method, arguments)
            assert_drawn(found, golden[f"{seed}|{i}"], method, arguments)
        np.testing.assert_array_equal(generator.get_state()[:5016], golden[f"{seed}|state"])


@pytest.mark.torch
def test_program_of_draws_equals_torch_for_seeds_0_to_99():
    import torch

    for seed in range(100):
        generator, twin = Generator(seed), torch.Generator().manual_seed(seed)
        # Another order for every seed, so that each draw follows every other.
        for i in np.random.RandomState(seed).permutation(len(PROGRAM)):
            method, arguments = PROGRAM[i]
            expected = theirs(twin, method, arguments)
            assert_drawn(ours(generator, method, arguments), expected, method, arguments)


@pytest.mark.torch
def test_uniform_rounds_once_in_odd_ranges():
    import torch

    rng = np.random.RandomState(0)
    for seed in range(300):
        for dtype, reach in (("float32", 28), ("float64", 280)):
            low = float(rng.normal() * 10.0 ** rng.uniform(-reach, reach))
            width = (
                abs(low) * 10.0 ** rng.uniform(-9, 9) if seed % 3 else 10.0 ** rng.uniform(-9, 9)
            )
            expected = torch.empty(50, dtype=getattr(torch, dtype))
            expected.uniform_(low, low + width, generator=torch.Generator().manual_seed(seed))
            found = Generator(seed).uniform(low, low + width, 50, dtype)
            np.testing.assert_array_equal(found, expected.numpy(), err_msg=f"{low}, {width}")


def test_fused_multiply_add_rounds_once():
    # Exact rational arithmetic decides; the plain product and sum round twice.
    from fractions import Fraction

    from jaxnet.random import _fused

    rng = np.random.RandomState(1)
    x = rng.randint(0, 2**53, 2000) * 2.0**-53
    for width, start in ((0.7, -0.35), (2.0**-20 / 3, 1 / 3), (3e300, -1e300), (1e-200, 1e-190)):
        found = _fused(x, np.float64(width), np.float64(start))
        exact = [float(Fraction(v) * Fraction(width) + Fraction(start)) for v in x.tolist()]
        np.testing.assert_array_equal(found, exact)


def test_uniform_end_becomes_start():
    drawn = Generator(1).uniform(40.77117, 40.77121, 1000)
    assert (drawn < np.float32(40.77121)).all()
    assert drawn.min() == np.float32(40.77117)


@pytest.mark.torch
@pytest.mark.parametrize("position", [0, 1, 2, 3, 622, 623, 624, 625, 1247, 1248, 1249])
def test_state_goes_both_ways_at_any_position(position):
    import torch

    generator, twin = Generator(5), torch.Generator().manual_seed(5)
    generator.rand(position)
    torch.rand(position, generator=twin)
    np.testing.assert_array_equal(generator.get_state(), twin.get_state().numpy())

    ahead = torch.Generator()
    ahead.set_state(torch.from_numpy(generator.get_state()))
    follower = Generator(8).set_state(twin.get_state().numpy())
    assert follower.initial_seed() == 5
    for n in (700, 3):
        expected = torch.rand(n, generator=twin).numpy()
        np.testing.assert_array_equal(torch.rand(n, generator=ahead).numpy(), expected)
        np.testing.assert_array_equal(follower.rand(n), expected)
        np.testing.assert_array_equal(generator.rand(n), expected)
    np.testing.assert_array_equal(follower.get_state(), twin.get_state().numpy())


@pytest.mark.torch
def test_state_carries_the_cached_normal():
    import torch

    generator, twin = Generator(2), torch.Generator().manual_seed(2)
    generator.randn(5)
    torch.randn(5, generator=twin)
    follower = Generator().set_state(twin.get_state().numpy())
    ahead = torch.Generator()
    ahead.set_state(torch.from_numpy(generator.get_state()))
    expected = torch.randn(2, generator=twin).numpy()
    np.testing.assert_allclose(follower.randn(2), expected, rtol=4e-7)
    np.testing.assert_allclose(torch.randn(2, generator=ahead).numpy(), expected, rtol=4e-7)


def test_state_resumes_without_torch():
    for draws in (0, 1, 624, 700):
        generator = Generator(3)
        generator.rand(draws)
        generator.randn(1)
        state = generator.get_state()
        assert state.shape == (5056,)
        assert state.dtype == np.uint8
        expected = [generator.randn(3), generator.rand(5)]
        resumed = Generator(0).set_state(state)
        np.testing.assert_array_equal(resumed.get_state(), state)
        for found, wanted in zip((resumed.randn(3), resumed.rand(5)), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_state_that_is_none_is_refused_and_changes_nothing():
    generator = Generator(3)
    before = generator.get_state()
    blank = np.zeros(5056, np.uint8)
    torn = before.copy()
    torn[8:12] = np.frombuffer(np.int32(7).tobytes(), np.uint8)  # contradicts the position
    for state in (before[:-1], before.astype(np.int32), blank, torn, np.zeros((2, 5056), np.uint8)):
        with pytest.raises(ValueError, match=r"^state: "):
            generator.set_state(state)
    np.testing.assert_array_equal(generator.get_state(), before)


def test_seeds_are_cut_to_32_bits_and_kept_whole():
    np.testing.assert_array_equal(Generator(2**40 + 5).rand(4), Generator(5).rand(4))
    np.testing.assert_array_equal(Generator(np.int64(7)).rand(4), Generator(7).rand(4))
    assert Generator(-1).initial_seed() == 2**64 - 1
    assert Generator(-(2**63)).initial_seed() == 2**63
    assert Generator(2**40).initial_seed() == 2**40
    assert repr(Generator(4)) == "Generator(seed=4)"
    generator = Generator(1)
    generator.randn(3)
    assert generator.manual_seed(4) is generator
    np.testing.assert_array_equal(generator.randn(3), Generator(4).randn(3))


@pytest.mark.torch
def test_without_a_seed_it_is_torchs_own():
    import torch

    assert Generator().initial_seed() == torch.Generator().initial_seed()
    np.testing.assert_array_equal(Generator().rand(5), torch.rand(5, generator=torch.Generator()))


@pytest.mark.parametrize("seed", [1.0, True, None, "1", np.float32(1)])
def test_seed_must_be_an_integer(seed):
    with pytest.raises(TypeError, match=r"seed: .* is not an integer"):
        Generator(seed)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_must_fit(seed):
    with pytest.raises(ValueError, match=r"seed: .* does not fit 64 bits"):
        Generator(seed)


def test_sizes_are_named_as_torch_names_them():
    assert Generator(0).rand().shape == ()
    assert Generator(0).rand(2, 3).shape == Generator(0).rand((2, 3)).shape == (2, 3)
    assert Generator(0).rand([2, 3]).shape == Generator(0).uniform(0, 1, (np.int64(2), 3)).shape
    for n in (*SIZES, (0, 3), (3, 0, 2)):
        for drawn in (Generator(0).rand(n), Generator(0).randn(n), Generator(0).random_(n)):
            assert drawn.shape == (n if isinstance(n, tuple) else (n,))
    np.testing.assert_array_equal(Generator(0).randint(9, (4,)), Generator(0).randint(0, 9, 4))
    np.testing.assert_array_equal(Generator(0).randint(9, size=4), Generator(0).randint(0, 9, [4]))
    np.testing.assert_array_equal(
        Generator(0).randint(high=9, size=[4]), Generator(0).randint(0, 9, [4])
    )


def test_empty_draws_leave_the_state():
    generator = Generator(0)
    before = generator.get_state()
    for n in (0, (3, 0)):
        for drawn in (generator.rand(n), generator.randn(n), generator.randint(3, size=n)):
            assert drawn.size == 0
    generator.randperm(0)
    generator.randperm(1)
    np.testing.assert_array_equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda g: g.rand(-1), ValueError, "size: .* negative axis"),
        (lambda g: g.rand(2.0), TypeError, "size: 2.0 is not an integer"),
        (lambda g: g.rand(True), TypeError, "size: True is not an integer"),
        (lambda g: g.rand(2, dtype="float16"), ValueError, "dtype: float16; .* float32 or float64"),
        (lambda g: g.uniform(2, 1, 3), ValueError, r"low, high: \[2, 1\) is empty"),
        (lambda g: g.uniform(0, float("nan"), 3), ValueError, "low, high: .* is empty"),
        (lambda g: g.uniform(0, float("inf"), 3), ValueError, "low, high: .* does not fit float32"),
        (lambda g: g.uniform(-3e38, 3e38, 3), ValueError, "low, high: .* does not fit float32"),
        (lambda g: g.normal(0, -1, 3), ValueError, "std: -1; .* at least 0"),
        (lambda g: g.normal(0, float("nan"), 3), ValueError, "std: nan; .* at least 0"),
        (lambda g: g.randint(3, 3, 2), ValueError, r"low, high: \[3, 3\) is empty"),
        (lambda g: g.randint(0, 300, 2, "uint8"), ValueError, "does not fit uint8, .* 0 to 255"),
        (lambda g: g.randint(-1, 3, 2, "uint8"), ValueError, "does not fit uint8"),
        (lambda g: g.randint(0, 2**24 + 2, 2, "float32"), ValueError, "does not fit float32"),
        (lambda g: g.randint(0, 2**63 + 1, 2), ValueError, "does not fit int64"),
        (lambda g: g.randint(0, 3, 2, "complex64"), ValueError, "dtype: complex64 has no range"),
        (lambda g: g.randint(0.5, 3, 2), TypeError, "low: 0.5 is not an integer"),
        (lambda g: g.random_(2, "complex64"), ValueError, "dtype: complex64 has no range"),
        (lambda g: g.randperm(-1), ValueError, "n: -1 is negative"),
        (lambda g: g.randperm(2.0), TypeError, "n: 2.0 is not an integer"),
        (lambda g: g.randperm(2**28), ValueError, "n: 268435456; torch shuffles .* another way"),
        (lambda g: g.bernoulli(0.5), TypeError, "p: 0.5 is one number, .* vendor library"),
        (lambda g: g.bernoulli(np.float32(0.5)), TypeError, "p: .* is one number"),
        (lambda g: g.bernoulli(np.float32([0.5, 2])), ValueError, "p: .* outside"),
        (lambda g: g.bernoulli(np.float32([np.nan])), ValueError, "p: .* outside"),
        (lambda g: g.bernoulli(np.array([1, 0])), ValueError, "p: dtype int64"),
    ],
)
def test_wrong_arguments_are_named_and_draw_nothing(draw, error, message):
    generator = Generator(0)
    before = generator.get_state()
    with pytest.raises(error, match=message):
        draw(generator)
    np.testing.assert_array_equal(generator.get_state(), before)


def test_bernoulli_keeps_shape_and_dtype():
    for dtype in (np.float32, np.float64):
        drawn = Generator(0).bernoulli(np.full((2, 0, 3), 0.5, dtype))
        assert drawn.shape == (2, 0, 3)
        assert drawn.dtype == dtype
    assert Generator(0).bernoulli(np.array(1.0)).shape == ()
    assert Generator(0).bernoulli(np.ones(100)).all()
    assert not Generator(0).bernoulli(np.zeros(100)).any()


@pytest.mark.parametrize("draw", ["rand", "randn", "uniform", "normal", "randint", "random_"])
def test_no_dtype_is_the_default_one(draw):
    """As in torch; to NumPy None is float64."""
    sizes = {"uniform": (0.0, 1.0, 5), "normal": (0.0, 1.0, 5), "randint": (0, 9, 5)}
    given = sizes.get(draw, (5,))
    plain = getattr(Generator(0), draw)(*given)
    drawn = getattr(Generator(0), draw)(*given, dtype=None)
    assert drawn.dtype == plain.dtype
    np.testing.assert_array_equal(drawn, plain)


def test_a_layer_without_a_dtype_draws_as_one_with_the_default():
    for make in (
        lambda **dtype: nn.Linear(3, 4, rngs=Generator(0), **dtype),
        lambda **dtype: nn.Conv2d(3, 4, 2, rngs=Generator(0), **dtype),
        lambda **dtype: nn.Embedding(3, 4, rngs=Generator(0), **dtype),
        lambda **dtype: nn.LSTM(3, 4, rngs=Generator(0), **dtype),
        lambda **dtype: nn.MultiheadAttention(4, 2, rngs=Generator(0), **dtype),
    ):
        plain, none = make().state_dict(), make(dtype=None).state_dict()
        for name, value in plain.items():
            assert none[name].dtype == value.dtype, name
            np.testing.assert_array_equal(none[name], value)


def test_randperm_of_60000_is_drawn_at_once():
    """A Python call for every item would take a fifth of a second, as often as an epoch begins."""
    generator = Generator(0)
    with Calls() as calls:
        order = generator.randperm(60_000)
    assert calls.count < 100
    np.testing.assert_array_equal(np.sort(order), np.arange(60_000))
