"""jaxnet/losses and jaxnet/nn/_loss.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnet import losses, metrics, nn, train
from jaxnet.random import Generator
from tests.table import table
from tests.tolerances import distance, tolerance

TestLoss = table("losses")


def torch_value_and_grads(function, arrays, kwargs):
    import torch

    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    kwargs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    value = getattr(torch.nn.functional, function)(*tensors, **kwargs)
    value.sum().backward()
    grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors
             if t.requires_grad]  # fmt: skip
    return value.detach().numpy(), grads


def our_value_and_grads(function, arrays, kwargs, jit=False):
    floats = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"]

    def total(*moving):
        values = list(arrays)
        for i, x in zip(floats, moving, strict=True):
            values[i] = x
        value = getattr(losses, function)(*values, **kwargs)
        return value.sum(), value

    run = jax.value_and_grad(total, argnums=tuple(range(len(floats))), has_aux=True)
    (_, value), grads = (jax.jit(run) if jit else run)(*[jnp.asarray(arrays[i]) for i in floats])
    return value, grads


def assert_equals_torch(function, *arrays, jit=False, **kwargs):
    arrays = [np.asarray(a) for a in arrays]
    theirs, their_grads = torch_value_and_grads(function, arrays, kwargs)
    with jax.enable_x64(True):
        value, grads = our_value_and_grads(function, arrays, kwargs, jit)
    assert value.dtype == np.float64
    assert distance("forward", value, theirs) <= tolerance("forward", "float64")
    for ours, their in zip(grads, their_grads, strict=True):
        assert distance("gradient", ours, their) <= tolerance("gradient", "float64")


INF = float("inf")
# What lies on a kink or at a point where a plain formula gives nan.
KINKS = {
    "l1 at 0": ("l1_loss", ([0.0, 1.0], [0.0, 3.0]), {}),
    "l1 weighted at 0": ("l1_loss", ([0.0, 1.0], [0.0, 3.0]), {"weight": np.array([1.0, 2.0])}),
    "smooth l1 at beta and infinity": (
        "smooth_l1_loss",
        ([0.0, 1.0, -1.0, INF, -INF], [0.0] * 5),
        {"reduction": "none"},
    ),
    "smooth l1 with beta 0": ("smooth_l1_loss", ([0.0, 1.0], [0.0, 3.0]), {"beta": 0.0}),
    "huber at delta": (
        "huber_loss", ([0.0, 2.0, -2.0, INF], [0.0] * 4), {"reduction": "none", "delta": 2.0}
    ),
    "gaussian variance below eps": (
        "gaussian_nll_loss", ([1.0, 2.0, 3.0], [1.0, 2.5, 3.0], [0.0, 1e-3, 2.0]), {"eps": 0.1}
    ),
    "poisson at 1": ("poisson_nll_loss", ([1.0, 2.0], [1.0, 1.5]), {"full": True}),
    "hinge at the margin": ("hinge_embedding_loss", ([1.0, 2.0, 0.5], [-1, -1, 0]), {}),
    "ranking at the margin": (
        "margin_ranking_loss", ([1.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, -1.0, -1.0]), {}
    ),
    "cosine of zero vectors": (
        "cosine_embedding_loss",
        ([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [0.0, 0.0], [0.0, 1.0]], [1, -1, -1]),
        {},
    ),
    "multi margin at the margin": (
        "multi_margin_loss", ([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], [1, 0]), {}
    ),
    "logits far out": (
        "binary_cross_entropy_with_logits", ([800.0, -800.0, 0.0], [0.0, 1.0, 1.0]), {}
    ),
    "swap between equal distances": (
        "triplet_margin_loss", ([[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]),
        {"swap": True, "eps": 0.0},
    ),
    "a score of -inf": ("cross_entropy", ([[0.0, -INF, 1.0], [0.0, -INF, 1.0]], [0, 1]), {}),
    "an ignored log probability of -inf": ("nll_loss", ([[0.0, -INF], [-INF, 0.0]], [1, -100]), {}),
    "all ignored, sum": ("cross_entropy", ([[0.0, 1.0]], [-100]), {"reduction": "sum"}),
    "all ignored, mean": ("cross_entropy", ([[0.0, 1.0]], [-100]), {}),
    "no weight left": ("cross_entropy", ([[0.0, 1.0]], [1]), {"weight": np.array([1.0, 0.0])}),
    "no samples": ("cross_entropy", (np.zeros((0, 3)), np.zeros((0,), int)), {}),
    "no samples, sum": ("nll_loss", (np.zeros((0, 3)), np.zeros((0,), int)), {"reduction": "sum"}),
    "no probabilities": ("cross_entropy", (np.zeros((0, 3)), np.zeros((0, 3))), {}),
} | {
    f"distance 0, p={p}": (
        "triplet_margin_loss",
        ([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [1.0, 3.0], [2.0, 3.0]],
         [[2.0, 1.0], [1.0, 2.0], [1.0, 4.0]]),
        {"p": p, "eps": 0.0},
    )
    for p in (0.5, 1.0, 2.0, 3.0, INF)
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("row", KINKS)
def test_slopes_at_kinks_are_torchs(row):
    function, arrays, kwargs = KINKS[row]
    assert_equals_torch(function, *arrays, jit=True, **kwargs)


def test_probabilities_of_0_and_1():
    """Golden: torch's logarithm ends at -100 and its slope at 1e12, on the right side."""
    p, target = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([0.0, 1.0, 0.0, 1.0])
    value, slope = jax.vjp(lambda p: losses.binary_cross_entropy(p, target, reduction="none"), p)
    np.testing.assert_array_equal(value, [0.0, 100.0, 100.0, 0.0])
    np.testing.assert_array_equal(slope(jnp.ones(4))[0], jnp.array([0.0, -1e12, 1e12, 0.0]))
    _, forward = jax.jvp(lambda p: losses.binary_cross_entropy(p, target), (p,), (jnp.ones(4),))
    assert forward == 0.0


