"""The layout in memory of the kernels' arrays, from the slowest axis to the fastest."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_BATCH_INNERMOST = (1, 2, 3, 0)  # the axes of images (N, C, H, W), stored as C, H, W, N
_PLAIN = tuple(range(4))  # row-major order, of up to four axes


def varying_alike(arrays: Sequence[Any]) -> list[Any]:
    """Returns arrays that all vary between devices along the same axes of a mesh.

    Inside `jax.shard_map` JAX does this to the operands of each of its own operations. It is
    the reason that the gradient of an array that all devices share is summed over the devices.
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
        name: The name of the kernel's handler.
        arrays: The float32 arguments. Those with four axes are batches of images.
        results: The shapes of the results.
        row_by_row: The positions, counted through arguments and results, of arrays that have
            four axes but are stored in row-major order: weights, or images that are stored one
            after another.
        aliases: The results that may use the memory of an argument, as a dictionary from the
            position of the argument to that of the result.
        **attributes: The numpy numbers that the kernel takes.

    Returns:
        The float32 results.
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
        # The kernels know no further axes, so under vmap one call follows the other.
        vmap_method="sequential",
        input_layouts=layouts[:given],
        output_layouts=layouts[given:],
        input_output_aliases=aliases,
    )
    return function(*varying_alike(arrays), **attributes)
