"""The verdict on the four runs of one array."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jaxnet.parity._judge import judge
from jaxnet.parity._judgement import SAME_SCALE, Judgement, null, rms, together

Program = Callable[[np.ndarray], np.ndarray]
X = np.random.RandomState(0).randn(64, 48).astype(np.float32)


def layer_norm(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + x.dtype.type(eps))


def ordered(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """The same in another order of operations, as another library computes it."""
    count = x.shape[-1]
    mean = np.einsum("ij->i", x[:, ::-1])[:, None] / x.dtype.type(count)
    variance = np.einsum("ij,ij->i", x - mean, x - mean)[:, None] / x.dtype.type(count)
    return (x - mean) * (1 / np.sqrt(variance + x.dtype.type(eps)))


def runs(one: Program, other: Program, x: np.ndarray = X) -> list[np.ndarray]:
    wide = x.astype(np.float64)
    return [one(x), one(wide), other(x), other(wide)]


def verdict(one: Program, other: Program, x: np.ndarray = X, **how: Any) -> Judgement:
    return judge(*runs(one, other, x), site="forward:norm#0", **how)


def stored(t: np.ndarray, t64: np.ndarray) -> np.ndarray:
    """The float64 run as a trace gives it back."""
    return t.astype(np.float64) + (t64 - t).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-36, 1e-40, 1e30])
def test_rounding_is_no_difference(scale):
    def small(program):
        return lambda x: program(x) * x.dtype.type(scale)

    t, t64, j, j64 = runs(small(layer_norm), small(ordered))
    assert not np.array_equal(t64, j64)
    for wide in (t64, stored(t, t64)):
        assert judge(t, wide, j, j64, site="forward:a#0").label == "same"


@pytest.mark.parametrize("eps", [1e-6, 1.0001e-5])
def test_another_epsilon_is_a_difference(eps):
    found = verdict(layer_norm, lambda x: ordered(x, eps))
    assert found.label == "different"
    assert found.double > 1e4 * found.floor
    assert found.apart > 0.9 * X.size


def test_epsilon_beside_a_large_variance_is_still_a_difference():
    x = X * np.float32(30)
    found = verdict(layer_norm, lambda x: ordered(x, 1e-6), x)
    assert found.label == "different"
    assert found.double < 1e-8 * found.scale


def in_one(index: Any, share: float) -> Program:
    def program(x):
        y = ordered(x)
        y[index] += np.asarray(share, x.dtype)
        return y

    return program


@pytest.mark.parametrize("index", [(0, 0), (63, 47), (-1, slice(None)), (slice(None), 0)], ids=str)
def test_a_fault_of_few_elements_does_not_drown(index):
    found = verdict(layer_norm, in_one(index, 1e-7))
    assert found.label == "different"
    assert found.apart == np.size(X[index])
    changed = np.zeros(X.shape, bool)
    changed[index] = True
    assert changed[found.where]


def test_one_element_of_a_million():
    x = np.random.RandomState(0).randn(1000, 1000).astype(np.float32)
    found = verdict(layer_norm, in_one((17, 3), 1e-7), x)
    assert (found.label, found.where, found.apart) == ("different", (17, 3), 1)


def test_masked_scores_do_not_hide_the_others():
    def scores(factor):
        def program(x):
            y = ordered(x) * np.asarray(factor, x.dtype)
            y[:, 30:] -= x.dtype.type(1e9)
            return y

        return program

    assert verdict(scores(1), scores(1)).label == "same"
    found = verdict(scores(1), scores(1 + 1e-6))
    assert found.label == "different"
    assert found.where[1] < 30


def test_signed_errors_that_cancel_and_a_permutation_that_keeps_the_mean():
    sign = np.where(np.arange(48) % 2, 1, -1) * 1e-6
    found = verdict(layer_norm, lambda x: (ordered(x) + sign).astype(x.dtype))
    assert found.label == "different"
    permuted = verdict(layer_norm, lambda x: ordered(x)[:, ::-1])
    assert permuted.label == "different"


def test_less_accurate_float32():
    def fast(x):  # E[x^2] - E[x]^2
        variance = np.mean(x * x, -1, keepdims=True) - np.mean(x, -1, keepdims=True) ** 2
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + x.dtype.type(1e-5))

    found = verdict(layer_norm, fast, X + np.float32(30))
    assert found.label == "precision"
    assert not found.failed


def test_float32_that_is_another_program_than_float64():
    def half(x):
        return (
            ordered(x.astype(np.float16)).astype(x.dtype) if x.dtype == np.float32 else ordered(x)
        )

    assert verdict(layer_norm, half).label == "different"

    def one_wrong(x):
        return in_one((0, 0), 0.1)(x) if x.dtype == np.float32 else ordered(x)

    assert verdict(layer_norm, one_wrong).label == "different"


def relu_gradient(x: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The gradient of ReLU of `exact` as far as x's precision can tell its sign."""
    return np.where(exact.astype(x.dtype) > 0, x * x.dtype.type(1.1), 0)