def test_the_second_derivative_of_bce():
    def loss(p):
        return losses.binary_cross_entropy(p, jnp.array([1.0]))

    np.testing.assert_allclose(jax.hessian(loss)(jnp.array([0.25])), [[16.0]], rtol=1e-6)


@pytest.mark.torch
def test_kl_mean_is_torchs():
    import torch

    x, t = np.random.RandomState(0).uniform(0.1, 1, (2, 3, 4))
    with pytest.warns(UserWarning, match="batchmean"):
        theirs = torch.nn.functional.kl_div(torch.tensor(x), torch.tensor(t))
    np.testing.assert_allclose(losses.kl_div(x, t), theirs, rtol=1e-6)


@st.composite
def cross_entropy_calls(draw):
    """Shapes and options of cross_entropy, all that torch takes."""
    rng = np.random.RandomState(draw(st.integers(0, 2**31)))
    shape = draw(st.sampled_from([(3,), (2, 3), (4, 1), (0, 3), (2, 3, 4), (1, 2, 2, 3)]))
    c, over = shape[min(len(shape) - 1, 1)], shape[: len(shape) - 1][:1] + shape[2:]
    kwargs = {
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0])),
    }
    if draw(st.booleans()):
        kwargs["weight"] = rng.uniform(0.1, 2, c)
    if draw(st.booleans()):
        target = rng.uniform(size=shape)
    else:
        target = np.asarray(rng.randint(0, c, over))
        if draw(st.booleans()):
            kwargs["ignore_index"] = draw(st.sampled_from([-100, -1, 0, c - 1, c + 3]))
            target = np.where(rng.uniform(size=over) < 0.3, kwargs["ignore_index"], target)
    return (rng.standard_normal(shape), target), kwargs


