"""How the kernels' arrays lie in memory, major to minor."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_BATCH_INNERMOST = (1, 2, 3, 0)  # an image batch (N, C, H, W)
_PLAIN = tuple(range(4))


def varying_alike(arrays: Sequence[Any]) -> list[Any]:
    """Arrays that differ between devices along the same axes of a mesh, all of them.

    Inside `jax.shard_map` every operation of JAX's own does that to its operands: it is how
    the gradient of what all devices share becomes the sum of theirs.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    everywhere = frozenset[Any]().union(*varying)
    if not everywhere:
        return list(arrays)
    missing = [tuple(sorted(everywhere - axes)) for axes in varying]
    return [
        jax.lax.pcast(x, axes, to="varying") if axes else x
        for x, axes in zip(arrays, missing, strict=True)
    ]


def call(
    name: str,
    arrays: Sequence[jax.Array],
    results: Sequence[tuple[int, ...]],
    row_by_row: Sequence[int] = (),
    aliases: dict[int, int] | None = None,
    **attributes: Any,
) -> Sequence[jax.Array]:
    """Calls a kernel.

    Args:
        name: of its handler.
        arrays: float32; those of four axes are image batches.
        results: the shapes of what it gives.
        row_by_row: the numbers of those arrays and results, counted through, that have
            four axes and are no image batches, or images that lie one after another.
        aliases: arrays whose memory results may take, by their numbers.
        attributes: numpy numbers.
    """
    shapes = [x.shape for x in arrays] + list(results)
    layouts = [
        _BATCH_INNERMOST if len(shape) == 4 and i not in row_by_row else _PLAIN[: len(shape)]
        for i, shape in enumerate(shapes)
    ]
    given = len(arrays)
    function = jax.ffi.ffi_call(
        name,
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results],
        vmap_method="sequential",
        input_layouts=layouts[:given],
        output_layouts=layouts[given:],
        input_output_aliases=aliases,
    )
    return function(*varying_alike(arrays), **attributes)
