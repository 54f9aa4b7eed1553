"""The implementation of a layer, chosen by the platform that a program is lowered for.

Some layers have more than one implementation, called form. "kernel" is jaxnet's own C code
(`jaxnet._kernels`), for CPUs; "loop" is XLA's operations in the way that a CPU runs fast;
"native" is XLA's operations as JAX writes them, for every other platform. Each such layer is
an `Operation`: one equation of the traced program, which becomes one of the forms when the
program is lowered. So a program for a GPU can be made on a machine that has none, one export
can serve several platforms, and arrays that were put on the CPU of a GPU machine are
computed in the CPU's form.

Decisions by shape and dtype, which are the same on every platform, are made where the layer
is traced.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxnet import _kernels as kernels
from jaxnet._checks import check_choice
from jaxnet._kernels.layout import varying_alike
from jaxnet.precision import matmul_precision

__all__ = [
    "ROWS",
    "Operation",
    "arithmetic_form",
    "batch_innermost",
    "batch_is_large",
    "is_between",
    "is_wanted",
    "plain_arithmetic",
    "tangents_along",
]

_FORMS = ("kernel", "loop", "native")
_PLAIN = "plain"  # the native form without an equation of its own

ROWS = "data"
"""The name of the axis of a mesh of devices along which the rows of a batch are cut."""

# JAX's own kind of context: what was traced outside of it is traced anew inside.
_asked = jax.make_user_context(None)

Arrays = Sequence[Any]
"""The arguments or the results of an operation, in order."""

# A vector register has the same pixel of up to 16 images; with few images most of it is idle.
_LEAST_BATCH = 8


@contextmanager
def arithmetic_form(form: str) -> Iterator[None]:
    """Inside the context, layers are traced in one form, whatever the platform's own would be.

    A function that `jax.jit` has compiled before is compiled again inside.

    Args:
        form: The form. "native" is XLA's operations as JAX writes them, which every platform
            runs. "loop" is XLA's operations in the way that a CPU runs fast, the choice of a
            CPU by itself in what `jax.export` exports, which needs no jaxnet where it is
            called. "kernel", the choice of a CPU by itself elsewhere, is C where there is a
            kernel and "loop" elsewhere.

    Raises:
        ValueError: The form is unknown; or, when the program is lowered, it is "kernel" and
            the platform is not a CPU.

    >>> from jaxnet.nn import functional as F
    >>> x, w = jax.numpy.ones((8, 1, 3, 3)), jax.numpy.ones((1, 1, 2, 2))
    >>> with arithmetic_form("native"):
    ...     print("custom_call" in jax.jit(F.conv2d).lower(x, w).as_text())
    False
    """
    check_choice("form", form, _FORMS)
    with _asked(form):
        yield


@contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Inside the context, layers are traced as JAX's own operations alone.

    They are those of the form "native", without the equation of a layer around them, as
    converters of traced programs need them.

    >>> from jaxnet.nn import functional as F
    >>> x, w = jax.numpy.ones((8, 1, 3, 3)), jax.numpy.ones((1, 1, 2, 2))
    >>> with plain_arithmetic():
    ...     print("jaxnet" in str(jax.make_jaxpr(F.conv2d)(x, w)))
    False
    """
    with _asked(_PLAIN):
        yield


def batch_innermost(x: jax.Array) -> bool:
    """Whether images (N, C, H, W) are computed by the kernels, on a platform that has them.

    The kernels lay images out with the batch as the innermost axis, and XLA keeps that layout
    between two kernels. So every layer on images has to decide alike.
    """
    return x.ndim == 4 and x.dtype == jnp.float32 and batch_is_large(x.shape[0])


def batch_is_large(size: int) -> bool:
    """Whether there are enough images for the kernels, in which some lie in one register."""
    return is_between(size, _LEAST_BATCH)