@pytest.mark.torch
@settings(max_examples=30, deadline=None)
@given(cross_entropy_calls())
def test_cross_entropy_is_torchs(call):
    arrays, kwargs = call
    assert_equals_torch("cross_entropy", *arrays, **kwargs)


SCORES = jnp.zeros((2, 3))
PROBABILITIES = jnp.full((2, 3), 0.5)
REFUSED = [
    ("mse_loss", (jnp.zeros(3), jnp.zeros((3, 1))), {}, r"input \(3,\) and target \(3, 1\)"),
    ("l1_loss", (jnp.zeros(3), jnp.zeros((3, 1))), {}, r"input \(3,\) and target \(3, 1\)"),
    ("mse_loss", (SCORES, SCORES, "average"), {}, "'average'; accepted are 'mean', 'sum'"),
    ("mse_loss", (SCORES, SCORES), {"weight": jnp.ones(3)}, r"weight \(3,\) differ"),
    ("smooth_l1_loss", (SCORES, SCORES), {"beta": -1.0}, "beta -1.0"),
    ("huber_loss", (SCORES, SCORES), {"delta": 0.0}, "delta 0.0"),
    ("gaussian_nll_loss", (SCORES, SCORES, jnp.ones(3)), {}, r"var of shape \(3,\)"),
    ("gaussian_nll_loss", (SCORES, SCORES, -SCORES - 2), {}, "var holds -2.0"),
    ("gaussian_nll_loss", (SCORES, SCORES, -2.0), {}, "var holds -2.0"),
    ("cross_entropy", (SCORES, jnp.array([0, 3])), {}, "class 3; accepted are 0 to 2, and -100"),
    ("cross_entropy", (SCORES, jnp.array([-1, 0])), {}, "class -1; accepted are 0 to 2"),
    ("cross_entropy", (SCORES, jnp.array([0])), {}, r"scores \(2, 3\) and classes \(1,\)"),
    ("cross_entropy", (SCORES, jnp.array([[0], [1]])), {}, r"classes \(2, 1\) do not match"),
    ("cross_entropy", (SCORES, jnp.array([0, 1])), {"weight": jnp.ones(2)}, r"needs one a class"),
    ("cross_entropy", (SCORES, jnp.array([0, 1])), {"label_smoothing": 1.5}, "smoothing 1.5"),
    ("cross_entropy", (SCORES, PROBABILITIES), {"ignore_index": 0}, "ignore_index 0 with prob"),
    ("nll_loss", (SCORES, jnp.array([0, 7])), {}, "class 7"),
    ("kl_div", (SCORES, SCORES, "batch"), {}, "'batch'; accepted are .*'batchmean'"),
    ("binary_cross_entropy", (PROBABILITIES + 1, PROBABILITIES), {}, "input holds 1.5"),
    ("binary_cross_entropy", (PROBABILITIES, PROBABILITIES - 1), {}, "target holds -0.5"),
    ("binary_cross_entropy", (PROBABILITIES, PROBABILITIES), {"weight": jnp.ones(2)},
     r"weight of shape \(2,\) does not broadcast to \(2, 3\)"),
    ("margin_ranking_loss", (SCORES, SCORES, jnp.ones(3)), {}, r"target \(3,\) do not match"),
    ("cosine_embedding_loss", (SCORES, SCORES, 1), {}, r"\(N, D\) with \(N,\)"),
    ("triplet_margin_loss", (SCORES, SCORES, SCORES), {"margin": 0.0}, "margin 0.0"),
    ("triplet_margin_loss", (SCORES, SCORES[0], SCORES), {}, r"positive \(3,\)"),
    ("multi_margin_loss", (SCORES, jnp.array([0, 3])), {}, "class 3; accepted are 0 to 2"),
    ("multi_margin_loss", (SCORES, jnp.array([0, 1])), {"p": 3}, "p: 3; accepted are 1 and 2"),
    ("multilabel_margin_loss", (SCORES, jnp.full((2, 3), -2)), {}, "holds -2"),
    ("ctc_loss", (jnp.zeros((4, 1, 3)), jnp.array([[1]]), [5], [1]), {}, "input_lengths holds 5"),
    ("ctc_loss", (jnp.zeros((4, 1, 3)), jnp.array([[3]]), [4], [1]), {}, "symbol 3"),
    ("ctc_loss", (jnp.zeros((4, 1, 3)), jnp.array([1, 1]), [4], [1]), {}, "add up to 1"),
    ("ctc_loss", (jnp.zeros((4, 1, 3)), jnp.array([[1]]), [4], [1], 3), {}, "blank 3"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "kwargs", "says"), REFUSED)
