"""Several devices: the mesh of a run, and where its arrays lie there."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnet._arrays import on_devices
from jaxnet._names import join, named_leaves, select
from jaxnet._processes import check_same, several
from jaxnet.backend import ROWS
from jaxnet.train._several import is_state, named_states

Spec = PartitionSpec | Sequence[str | None] | str
"""How one parameter is cut: the axis of the mesh along each of its own axes, or "fsdp"."""

Sharding = Mapping[str, Spec] | str | None
"""How parameters are cut: what `shard` takes."""

_FORMS = (
    'None (every device keeps all of them), "fsdp", or a dictionary from patterns of names to '
    '"fsdp" or to the axes of the mesh, such as {"*.linear1.weight": ("model", None)}'
)

_OTHER_STATES = (
    "state: the processes made other numbers ({}); make the same model and the same generators, "
    "with the same seeds, in all of them"
)


def make_mesh(axes: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of devices from a text: "data=8", or "data=4,model=2".

    Args:
        axes: The names of the axes and the number of devices along each.
        devices: The devices; by default the first of `jax.devices()`.

    Returns:
        The mesh, for `fit(mesh=...)`, `shard` and `jax.set_mesh`. A mesh of `jax.make_mesh`
        does as well.

    Raises:
        ValueError: The text is no such list, or there are fewer devices.

    >>> dict(make_mesh("data=1").shape)
    {'data': 1}
    """
    sizes: dict[str, int] = {}
    for part in axes.split(","):
        name, equals, size = part.strip().partition("=")
        if not (name.isidentifier() and equals and size.isdecimal() and int(size) > 0):
            raise ValueError(
                f'mesh: {axes!r}; accepted are names with numbers of devices, such as "data=4" or '
                '"data=4,model=2"'
            )
        if name in sizes:
            raise ValueError(f"mesh: {axes!r} has the axis {name!r} twice")
        sizes[name] = int(size)
    found = jax.devices() if devices is None else list(devices)
    wanted = math.prod(sizes.values())
    if wanted > len(found):
        more = (
            ". A CPU counts as several with the environment variable JAX_NUM_CPU_DEVICES="
            f"{wanted}, or jax.config.update('jax_num_cpu_devices', {wanted}) before the first "
            "computation"
            if found[0].platform == "cpu"
            else ""
        )
        raise ValueError(
            f"mesh: {axes!r} needs {wanted} devices, and there are {len(found)} "
            f"({found[0].platform}){more}"
        )
    grid = np.array(found[:wanted]).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def shard(state: Any, mesh: Mesh | str, sharding: Sharding = None) -> Any:
    """Puts a state on the devices of a mesh; `fit`, `evaluate` and `predict` then use them.

    The rows of every batch are cut along the mesh's axis "data": each device computes its own
    rows, and gradients are summed over all of them (torch's DistributedDataParallel). All
    numbers are those of one device, up to the order of sums: the loss is that of the whole
    batch, BatchNorm's statistics too (torch's SyncBatchNorm) unless the step has
    `batch_norm_parts`, dropout draws the same masks, and clipping sees the whole gradient. A batch
    whose rows no split fits, such as the last one of an epoch, is computed whole on every device.

    Args:
        state: The state of a run, such as `train.create(...)`; it stays usable.
        mesh: The devices: `train.make_mesh("data=4")`, its text, or a mesh of `jax.make_mesh`.
        sharding: How parameters are cut, and with them what the optimizer and a running
            average keep of each. None keeps all on every device. "fsdp" cuts each along its
            largest axis that the devices of "data" divide, as torch's FullyShardedDataParallel:
            parameters are gathered where a layer needs them, and memory falls with the number of
            devices. A dictionary gives for patterns of names "fsdp", or the mesh's axis along
            each axis of the parameter: `{"*.linear1.weight": ("model", None)}` cuts the rows of
            a weight along "model" (tensor parallel). The first pattern that fits holds; what none
            fits is on every device. For states of several models the names begin with the
            model's. Patterns are those of `optim.groups`.

    Returns:
        The state on the mesh.

    Raises:
        ValueError: The mesh is larger than the devices, has no axis "data", an axis is unknown,
            a pattern fits no name, or a parameter's size cannot be divided.
        TypeError: An argument is of another kind.
    """
    mesh = opened(mesh)
    rules = _rules(sharding)
    shardings = _shardings(state, mesh, rules)
    here = [x for x in jax.tree.leaves(state) if getattr(x, "is_fully_addressable", True)]
    check_same(mesh, _OTHER_STATES, here)
    return jax.tree.map(on_devices, state, shardings)


def gather(state: Any) -> Any:
    """A state that lies on a mesh, whole on one device: for a file of weights, or a model to call.

    With several processes each gets all of it, and all of them have to call this; write files in
    one of them then, `if jax.process_index() == 0`. Arrays on one device stay as they are.

    Args:
        state: `fit(...).state`, or any other pytree of arrays.

    Returns:
        The same pytree with all arrays on this process's default device.
    """

    def whole(x: Any) -> Any:
        if not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1:
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = whole(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        if not x.is_fully_addressable and not x.is_fully_replicated:
            assert isinstance(x.sharding, NamedSharding)
            assert isinstance(x.sharding.mesh, Mesh)
            x = jax.device_put(x, everywhere(x.sharding.mesh))
        return jnp.array(np.asarray(x))

    return jax.tree.map(whole, state)


def opened(mesh: Any) -> Mesh:
    """A mesh whose axes XLA may cut along, from what `shard` takes.

    Raises:
        ValueError: It has no axis for the rows of a batch.
        TypeError: It is no mesh.
    """
    if isinstance(mesh, str):
        mesh = make_mesh(mesh)
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f'mesh: {mesh!r}; accepted are a text such as "data=4", train.make_mesh(...) and '
            "jax.make_mesh(...)"
        )
    if ROWS not in mesh.axis_names:
        raise ValueError(
            f"mesh: its axes are {', '.join(map(repr, mesh.axis_names))}; the rows of a batch are "
            f'cut along an axis "{ROWS}", which may have one device'
        )
    here = {device.process_index for device in mesh.devices.flat}
    if (len(here) > 1 and len(here) < jax.process_count()) or jax.process_index() not in here:
        raise ValueError(
            f"mesh: it has devices of {len(here)} of the run's {jax.process_count()} processes; "
            f"accepted is a mesh with devices of all, such as one of all {jax.device_count()}"
        )
    # With explicit axes, as jax.make_mesh gives them, the types of arrays say where they lie,
    # and a step would have to say it of every result. With these XLA finds it.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)