def is_between(size: int, least: int, most: float = math.inf) -> bool:
    """Whether a size is in a range; not if it is a symbolic one of `jax.export`.

    Such a program has to serve every size, so it gets what every size can be computed with.
    """
    return not jax.export.is_symbolic_dim(size) and least <= size <= most


def is_wanted(argument: Any) -> bool:
    """Whether an operation's `transpose` is asked for the slope (gradient) of an argument."""
    return isinstance(argument, jax.ShapeDtypeStruct)


def tangents_along(function: Callable[..., Arrays], arguments: Arrays, tangents: Arrays) -> Arrays:
    """The tangents of a function's results: a Jacobian-vector product by `jax.jvp`.

    Args:
        function: The function, which takes `arguments` and returns a list of arrays.
        arguments: The arguments, trees of arrays.
        tangents: The tangents of the arguments, trees like them, with None for zero.
    """
    tree: Any
    leaves, tree = jax.tree.flatten(tuple(arguments))
    slopes = tree.flatten_up_to(tuple(tangents))
    moves = [i for i, slope in enumerate(slopes) if slope is not None]

    def moved(*moving):
        every = list(leaves)
        for i, leaf in zip(moves, moving, strict=True):
            every[i] = leaf
        return list(function(*jax.tree.unflatten(tree, every)))

    return jax.jvp(moved, [leaves[i] for i in moves], [slopes[i] for i in moves])[1]