def test_what_is_refused(function, args, kwargs, says):
    args = [jnp.asarray(a) if isinstance(a, list) else a for a in args]
    with pytest.raises(ValueError, match=f"({function}|reduction).*{says}"):
        getattr(losses, function)(*args, **kwargs)


def test_wrong_dtypes():
    with pytest.raises(TypeError, match="target of dtype float32; give integers"):
        losses.cross_entropy(SCORES, jnp.zeros(2))
    with pytest.raises(TypeError, match="holds probabilities and is floating; it is int32"):
        losses.cross_entropy(SCORES, jnp.zeros((2, 3), int))
    with pytest.raises(TypeError, match="it needs floating numbers; given are input int32"):
        losses.mse_loss(jnp.array([1]), jnp.array([2]))


@pytest.mark.parametrize(
    ("loss", "args"),
    [
        (losses.cross_entropy, (SCORES, jnp.array([0, 3]))),
        (losses.nll_loss, (SCORES, jnp.array([-1, 0]))),
        (losses.multi_margin_loss, (SCORES, jnp.array([0, 3]))),
        (losses.multilabel_margin_loss, (SCORES, jnp.full((2, 3), 3))),
        (losses.binary_cross_entropy, (PROBABILITIES + 1, PROBABILITIES)),
        (losses.binary_cross_entropy, (PROBABILITIES, PROBABILITIES + 1)),
        (losses.gaussian_nll_loss, (SCORES, SCORES, SCORES - 1)),
        (losses.ctc_loss, (jnp.zeros((4, 1, 3)), jnp.array([[3]]), jnp.array([4]), jnp.array([1]))),
        (losses.ctc_loss, (jnp.zeros((4, 1, 3)), jnp.array([[1]]), jnp.array([5]), jnp.array([1]))),
    ],
)
def test_bad_numbers_inside_jit_give_nan(loss, args):
    assert jnp.isnan(jax.jit(loss)(*args))


def test_a_bad_class_inside_jit_spoils_the_gradient_too():
    for reduction in ("mean", "sum"):
        loss = jax.jit(lambda x, t, r=reduction: losses.cross_entropy(x, t, reduction=r))
        assert jnp.isnan(jax.grad(loss)(SCORES, jnp.array([0, 3]))[1]).all()


def test_narrow_class_numbers():
    for dtype in (jnp.uint8, jnp.int8, jnp.int32):
        value = losses.cross_entropy(SCORES, jnp.array([0, 1], dtype))
        np.testing.assert_allclose(value, np.log(3), rtol=1e-6)


def test_half_precision_counts_exactly():
    """The mean over 4099 samples divides by 4099, which bfloat16 does not hold."""
    value = losses.cross_entropy(jnp.zeros((4099, 2), jnp.bfloat16), jnp.zeros(4099, int))
    assert value.dtype == jnp.bfloat16
    np.testing.assert_allclose(value.astype(float), np.log(2), rtol=2**-8)