@pytest.mark.parametrize("seed", [15, 29, 40])
def test_an_update_with_a_gradient_over_a_corner_loses_what_was_stored_of_both(seed):
    rng = np.random.RandomState(seed)
    before, gradient = (rng.randn(8).astype(np.float32) * np.float32(1e-3) for _ in range(2))
    wide = gradient + 1e-10 * rng.randn(8)
    wide[3] += 1e-3 * (1 + rng.rand())  # one input of ReLU went over its corner
    rate = 0.01
    t, t64 = before - np.float32(rate) * gradient, before - rate * wide
    jax64 = before - rate * stored(gradient, wide)
    found = judge(t, stored(t, t64), t, jax64, site="update:bias")
    assert found.label == "kink"
    wrong = before - rate * 1.0001 * stored(gradient, wide)
    assert judge(t, stored(t, t64), t, wrong, site="update:bias").label == "different"


def test_kinks():
    x = np.random.RandomState(0).randn(100, 100).astype(np.float32)
    exact = np.random.RandomState(1).randn(100, 100)
    exact[5, 5] = 1e-60  # zero in float32
    program = lambda x: relu_gradient(x, exact)  # noqa: E731
    other = lambda x: relu_gradient(x * x.dtype.type(1 + 2e-16), exact)  # noqa: E731
    found = verdict(program, other, x)
    assert (found.label, found.kinks) == ("kink", 1)
    # The element over the corner does not raise the floor for the others.
    wrong = lambda x: other(x) * np.asarray(1 + 1e-9, x.dtype)  # noqa: E731
    assert verdict(program, wrong, x).label == "different"

    # It is a corner to the second program alone.
    def alone(x):
        y = other(x)
        y[5, 5] = 0 if x.dtype == np.float32 else program(x)[5, 5]
        return y

    smooth = lambda x: relu_gradient(x, np.where(exact == 1e-60, 1, exact))  # noqa: E731

    def only(x):
        y = smooth(x)
        y[5, 5] *= x.dtype == np.float64
        return y

    assert verdict(smooth, only, x).label == "different"
    assert verdict(smooth, only, x, isolated=False).label == "kink"


def bias_before_norm(order: int) -> Program:
    """Sums that are zero but for rounding."""

    def program(x):
        y = layer_norm(x)[:, ::order]
        return np.cumsum(y, -1)[:, -1]

    return program


def test_null_gradients():
    numbers = runs(bias_before_norm(1), bias_before_norm(-1))
    assert judge(*numbers, site="param_grad:conv.bias").label == "null gradient"
    assert judge(*numbers, site="forward:sum#0").label == "same"
    wrong = [*numbers[:3], numbers[3] + 1e-9]
    assert judge(*wrong, site="param_grad:conv.bias").label == "different"


def test_adams_update_by_a_null_gradient_is_not_judged():
    def gradient(order):
        return lambda x: np.concatenate([x[0], bias_before_norm(order)(x)])

    t, t64, _, j64 = numbers = runs(gradient(1), gradient(-1))
    ignore = null(t, t64)
    assert ignore.sum() >= 60
    assert not ignore[:48].any()
    assert np.array_equal(null(t, stored(t, t64)), ignore)
    assert not null(np.zeros(3, np.float32), np.zeros(3)).any()
    updates = [g / (np.abs(g) + g.dtype.type(1e-30)) for g in numbers]
    assert judge(*updates, site="update:in_proj_bias").label == "different"
    assert judge(*updates, site="update:in_proj_bias", ignore=ignore | null(t, j64)).label == "same"


def test_a_difference_is_measured_by_what_it_is_a_difference_of():
    before = np.ones(X.shape)
    one = before - 1e-7 * X.astype(np.float64)
    other = before - 1e-7 * (1 + 1e-16) * X.astype(np.float64) + 2e-16
    numbers = one - before, None, other - before, None
    assert judge(*numbers, site="update:a").label == "different"
    assert judge(*numbers, site="update:a", scale=before).label == "same"


def test_a_null_gradient_that_float32_rounds_to_zero():
    zero = np.zeros(1, np.float32)
    numbers = zero, np.array([3e-17]), zero, np.array([-2e-17])
    assert judge(*numbers, site="param_grad:conv.bias").label == "different"
    assert judge(*numbers, site="param_grad:conv.bias", scale=1e-3).label == "same"
    assert not null(zero, numbers[1]).any()
    assert null(zero, numbers[1], 1e-3).all()
    wrong = zero, np.array([3e-17]), zero, np.array([1e-10])
    assert judge(*wrong, site="param_grad:conv.bias", scale=1e-3).label == "different"