class Operation:
    """A function of arrays that is lowered in the form of the platform.

    Each form takes the arguments and static keywords (hashable), and returns a list of
    arrays. An argument is an array, None, or a tuple of arrays and Nones.

    Args:
        name: The name of the operation in programs and profiles.
        native: The form for every platform.
        loop: The form for a CPU in XLA's operations; by default `native`.
        kernel: The form for a CPU in C; by default `loop`.
        in_c: A function `(*arguments, **static) -> bool` that says whether the kernel accepts
            these dtypes and static keywords (under `jax.vmap` the arguments have more axes).
            By default the kernel accepts all.
        rows: Where the rows of a batch lie, if each row of the results depends on the same row
            of the arguments alone: a function `(*arguments, **static) -> (axes of the arrays in
            the arguments, axes of the results)`, with None for an array without rows; it gives
            None where the rows cannot be told apart. XLA cannot cut code in C for several
            devices: without this a kernel is not used there.
        shapes: A function `(*arguments, **static) -> shapes of the results`, whose dtype is
            that of the first array. Without it `native` is traced to find the shapes.
        jvp: A function `(arguments, tangents, **static) -> (results, tangents of the
            results)`, in which None stands for a tangent of zero. By default the tangents are
            those of `derivative`.
        derivative: The same function in JAX's operations, which is differentiated if there
            is no `jvp`; by default `native`.
        transpose: A function `(arguments, slopes, **static) -> slopes of the arguments`, of an
            operation that is linear in the arguments for which `is_wanted` is True; those are
            given as shapes. None stands for a zero slope of a result. The slope that is
            returned for an argument that is not wanted does not matter.
    """

    def __init__(
        self,
        name: str,
        *,
        native: Callable[..., Arrays],
        loop: Callable[..., Arrays] | None = None,
        kernel: Callable[..., Arrays] | None = None,
        in_c: Callable[..., bool] = lambda *arguments, **static: True,
        rows: Callable[..., tuple[Sequence[int | None], ...] | None] | None = None,
        shapes: Callable[..., Sequence[tuple[int, ...]]] | None = None,
        jvp: Callable[..., tuple[Arrays, Arrays]] | None = None,
        derivative: Callable[..., Arrays] | None = None,
        transpose: Callable[..., Arrays] | None = None,
    ) -> None:
        loop = loop or native
        self._forms = {"native": native, "loop": loop}
        self._kernel, self._in_c, self._rows, self._shapes = kernel, in_c, rows, shapes
        self._derivative = derivative or native
        self._jvp, self._transpose = jvp or self._derived, transpose
        self._primitive = primitive = Primitive(f"jaxnet_{name}")
        primitive.multiple_results = True
        static = ("tree", "static", "form", "precision", "mapped")
        self._compiled = jax.jit(primitive.bind, static_argnames=static)
        primitive.def_impl(self._at_once)
        primitive.def_abstract_eval(functools.lru_cache(4096)(self._types))
        mlir.register_lowering(primitive, mlir.lower_fun(self._elsewhere))
        mlir.register_lowering(primitive, self._lower_on_cpu, platform="cpu")
        ad.primitive_jvps[primitive] = self._differentiate
        ad.primitive_transposes[primitive] = self._turn
        batching.primitive_batchers[primitive] = self._map

    def __call__(self, *arguments: Any, **static: Any) -> list[jax.Array]:
        """The results of the operation, a list of arrays."""
        if _asked.value == _PLAIN:
            with jax.default_matmul_precision(matmul_precision()):
                return list(self._forms["native"](*arguments, **static))
        flat, tree = jax.tree.flatten(arguments)
        mesh = jax.sharding.get_abstract_mesh()
        if math.prod(mesh.shape[axis] for axis in mesh.explicit_axes) != 1:
            return self._by_compiler(mesh, flat, arguments, static)
        form, devices = _asked.value, _devices(mesh)
        if self._kernel is not None and form in (None, "kernel") and devices != 1:
            if (cut := self._cut(devices, flat, arguments, static)) is not None:
                # Each device computes its own rows. Inside there is nothing more to cut.
                whole = functools.partial(self._bind, tree=tree, static=static, form=form)
                ins, outs = cut
                return jax.shard_map(
                    lambda *flat: whole(flat),
                    in_specs=ins,
                    out_specs=outs,
                    axis_names=set(mesh.auto_axes),
                )(*flat)
            form = form or "xla"
        return self._bind(flat, tree=tree, static=static, form=form)

    def _by_compiler(self, mesh, flat, arguments, static):
        """The results on a mesh whose axes are a part of the arrays' types (`AxisType.Explicit`).

        XLA chooses how to cut what is inside; a result lies as the first argument of its shape,
        or its rows as those of the first argument with rows.
        """
        specs = [jax.typeof(x).sharding.spec for x in flat]
        found = self._rows(*arguments, **static) if self._rows else None
        axes, outs = found or ((), ())
        cut = [s[axis] for s, axis in zip(specs, axes, strict=False) if axis is not None]
        tree = jax.tree.structure(arguments)
        plain = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in flat]
        spec = jax.sharding.PartitionSpec
        with _asked("native"):
            shapes = jax.eval_shape(
                lambda *flat: self._bind(flat, tree=tree, static=static, form="native"), *plain
            )
        results = [
            spec(*[None] * outs[i], cut[0])
            if found and outs[i] is not None
            else next((s for s, x in zip(specs, flat, strict=True) if x.shape == one.shape), spec())
            for i, one in enumerate(shapes)
        ]
        return jax.sharding.auto_axes(
            lambda *flat: self(*jax.tree.unflatten(tree, flat), **static),
            axes=mesh.explicit_axes,
            out_sharding=results,
        )(*flat)

    def _bind(self, flat, *, tree, static, form):
        return self._primitive.bind(
            *varying_alike(flat),
            tree=tree,
            static=tuple(sorted(static.items())),
            form=form,
            # Noted now, as JAX's own operations do: lowering and differentiation come later,
            # perhaps outside the context that set the precision.
            precision=matmul_precision(),
            mapped=(),
        )

    def _cut(self, devices, flat, arguments, static):
        """How arrays lie on the devices if each computes its own rows, or None if none can."""
        if self._rows is None or devices is None:
            return None
        if (found := self._rows(*arguments, **static)) is None:
            return None
        axes, results = found
        rows = (x.shape[axis] for x, axis in zip(flat, axes, strict=True) if axis is not None)
        if any(jax.export.is_symbolic_dim(n) or n % devices for n in rows):
            return None
        spec = jax.sharding.PartitionSpec
        ins, outs = (
            [spec() if axis is None else spec(*[None] * axis, ROWS) for axis in each]
            for each in (axes, results)
        )
        return tuple(ins), outs

    def _at_once(self, *flat: jax.Array, **about: Any) -> Arrays:
        # Under jax.disable_jit the call would come back here without end.
        with jax.disable_jit(False):
            return self._compiled(*flat, **about)

    def _lower_on_cpu(self, context, *flat, form, **about):
        # Code in C is not there where an exported program is called, and jax.export refuses it.
        if form is None and context.module_context.lowering_parameters.for_export:
            form = "loop"
        return mlir.lower_fun(self._on_cpu)(context, *flat, form=form, **about)

    def _on_cpu(self, *flat: jax.Array, form: str | None, **about: Any) -> Arrays:
        kernel = self._kernel if form in (None, "kernel") else None
        arguments = jax.tree.unflatten(about["tree"], flat)
        if kernel is not None and self._in_c(*arguments, **dict(about["static"])):
            # Asked last, because the first question compiles the kernels.
            chosen = kernel if kernels.available() else self._forms["loop"]
        else:
            chosen = self._forms["native" if form == "native" else "loop"]
        return self._run(chosen, flat, **about)

    def _elsewhere(self, *flat: jax.Array, form: str | None, **about: Any) -> Arrays:
        form = None if form == "xla" else form
        if form == "kernel":
            raise ValueError(
                "form: 'kernel' was asked for where a program was traced that is lowered for "
                "another platform than a CPU; accepted there are 'native', 'loop' and none"
            )
        return self._run(self._forms[form or "native"], flat, **about)

    def _run(self, form, flat, *, tree, static, precision, mapped):
        def unmapped(*flat):
            return form(*jax.tree.unflatten(tree, flat), **dict(static))

        for axes in reversed(mapped):
            unmapped = jax.vmap(unmapped, axes)
        with jax.default_matmul_precision(precision):
            return unmapped(*flat)

    def _types(self, *avals, form, **about):
        if self._shapes is None:
            native = functools.partial(self._run, self._forms["native"], **about)
            return jax.make_jaxpr(lambda *flat: native(flat=flat))(*avals).out_avals
        mapped = about["mapped"]
        one = [_unmapped(aval, [axes[i] for axes in mapped]) for i, aval in enumerate(avals)]
        # All mapped arguments have the same sizes; they are read from the first of them.
        sizes = []
        for n, axes in enumerate(mapped):
            i = axes.index(0)
            sizes.append(avals[i].shape[sum(outer[i] is not None for outer in mapped[:n])])
        shapes = self._shapes(*jax.tree.unflatten(about["tree"], one), **dict(about["static"]))
        return [_like(avals[0], (*sizes, *shape)) for shape in shapes]

    def _map(self, flat, axes, *, mapped, **about):
        front = [
            array if axis is None else jnp.moveaxis(array, axis, 0)
            for array, axis in zip(flat, axes, strict=True)
        ]
        outer = tuple(None if axis is None else 0 for axis in axes)
        results = self._primitive.bind(*front, mapped=(outer, *mapped), **about)
        return results, [0] * len(results)

    def _differentiate(self, flat, tangents, *, tree, static, form, precision, mapped):
        moves = [not isinstance(tangent, ad.Zero) for tangent in tangents]
        moving = [tangent for tangent, moves_ in zip(tangents, moves, strict=True) if moves_]
        still: list[bool] = []

        def both(primals, moving):
            given = iter(moving)
            direction = [next(given) if moves_ else None for moves_ in moves]
            arguments, along = (jax.tree.unflatten(tree, x) for x in (primals, direction))
            results, slopes = self._jvp(arguments, along, **dict(static))
            still[:] = [slope is None for slope in slopes]
            return list(results), [slope for slope in slopes if slope is not None]

        for axes in reversed(mapped):
            moving_axes = [axis for axis, moves_ in zip(axes, moves, strict=True) if moves_]
            both = jax.vmap(both, (list(axes), moving_axes))
        with _as_traced(form, precision):
            results, found = both(list(flat), moving)
        slopes = iter(found)
        return results, [
            ad.Zero(jax.typeof(result).to_tangent_aval()) if still_ else next(slopes)
            for result, still_ in zip(results, still, strict=True)
        ]

    def _derived(self, arguments, tangents, **static):
        function = functools.partial(self._derivative, **static)
        return self(*arguments, **static), tangents_along(function, arguments, tangents)

    def _turn(self, slopes, *flat, tree, static, form, precision, mapped):
        wanted = [ad.is_undefined_primal(argument) for argument in flat]
        moves = [not isinstance(slope, ad.Zero) for slope in slopes]
        shapes = [
            _unmapped(argument.aval, [axes[i] for axes in mapped]) if wanted_ else None
            for i, (argument, wanted_) in enumerate(zip(flat, wanted, strict=True))
        ]

        def turned(known, moving):
            arguments, incoming = iter(known), iter(moving)
            leaves = [next(arguments) if shape is None else shape for shape in shapes]
            assert self._transpose is not None  # JAX asks of linear operations alone
            found = self._transpose(
                jax.tree.unflatten(tree, leaves),
                [next(incoming) if moves_ else None for moves_ in moves],
                **dict(static),
            )
            flat: list[Any] = []
            for each, subtree in zip(found, tree.children(), strict=True):
                nothing = [None] * subtree.num_leaves
                flat += subtree.flatten_up_to(each) if nothing and each is not None else nothing
            return [slope for slope, wanted_ in zip(flat, wanted, strict=True) if wanted_]

        for axes in reversed(mapped):
            turned = _summed(turned, axes, wanted)
        known = [argument for argument, w in zip(flat, wanted, strict=True) if not w]
        moving = [slope for slope, moves_ in zip(slopes, moves, strict=True) if moves_]
        with _as_traced(form, precision):
            found = iter(turned(known, moving))
        return [next(found) if wanted_ else None for wanted_ in wanted]