@pytest.mark.torch
def test_ctc_without_an_alignment():
    """Infinite, or 0 with zero_infinity, with a finite gradient behind a log_softmax."""
    import torch

    scores = np.random.RandomState(0).standard_normal((4, 2, 3))
    targets, lengths, sizes = np.array([[1, 1], [1, 2]]), np.array([2, 3]), np.array([2, 2])

    def loss(scores, **options):
        return losses.ctc_loss(jax.nn.log_softmax(scores), targets, lengths, sizes, **options)

    value = loss(scores, reduction="none")
    assert jnp.isinf(value[0])
    assert jnp.isfinite(value[1])
    slope = jax.grad(loss)(jnp.asarray(scores, jnp.float32), zero_infinity=True)
    x = torch.tensor(scores, requires_grad=True)
    arguments = [torch.tensor(a) for a in (targets, lengths, sizes)]
    torch.nn.functional.ctc_loss(x.log_softmax(-1), *arguments, zero_infinity=True).backward()
    assert distance("gradient", slope, x.grad.numpy()) <= tolerance("gradient", "float32")


def test_ctc_one_after_the_other_inside_jit():
    log_p = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (5, 2, 4)))
    args = (jnp.array([1, 2, 3]), jnp.array([5, 4]), jnp.array([1, 2]))
    eager = losses.ctc_loss(log_p, *args)
    np.testing.assert_allclose(jax.jit(losses.ctc_loss)(log_p, *args), eager, rtol=1e-6)


def test_penalties_are_the_documents():
    model = nn.Sequential(nn.Linear(3, 2, rngs=Generator(0)), nn.Linear(2, 1, rngs=Generator(1)))
    arrays = {name: np.asarray(p[...]) for name, p in model.named_parameters()}
    for penalty, power in ((losses.l1_penalty, np.abs), (losses.l2_penalty, np.square)):
        whole = sum(power(a).sum() for a in arrays.values())
        matrices = sum(power(a).sum() for name, a in arrays.items() if "weight" in name)
        np.testing.assert_allclose(penalty(model), whole, rtol=1e-6)
        np.testing.assert_allclose(penalty(train.split(model)[1]), whole, rtol=1e-6)
        np.testing.assert_allclose(penalty(model, "*.weight"), matrices, rtol=1e-6)
        np.testing.assert_allclose(penalty(model, lambda name, p: p.ndim == 2), matrices)
        nested = {"layers": [{"weight": arrays["0.weight"]}, {"bias": arrays["0.bias"]}]}
        np.testing.assert_allclose(
            penalty(nested, ["layers.0.weight"]), power(arrays["0.weight"]).sum(), rtol=1e-6
        )
    with pytest.raises(ValueError, match=r"where: '\*.wait' fits no name; near are \['1.we"):
        losses.l2_penalty(model, "*.wait")
    with pytest.raises(ValueError, match=r"'weight' fits no name; '\*.weight' does"):
        losses.l2_penalty(model, "weight")
    with pytest.raises(TypeError, match="'steps' is int32; parameters are floating"):
        losses.l1_penalty({"steps": jnp.array([1])})


def test_the_slope_of_the_l1_penalty_is_0_at_0():
    np.testing.assert_array_equal(
        jax.grad(losses.l1_penalty)(jnp.array([0.0, -2.0, 3.0])), [0.0, -1.0, 1.0]
    )


def test_weights_are_buffers():
    loss = nn.BCEWithLogitsLoss(pos_weight=jnp.array([2.0]))
    assert [name for name, _ in loss.named_buffers()] == ["pos_weight"]
    assert not list(loss.named_parameters())


@pytest.mark.parametrize(
    "call",
    [
        lambda target: losses.cross_entropy(jnp.ones((1, 3)), target),
        lambda target: losses.nll_loss(jnp.ones((1, 3)), target),
        lambda target: losses.multi_margin_loss(jnp.ones((1, 3)), target),
        lambda target: losses.mse_loss(jnp.ones(1), target),
        lambda target: metrics.accuracy(jnp.ones((1, 3)), target),
        lambda target: metrics.f1(jnp.ones((1, 3)), target),
    ],
)
@pytest.mark.parametrize(
    "target", [np.array([2**40]), np.array([2**31 + 1]), np.array([2**63], np.uint64)]
)
def test_numbers_that_do_not_fit_32_bits_do_not_wrap_into_classes(call, target):
    with pytest.raises(ValueError, match=r"does not fit the 32 bits of JAX's integers; give small"):
        call(target)