@pytest.mark.parametrize(
    ("torch", "jax", "label"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], "same"),
        ([np.inf, -np.inf], [np.inf, -np.inf], "same"),
        ([np.inf, 1.0], [-np.inf, 1.0], "different"),
        ([np.nan, 1.0], [0.0, 1.0], "different"),
        ([1.0, 1.0], [1.0, np.nan], "different"),
        ([-0.0], [0.0], "same"),
        ([], [], "same"),
        ([1, 2], [1, 2], "same"),
        ([1, 2], [1, 3], "different"),
        ([True, False], [True, True], "different"),
        ([1 + 1j], [1 + 1j], "same"),
        ([1 + 1j], [1 - 1j], "different"),
        ([1.0], [[1.0]], "different"),
        ([1.0], [1], "different"),
    ],
)
def test_special_numbers_shapes_and_dtypes(torch, jax, label):
    def narrow(x):
        x = np.array(x)
        return x.astype({"f": np.float32, "c": np.complex64}.get(x.dtype.kind, x.dtype))

    t, j = narrow(torch), narrow(jax)
    found = judge(t, np.array(torch), j, np.array(jax), site="forward:a#0")
    assert found.label == label
    if label == "different":
        assert found.note or found.apart == 1
        assert np.shape(found.where) in ((), (t.ndim,), (t.ndim + 1,), (0,))


def test_an_overflow_of_float32_is_not_judged_in_float64():
    t = np.array([np.inf, 1], np.float32)
    assert (
        judge(t, np.array([np.nan, 1.0]), t, np.array([1e39, 1.0]), site="loss:0").label == "same"
    )
    assert judge(t, np.array([1e39, 1]), t, np.array([1e39, np.nan]), site="loss:0").failed


def test_integers_of_other_widths_are_the_same():
    t, j = np.arange(5), np.arange(5, dtype=np.int32)
    assert judge(t, None, j, None, site="forward:argmax#0").label == "same"
    j[2] = 7
    found = judge(t, None, j, None, site="forward:argmax#0")
    assert (found.label, found.where, found.largest) == ("different", (2,), 5)


def test_programs_in_float64():
    wide = X.astype(np.float64)
    one, other = layer_norm(wide), ordered(wide)
    assert judge(one, None, other, None, site="forward:a#0").label == "same"
    assert judge(one, None, ordered(wide, 1.001e-5), None, site="forward:a#0").label == "different"


@pytest.mark.parametrize("missing", [(1,), (3,), (1, 3)])
def test_missing_float64_makes_weak_evidence(missing):
    def without(numbers):
        return [None if i in missing else x for i, x in enumerate(numbers)]

    found = judge(*without(runs(layer_norm, ordered)), site="forward:a#0")
    assert (found.label, found.evidence) == ("same", "float32")
    wrong = without(runs(layer_norm, lambda x: ordered(x, 1e-1)))
    assert judge(*wrong, site="forward:a#0").label == "different"
    assert judge(*without(runs(layer_norm, in_one((0, 0), 1e-2))), site="forward:a#0").failed
    unclear = without(runs(layer_norm, lambda x: ordered(x, 4e-5)))
    assert judge(*unclear, site="forward:a#0").label == "undecided"


def test_several_evidences():
    same, different = verdict(layer_norm, ordered), verdict(layer_norm, lambda x: ordered(x, 1e-6))
    unclear = dataclasses.replace(same, label="undecided", double=2 * SAME_SCALE * same.scale)
    assert together([same, different, unclear]).label == "different"
    assert together([same, same]).label == "same"
    assert together([unclear, unclear]).label == "undecided"
    assert together([unclear, *[same] * 8]).label == "same"
    strong = dataclasses.replace(unclear, double=2e-11 * same.scale)
    assert together([unclear, strong]).label == "different"


def test_float32_apart_in_one_step_is_a_corner_and_in_most_a_fault():
    def half(x):
        return (
            ordered(x.astype(np.float16)).astype(x.dtype) if x.dtype == np.float32 else ordered(x)
        )

    apart = verdict(layer_norm, half, isolated=False)
    same = verdict(layer_norm, ordered, isolated=False)
    assert (apart.label, same.label) == ("undecided", "same")
    assert together([same, apart, same]).label == "same"
    assert together([apart, apart, same]).label == "different"
    assert together([apart]).label == "different"


def test_root_mean_square_does_not_overflow():
    assert rms(np.array([1e300, 1e300])) == pytest.approx(1e300)
    assert rms(np.array([1e-300, 1e-300])) == pytest.approx(1e-300)
    assert rms(np.zeros(0)) == 0


def test_a_zero_among_rounding_is_rounding_and_one_among_gradients_is_none():
    rounding = np.float32([3e-9, 0, -2e-9])
    assert null(rounding, np.float64([1e-18, 0, 2e-18]), 1.0).all()
    assert not null(np.float32([0.1, 0, 0.2]), np.float64([0.1, 0, 0.2]), 1.0).any()
    assert not null(np.zeros(3, np.float32), np.zeros(3), 1.0).any()