def shardings_of(state: Any) -> Any:
    """Where each array of a state lies on the mesh that `shard` put it on; else None."""
    found = jax.tree.map(lambda x: getattr(x, "sharding", None), state)
    return None if mesh_of(found) is None else found


def mesh_of(shardings: Any) -> Mesh | None:
    """The mesh of what `shardings_of` gave."""
    for sharding in jax.tree.leaves(shardings):
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        if isinstance(mesh, Mesh) and mesh.size > 1 and ROWS in mesh.axis_names:
            return mesh
    return None


def inside(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """The context in which programs are traced for a mesh and called there."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def on_rows(mesh: Mesh, rows: int, axis: int = 0) -> NamedSharding:
    """Where arrays lie whose rows are cut along the devices; whole on each if none divides them."""
    spec = [*[None] * axis, ROWS] if rows % mesh.shape[ROWS] == 0 else []
    return NamedSharding(mesh, PartitionSpec(*spec))


def own_places(mesh: Mesh | None, rows: int) -> np.ndarray | None:
    """The places in a batch of the rows that this process's devices compute; None for all."""
    if mesh is None or not several(mesh):
        return None
    own = np.zeros(rows, bool)
    for index in on_rows(mesh, rows).addressable_devices_indices_map((rows,)).values():
        if index is not None:
            own[index] = True
    return None if own.all() else np.flatnonzero(own)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Where arrays lie that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_back(state: Any, shardings: Any) -> Any:
    """A state, some of whose arrays a function of the user's may have made, on its mesh."""
    if shardings is None:
        return state

    def put(x: Any, wanted: Any) -> Any:
        return x if x.sharding == wanted else on_devices(x, wanted)

    return jax.tree.map(put, state, shardings)


def _rules(sharding: Any) -> dict[str, Any]:
    if sharding is None:
        return {}
    found = {"*": sharding} if isinstance(sharding, str) else sharding
    if not isinstance(found, Mapping):
        raise TypeError(f"sharding: {sharding!r}; accepted are {_FORMS}")
    for pattern, spec in found.items():
        named = isinstance(spec, tuple | list | PartitionSpec)
        if not isinstance(pattern, str) or not (named or isinstance(spec, str)):
            raise TypeError(f"sharding: {pattern!r}: {spec!r}; accepted are {_FORMS}")
        if isinstance(spec, str) and spec != "fsdp":
            raise ValueError(f"sharding: {spec!r}; accepted are {_FORMS}")
    return dict(found)


def _shardings(state: Any, mesh: Mesh, rules: dict[str, Any]) -> Any:
    """The sharding of each leaf of a state."""
    models = named_states(state)
    params = {join(of, name): x for of, one in models.items() for name, x in one.params.items()}
    if not models:  # a state of the user's own: its arrays are named as they are
        params = named_leaves(state)
    specs = dict.fromkeys(params, PartitionSpec())
    for pattern, spec in reversed(rules.items()):  # the first that fits holds
        for name, x in select("sharding", pattern, params).items():
            specs[name] = _spec(name, np.shape(x), mesh, spec)

    def of_model(of: str, one: Any) -> Any:
        def leaf(path: Any, x: Any) -> NamedSharding:
            # Moments and averages are in dictionaries with the names of the parameters.
            name = getattr(path[-1], "key", None) if path else None
            param = one.params.get(name) if isinstance(name, str) else None
            alike = param is not None and np.shape(param) == np.shape(x)
            return NamedSharding(mesh, specs[join(of, str(name))] if alike else PartitionSpec())

        return jax.tree_util.tree_map_with_path(leaf, one)

    if not models:
        leaves = [NamedSharding(mesh, specs[name]) for name in params]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)
    names = iter(models)
    return jax.tree.map(
        lambda part: of_model(next(names), part) if is_state(part) else everywhere(mesh),
        state,
        is_leaf=is_state,
    )


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, spec: Any) -> PartitionSpec:
    if isinstance(spec, str):
        devices = mesh.shape[ROWS]
        divided = [n if n % devices == 0 else 0 for n in shape]
        if not any(divided):
            return PartitionSpec()
        largest = divided.index(max(divided))
        return PartitionSpec(*[None] * largest, ROWS)
    if len(spec) > len(shape):
        raise ValueError(
            f"sharding: {name} has shape {shape}, and {tuple(spec)} names {len(spec)} axes"
        )
    for size, along in zip(shape, spec, strict=False):
        axes = () if along is None else (along,) if isinstance(along, str) else along
        for axis in axes:
            if axis not in mesh.axis_names:
                known = ", ".join(map(repr, mesh.axis_names))
                raise ValueError(f"sharding: {name}: {axis!r}; the axes of the mesh are {known}")
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            raise ValueError(
                f"sharding: {name} has shape {shape}, of which an axis of {size} cannot be cut "
                f"into {parts} equal parts along {along!r}"
            )
    return PartitionSpec(*spec)