# linear_cross_entropy and AdaptiveLogSoftmaxWithLoss

ROWS, TABLE = np.float32(Generator(1).randn(7, 3)), np.float32(Generator(2).randn(5, 3))
CLASSES = np.array([0, 4, -100, 2, 2, 1, 3])
PARTS = {
    "classes": (CLASSES, {}),
    "weights": (CLASSES, {"weight": jnp.arange(1.0, 6), "label_smoothing": 0.2}),
    "each": (CLASSES, {"reduction": "none", "linear_bias": jnp.arange(5.0)}),
    "probabilities": (jnp.full((7, 5), 0.2), {"reduction": "sum"}),
}


@pytest.mark.parametrize(("target", "options"), PARTS.values(), ids=PARTS)
def test_linear_cross_entropy_in_parts_is_that_at_once(target, options):
    def total(x, table, chunks=None):
        return losses.linear_cross_entropy(x, table, target, **options, options=chunks).sum()

    run = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)
    value, grads = run(ROWS, TABLE)
    value3, grads3 = run(ROWS, TABLE, nn.LinearCrossEntropyOptions(batch_chunk_size=3))
    np.testing.assert_allclose(value3, value, rtol=1e-5)
    for one, other in zip(grads3, grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_linear_cross_entropy_in_parts_holds_no_scores_of_the_whole_batch():
    n, classes = 64, 512
    x, table = jnp.ones((n, 4)), jnp.ones((classes, 4))

    def memory(options):
        def loss(x, table):
            target = jnp.arange(n)
            return losses.linear_cross_entropy(x, table, target, options=options)

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, table).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = n * classes * 4
    assert memory(None) >= whole
    assert memory(nn.LinearCrossEntropyOptions(batch_chunk_size=4)) < whole / 3


def test_linear_cross_entropy_in_parts_sums_half_precision_in_float32():
    x = jnp.ones((512, 1), jnp.bfloat16)
    table = jnp.zeros((2, 1), jnp.bfloat16)

    def loss(table, options):
        target = jnp.zeros(512, int)
        return losses.linear_cross_entropy(x, table, target, reduction="sum", options=options)

    slope = jax.grad(loss)(table, nn.LinearCrossEntropyOptions(batch_chunk_size=1))
    assert slope.dtype == jnp.bfloat16
    assert slope.tolist() == [[-256], [256]]  # bfloat16 alone stays at 128: 128 + 0.5 is 128


@pytest.mark.torch
@pytest.mark.parametrize("method", ["auto", "aspect_ratio", "aspect_ratio:3", None])
def test_rows_of_a_part_are_torchs(method):
    import torch

    ours = nn.LinearCrossEntropyOptions(chunking_method=method)
    theirs = torch.nn.LinearCrossEntropyOptions(chunking_method=method)
    assert repr(ours) == repr(theirs)
    for shape in ((7, 3, 5), (64, 4, 100), (1, 8, 2), (33, 16, 16)):
        adjusted = theirs._adjust(*shape, torch.float32)
        assert ours.rows(*shape) == adjusted.batch_chunk_size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_chunk_size": 0}, "batch_chunk_size: 0; accepted is an integer, at least 1"),
        ({"chunking_method": "aspect_ratio:0"}, "chunking_method: 'aspect_ratio:0'"),
        ({"acc_policy": "fast"}, "acc_policy: 'fast'; accepted are 'auto'"),
        ({"acc_dtype": jnp.int32}, "acc_dtype: .* accepted are float dtypes"),
    ],
)
def test_linear_cross_entropy_options_are_checked(given, message):
    with pytest.raises(ValueError, match=message):
        nn.LinearCrossEntropyOptions(**given)


