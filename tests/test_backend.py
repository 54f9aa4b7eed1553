"""Which form runs, by the platform that is lowered for, and the derivatives of every form."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import _kernels as kernels
from jaxnet.backend import Operation, arithmetic_form, plain_arithmetic
from jaxnet.nn import functional as F
from jaxnet.nn._recurrent import Weights, recurrent_layer
from tests.tolerances import distance, tolerance

needs_compiler = pytest.mark.skipif(not kernels.available(), reason="no C compiler")


def conv(x, w, b):
    return F.conv2d(x, w, b, padding=1)


def norm(x, w, b):
    return F.batch_norm(x, None, None, w, b, training=True)


def lstm(x, w_ih, w_hh, b):
    first = (jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype),) * 2
    y, last = recurrent_layer("lstm", x, Weights(w_ih, w_hh, b, b, None), first)
    return jnp.concatenate([y.ravel(), *(s.ravel() for s in last)])


# What has more than one form, the shapes of its arguments, and the kernel that it meets.
FUNCTIONS = {
    "conv2d": (conv, [(8, 3, 6, 5), (4, 3, 3, 3), (4,)], "jaxnet_correlate2d_gradient"),
    "conv2d, 3 x 3 of many": (conv, [(8, 9, 6, 5), (9, 9, 3, 3), (9,)], "jaxnet_winograd"),
    "conv2d, stride 2": (
        lambda x, w: F.conv2d(x, w, stride=2, padding=1),
        [(8, 3, 6, 5), (4, 3, 3, 3)],
        "jaxnet_spread2d",
    ),
    "conv2d, stride 2 of few images": (
        lambda x, w: F.conv2d(x, w, stride=2, padding=1),
        [(2, 3, 6, 5), (4, 3, 3, 3)],
        None,
    ),
    "conv2d, depthwise and dilated": (
        lambda x, w: F.conv2d(x, w, padding=1, groups=3, dilation=(1, 2)),
        [(9, 3, 6, 5), (6, 1, 3, 3)],
        "jaxnet_spread2d",
    ),
    "conv2d, every second pixel": (
        lambda x, w, b: F.conv2d(x, w, b, stride=(2, 3), groups=2),
        [(8, 4, 6, 5), (6, 2, 1, 1), (6,)],
        "jaxnet_correlate2d_gradient",
    ),
    "conv2d, one window": (
        lambda x, w, b: F.conv2d(x, w, b, padding=(1, 0)),
        [(8, 3, 2, 3), (5, 3, 4, 3), (5,)],
        None,
    ),
    "conv3d": (
        lambda x, w, b: F.conv3d(x, w, b, padding=(1, 0, 1)),
        [(3, 2, 4, 3, 5), (4, 2, 3, 2, 3), (4,)],
        "jaxnet_spread2d",
    ),
    "conv3d, with everything": (
        lambda x, w: F.conv3d(x, w, None, (2, 1, 2), (2, 1, 0), (1, 2, 1), 2),
        [(4, 4, 5, 6, 5), (6, 2, 4, 2, 3)],
        "jaxnet_correlate2d_gradient",
    ),
    "conv_transpose3d": (
        lambda x, w: F.conv_transpose3d(x, w, None, 2, 1, (1, 0, 1)),
        [(4, 3, 3, 2, 3), (3, 2, 2, 3, 4)],
        "jaxnet_spread2d",
    ),
    "conv_transpose2d of one pixel": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=(1, 0), output_padding=1),
        [(8, 5, 1, 1), (5, 3, 4, 3)],
        None,
    ),
    "conv_transpose2d, stride 2, of many images": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, (1, 0), 2, (1, 3)),
        [(8, 4, 3, 4), (4, 2, 3, 3), (4,)],
        "jaxnet_spread2d",
    ),
    "conv2d, depthwise": (
        lambda x, w: F.conv2d(x, w, padding=1, groups=4),
        [(2, 4, 6, 5), (4, 1, 3, 3)],
        None,
    ),
    "conv2d, narrow groups": (
        lambda x, w: F.conv2d(x, w, stride=2, groups=2),
        [(2, 4, 6, 5), (6, 2, 3, 2)],
        None,
    ),
    "conv2d, wide groups": (
        lambda x, w: F.conv2d(x, w, groups=2),
        [(2, 16, 4, 3), (2, 8, 2, 2)],
        None,
    ),
    "conv_transpose2d": (
        F.conv_transpose2d,
        [(8, 3, 4, 5), (3, 2, 3, 2), (2,)],
        "jaxnet_correlate2d",
    ),
    "conv_transpose2d, stride 2": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1, groups=2),
        [(2, 4, 3, 4), (4, 2, 3, 3)],
        None,
    ),
    "batch_norm": (norm, [(8, 3, 4, 5), (3,), (3,)], "jaxnet_batch_norm_gradient"),
    "group_norm": (
        lambda x, w, b: F.group_norm(x, 2, w, b),
        [(9, 6, 4, 5), (6,), (6,)],
        "jaxnet_group_norm_gradient",
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), [(8, 2, 6, 5)], "jaxnet_max_pool2d_spread"),
    "linear, few rows": (F.linear, [(2, 512), (256, 512), (256,)], "jaxnet_few_rows"),
    "lstm": (lstm, [(4, 32, 3), (20, 3), (20, 5), (20,)], "jaxnet_recurrent_gradient"),
}
NAMES = pytest.mark.parametrize("name", FUNCTIONS)


def drawn(shapes, seed=0):
    rng = np.random.RandomState(seed)
    return [
        jax.device_put((rng.standard_normal(s) / math.prod(s[2:]) ** 0.5).astype(np.float32))
        for s in shapes
    ]


def results_and_slopes(function):
    """A new function, which no cache knows, of the arguments and of slopes of the result."""

    def both(arguments, slope):
        result, back = jax.vjp(function, *arguments)
        return result, back(slope)

    return both


def arguments_of(name):
    function, shapes, kernel = FUNCTIONS[name]
    arguments = drawn(shapes)
    slope = drawn([jax.eval_shape(function, *arguments).shape], 1)[0]
    return function, arguments, slope, kernel


def close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert distance("gradient", a, b) <= tolerance("gradient", "float32")


def in_form(form, function, *arguments):
    with arithmetic_form(form):
        return jax.jit(lambda *given: function(*given))(*arguments)


@NAMES
def test_a_program_has_the_form_of_its_platform_wherever_it_is_lowered(name):
    function, arguments, slope, kernel = arguments_of(name)
    traced = jax.jit(results_and_slopes(function)).trace(arguments, slope)
    for platform in ("cuda", "rocm", "tpu"):
        assert "custom_call" not in traced.lower(lowering_platforms=(platform,)).as_text()
    here = traced.lower().as_text()
    if kernel and kernels.available():
        assert f"@{kernel}" in here
    else:
        assert "custom_call" not in here


@NAMES
def test_all_forms_give_the_same(name):
    function, arguments, slope, _ = arguments_of(name)
    both = results_and_slopes(function)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (arguments, slope))
        exact = in_form("native", both, *wide)
    for form in ("kernel", "loop", "native"):
        close(in_form(form, both, arguments, slope), exact)
    close(both(arguments, slope), exact)


@NAMES
def test_forward_and_backward_differentiation_agree(name):
    function, arguments, slope, _ = arguments_of(name)
    along = drawn([a.shape for a in arguments], 2)

    def products(arguments, along, slope):
        result, moved = jax.jvp(function, arguments, along)
        slopes = jax.vjp(function, *arguments)[1](slope)
        return jnp.vdot(slope, moved), sum(map(jnp.vdot, slopes, along)), result

    forward, backward, result = jax.jit(products)(arguments, along, slope)
    scale = float(jnp.linalg.norm(slope) * jnp.sqrt(result.size))
    assert abs(forward - backward) <= 1e-5 * scale


@NAMES
def test_a_gradient_is_differentiated_alike_in_every_form(name):
    function, arguments, slope, _ = arguments_of(name)
    along = drawn([a.shape for a in arguments], 2)

    def twice(arguments, along, slope):
        def slopes(*arguments):
            back = jax.vjp(lambda *a: jnp.tanh(function(*a)), *arguments)[1]
            return back(slope)

        product = jax.grad(lambda a: sum(map(jnp.vdot, slopes(*a), along)))(arguments)
        return product, jax.jvp(slopes, arguments, along)[1]

    for a, b in zip(
        jax.tree.leaves(in_form("kernel", twice, arguments, along, slope)),
        jax.tree.leaves(in_form("native", twice, arguments, along, slope)),
        strict=True,
    ):
        assert distance("gradient", a, b) <= 4 * tolerance("gradient", "float32")


@NAMES
def test_vmap_of_every_argument_and_of_the_first_alone(name):
    function, arguments, slope, _ = arguments_of(name)
    sets = [arguments, [0.5 * a[::-1] for a in arguments]]
    both = results_and_slopes(function)
    alone = jax.tree.map(lambda *a: jnp.stack(a), *(both(each, slope) for each in sets))
    together = [jnp.stack(pair) for pair in zip(*sets, strict=True)]
    close(jax.jit(jax.vmap(both, (0, None)))(together, slope), alone)

    def total(first, rest):
        outputs = jax.vmap(lambda one: function(one, *rest))(first)
        return jnp.vdot(outputs, jnp.stack([slope, slope]))

    slopes = jax.jit(jax.grad(total, (0, 1)))(together[0], arguments[1:])
    halves = [both([first, *arguments[1:]], slope)[1] for first in together[0]]
    close(slopes[0], jnp.stack([half[0] for half in halves]))
    close(slopes[1], [a + b for a, b in zip(*(half[1:] for half in halves), strict=True)])


@pytest.mark.parametrize("name", ["conv2d", "batch_norm", "linear, few rows"])
def test_vmap_of_vmap(name):
    function, (first, *shared), slope, _ = arguments_of(name)
    grid = jnp.stack([jnp.stack([first, -first]), jnp.stack([2 * first, first[::-1]])])
    rest = [jnp.stack([each, 0.5 * each]) for each in shared]

    def slopes(first, *rest):
        return jax.vjp(function, first, *rest)[1](slope)

    inner = jax.vmap(slopes, (0, *[None] * len(rest)))
    ours = jax.jit(jax.vmap(inner))(grid, *rest)
    for i in range(2):
        for j in range(2):
            alone = slopes(grid[i, j], *(each[i] for each in rest))
            close([each[i, j] for each in ours], alone)


@NAMES
def test_devices_of_a_mesh_add_up_the_slopes_of_what_they_share(name):
    function, (first, *shared), slope, _ = arguments_of(name)
    both = [first, 0.5 * first[::-1]]
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    apart, alike = jax.sharding.PartitionSpec("x"), jax.sharding.PartitionSpec()

    def slopes(first, shared, slope):
        return jax.vjp(lambda first, shared: function(first[0], *shared), first, shared)[1](slope)

    def on_each(first, shared, slope):
        return slopes(first, shared, jax.lax.pcast(slope, "x", to="varying"))

    spread = jax.shard_map(
        on_each, mesh=mesh, in_specs=(apart, alike, alike), out_specs=(apart, alike)
    )
    ours = jax.jit(spread)(jnp.stack(both), shared, slope)
    alone = [slopes(each[None], shared, slope) for each in both]
    close(ours[0], jnp.concatenate([dx for dx, _ in alone]))
    close(ours[1], jax.tree.map(jnp.add, *(rest for _, rest in alone)))


@needs_compiler
def test_one_export_serves_a_cpu_and_a_gpu():
    x, w, b, v = drawn([(8, 3, 8, 8), (4, 3, 3, 3), (4,), (2, 64)])

    def step(w, b, v):
        def loss(w, b, v):
            y = F.max_pool2d(jnp.tanh(F.conv2d(x, w, b, padding=1)), 2)
            return (F.linear(y.reshape(8, -1), v) ** 2).sum()

        return jax.value_and_grad(loss, (0, 1, 2))(w, b, v)

    assert "@jaxnet_correlate2d" in jax.jit(step).lower(w, b, v).as_text()
    exported = jax.export.export(jax.jit(step), platforms=["cpu", "cuda"])(w, b, v)
    close(exported.call(w, b, v), jax.jit(step)(w, b, v))
    # With jaxnet's kernels, where they are asked for and the custom calls allowed.
    with arithmetic_form("kernel"):
        kernels_in = jax.jit(lambda *a: step(*a))
        names = set(re.findall(r"custom_call @(\w+)", kernels_in.lower(w, b, v).as_text()))
        allowed = [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]
        exported = jax.export.export(kernels_in, platforms=["cpu"], disabled_checks=allowed)(
            w, b, v
        )
    ours, theirs = jax.jit(step)(w, b, v), exported.call(w, b, v)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


def test_an_export_with_a_symbolic_batch_serves_every_size():
    w, v, *recurrent = drawn([(4, 3, 3, 3), (256, 256), (20, 256), (20, 5), (20,)])

    def net(x):
        y = F.max_pool2d(F.conv2d(x, w, padding=1), 2)  # (B, 4, 8, 8)
        y = F.linear(y.reshape(y.shape[0], 256), v)
        return lstm(jnp.stack([y] * 32), *recurrent), y

    symbolic = jax.export.symbolic_shape("b, 3, 16, 16")
    exported = jax.export.export(jax.jit(net))(jax.ShapeDtypeStruct(symbolic, jnp.float32))
    for size in (1, 9):
        x = drawn([(size, 3, 16, 16)])[0]
        close(exported.call(x), net(x))


def test_without_jit():
    x, w = drawn([(8, 3, 6, 5), (4, 3, 3, 3)])

    def slopes(x, w):
        return jax.grad(lambda x, w: conv(x, w, None).sum(), (0, 1))(x, w)

    compiled = jax.jit(slopes)(x, w)
    with jax.disable_jit():
        close(slopes(x, w), compiled)


def test_a_program_keeps_the_precision_that_it_was_traced_with():
    x, w = drawn([(8, 3, 6, 5), (4, 3, 3, 3)])
    gradient = jax.jit(jax.grad(lambda x, w: conv(x, w, None).sum(), (0, 1)))
    with jax.default_matmul_precision("tensorfloat32"):
        traced = gradient.trace(x, w)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(
        r"stablehlo.convolution.*precision_config = \[#stablehlo<precision (\w+)>", text
    )
    assert found == ["HIGH"] * 2


@needs_compiler
def test_a_form_that_was_asked_for_holds_until_its_context_ends():
    x, w = drawn([(8, 3, 6, 5), (4, 3, 3, 3)])

    def has_kernel():
        gradient = jax.grad(lambda w: conv(x, w, None).sum())
        return "jaxnet_correlate2d_gradient" in jax.jit(gradient).lower(w).as_text()

    assert has_kernel()
    with arithmetic_form("native"):
        assert not has_kernel()
        with arithmetic_form("kernel"):
            assert has_kernel()
        assert not has_kernel()
    assert has_kernel()


def test_plain_arithmetic_has_no_equation_of_ones_own():
    x, w, b = jnp.ones((8, 3, 9, 9)), jnp.linspace(-1, 1, 108).reshape(4, 3, 3, 3), jnp.ones(4)
    wanted, program = conv(x, w, b), jax.make_jaxpr(conv)
    assert "jaxnet_" in str(program(x, w, b))
    with plain_arithmetic():
        assert "jaxnet_" not in str(jax.make_jaxpr(lambda *xs: conv(*xs))(x, w, b))
        found = jax.jit(lambda *xs: conv(*xs))(x, w, b)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_forms_that_are_not_there():
    message = "form: 'fast'; accepted are 'kernel', 'loop' and 'native'"
    with pytest.raises(ValueError, match=message), arithmetic_form("fast"):
        pass
    x, w = drawn([(8, 3, 6, 5), (4, 3, 3, 3)])
    with arithmetic_form("kernel"):
        traced = jax.jit(lambda x, w: conv(x, w, None)).trace(x, w)
    with pytest.raises(ValueError, match=r"'kernel' was asked for .* accepted there are 'native'"):
        traced.lower(lowering_platforms=("cuda",))


def test_an_operation_of_ones_own():
    """Its parts as the docstring has them: optional arguments, static words, no slope."""

    def scaled(x, y, power):
        return [x**power if y is None else y * x**power, jnp.sign(x)]

    def jvp(arguments, tangents, power):
        (x, y), (dx, dy) = arguments, tangents
        results = operation(x, y, power=power)
        parts = [] if dx is None else [power * x ** (power - 1) * (1.0 if y is None else y) * dx]
        parts += [] if dy is None else [x**power * dy]
        return results, [sum(parts[1:], parts[0]), None]

    operation = Operation("of_ones_own", native=scaled, jvp=jvp)
    x, y = drawn([(5,), (5,)])
    assert np.array_equal(operation(x, None, power=2)[0], x**2)
    slopes = jax.grad(lambda x, y: operation(x, y, power=3)[0].sum(), (0, 1))(x, y)
    close(slopes, (3 * x**2 * y, x**3))
    assert not jax.grad(lambda x: operation(x, None, power=3)[1].sum())(x).any()
    twice = jax.grad(lambda x: jax.grad(lambda x: operation(x, None, power=3)[0].sum())(x).sum())
    close(twice(x), 6 * x)
    derived = Operation("derived", native=functools.partial(scaled, power=3))
    close(jax.grad(lambda x: derived(x, y)[0].sum())(x), 3 * x**2 * y)


def test_the_form_reaches_what_was_compiled_before():
    x, w = jnp.ones((8, 1, 3, 3)), jnp.ones((1, 1, 2, 2))
    compiled = jax.jit(F.conv2d)
    compiled(x, w)
    by_itself = compiled.lower(x, w).as_text()
    with arithmetic_form("native"):
        assert "stablehlo.convolution" in compiled.lower(x, w).as_text()
        assert "jaxnet" not in compiled.lower(x, w).as_text()
    assert compiled.lower(x, w).as_text() == by_itself