def _devices(mesh) -> int | None:
    """Over how many devices of the mesh that is set (`jax.set_mesh`) rows are cut.

    None if the mesh has several devices, but no axis for rows that XLA may cut.
    """
    if math.prod(mesh.shape[axis] for axis in mesh.auto_axes) == 1:
        return 1
    return mesh.shape[ROWS] if ROWS in mesh.auto_axes else None


def _unmapped(aval, axes):
    """The shape of an argument without the axes in front that `jax.vmap` put there."""
    mapped = sum(axis is not None for axis in axes)
    return jax.ShapeDtypeStruct(aval.shape[mapped:], aval.dtype)


def _like(aval, shape):
    """The abstract value of another array with a new shape."""
    spec = jax.sharding.PartitionSpec(*[None] * len(shape))
    return aval.update(shape=shape, weak_type=False, sharding=aval.sharding.update(spec=spec))


def _summed(turned, axes, wanted):
    """A transpose mapped over one more axis.

    An argument that is not mapped is shared along the axis, so its slope is the sum.
    """
    known = [axis for axis, wanted_ in zip(axes, wanted, strict=True) if not wanted_]
    along = [axis for axis, wanted_ in zip(axes, wanted, strict=True) if wanted_]
    mapped = jax.vmap(turned, (known, 0))

    def summed(known, moving):
        found = zip(mapped(known, moving), along, strict=True)
        return [slope.sum(0) if axis is None else slope for slope, axis in found]

    return summed


@contextmanager
def _as_traced(form: str | None, precision: Any) -> Iterator[None]:
    """Restores the form and the precision with which an operation was first traced."""
    with _asked(form), jax.default_matmul_precision(precision):
        yield