@pytest.mark.parametrize(
    ("x", "table", "target", "options", "message"),
    [
        ((2, 3), (4, 2), (2,), {}, r"input \(2, 3\) with linear_weight \(4, 2\)"),
        ((3,), (4, 2, 3), (2,), {}, r"needs a batch, \(N, 3\)"),
        ((2, 3), (4, 3), (2,), {"linear_bias": jnp.ones(3)}, r"linear_bias \(3,\); accepted is"),
        ((2, 3), (4, 3), (3,), {}, r"linear_cross_entropy: scores \(2, 4\) and classes \(3,\)"),
        ((2, 3), (4, 3), (2, 4), {"ignore_index": 1}, "ignore_index 1 with probabilities"),
        ((2, 3), (4, 3), (2,), {"label_smoothing": 2.0}, "label_smoothing 2.0; accepted is"),
        ((2, 3), (4, 3), (2,), {"reduction": "max"}, "reduction: 'max'"),
    ],
)
def test_linear_cross_entropy_names_what_is_wrong(x, table, target, options, message):
    target = jnp.zeros(target, int if len(target) == 1 else jnp.float32)
    with pytest.raises(ValueError, match=message):
        losses.linear_cross_entropy(jnp.ones(x), jnp.ones(table), target, **options)


def test_linear_cross_entropy_loss_checks_its_arguments():
    for options in ({"weight": jnp.ones(3)}, {"label_smoothing": -1.0}):
        with pytest.raises(ValueError, match=r"LinearCrossEntropyLoss: (weight|label_smoothing)"):
            nn.LinearCrossEntropyLoss(3, 4, **options, rngs=Generator(0))


def adaptive(cutoffs=(2, 4), classes=7):
    return nn.AdaptiveLogSoftmaxWithLoss(4, classes, cutoffs, div_value=2.0, rngs=Generator(0))


def test_adaptive_softmax_is_one_distribution():
    model, x = adaptive(), jnp.asarray(Generator(3).randn(5, 4))
    log_p = model.log_prob(x)
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-5)
    assert model.predict(x).tolist() == log_p.argmax(1).tolist()
    target = jnp.array([0, 6, 3, 2, 1])
    output, loss = jax.jit(lambda t: model(x, t))(target)
    np.testing.assert_allclose(output, log_p[jnp.arange(5), target], rtol=1e-5)
    np.testing.assert_allclose(loss, -output.mean(), rtol=1e-6)
    assert model(x[1], jnp.array(6)).output.shape == ()
    assert np.isnan(jax.jit(lambda t: model(x, t).output)(jnp.array([0, 7, -1, 2, 1]))[1:3]).all()


@pytest.mark.parametrize("cutoffs", [(), (2, 2), (3, 1), (0,), (7,), (2.5,)])
def test_cutoffs_are_checked(cutoffs):
    with pytest.raises(ValueError, match="integers from 1 to n_classes - 1 = 6"):
        adaptive(cutoffs)


@pytest.mark.parametrize(
    ("x", "target", "error", "message"),
    [
        ((2, 3), [0, 1], ValueError, r"expects an input of shape \(N, 4\); it got \(2, 3\)"),
        ((2, 4), [0], ValueError, r"target of shape \(1,\); accepted is \(2,\)"),
        ((2, 4), [0, 7], ValueError, "class 7; accepted is 0 to 6"),
        ((2, 4), [0.0, 1.0], TypeError, "classes of dtype float32"),
    ],
)
def test_adaptive_softmax_names_what_is_wrong(x, target, error, message):
    with pytest.raises(error, match=message):
        adaptive()(jnp.ones(x), jnp.array(target))
