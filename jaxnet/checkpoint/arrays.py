"""The arrays of a checkpoint: by name, checked against what is asked for, in Orbax's files."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.names import named_leaves as named_arrays

__all__ = [
    "DamagedError",
    "check_same",
    "facts_of",
    "from_host",
    "named_arrays",
    "one_line",
    "read_arrays",
    "to_host",
    "write_arrays",
]


class DamagedError(ValueError):
    """A checkpoint that is there but cannot be read back as it was written."""


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_host(leaf: Any) -> tuple[np.ndarray, str | None]:
    """A copy of our own, which a donated buffer cannot change, and the key's kind."""
    kind = None
    if _is_key(leaf):
        kind, leaf = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
    return np.array(leaf, copy=True, order="C"), kind


def facts_of(array: Any, kind: str | None) -> dict[str, Any]:
    """Shape, dtype, and for random keys their kind."""
    return {"shape": list(array.shape), "dtype": str(array.dtype), "key": kind}


def _wanted_facts(leaf: Any) -> dict[str, Any]:
    if _is_key(leaf):
        kind = str(jax.random.key_impl(leaf))
        return facts_of(jax.eval_shape(jax.random.key_data, leaf), kind)
    return facts_of(leaf if hasattr(leaf, "dtype") else np.asarray(leaf), None)


def from_host(array: np.ndarray, facts: dict[str, Any], leaf: Any) -> Any:
    """The array as a leaf of the kind, and at the place, that `leaf` is."""
    if not hasattr(leaf, "dtype"):
        return type(leaf)(array.item())
    if isinstance(leaf, np.ndarray | np.generic):
        return array if isinstance(leaf, np.ndarray) else array[()]
    if facts["key"] is not None:
        key = jax.random.wrap_key_data(jnp.array(array), impl=facts["key"])
        return jax.device_put(key, leaf.sharding) if leaf.sharding is not None else key
    # jnp.array copies: a device_put on the CPU may keep numpy's memory as its own.
    placed = jnp.array(array)
    return jax.device_put(placed, leaf.sharding) if leaf.sharding is not None else placed


def check_same(path: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError with every array that differs from the one asked for."""

    def printed(facts: dict[str, Any]) -> str:
        return f"{facts['key'] or facts['dtype']}{facts['shape']}"

    asked = {name: _wanted_facts(leaf) for name, leaf in wanted.items()}
    lines = [f"not in the checkpoint: {name}" for name in asked if name not in held]
    lines += [f"only in the checkpoint: {name}" for name in held if name not in asked]
    for name, facts in asked.items():
        there = held.get(name)
        if there and {k: there[k] for k in facts} != facts:
            lines.append(f"{name}: {printed(there)} in the checkpoint, {printed(facts)} asked for")
    if lines:
        raise ValueError(
            f"{path}: a checkpoint of another model or optimizer:\n  "
            + "\n  ".join(lines)
            + "\ngive the state that it was saved from, or another folder"
        )


def write_arrays(path: Path, held: dict[str, np.ndarray]) -> None:
    """Writes arrays into a new folder."""
    import orbax.checkpoint as ocp

    # Orbax takes no array without elements; the manifest says all about those.
    tree = {f"{i:05d}": array for i, array in enumerate(held.values()) if array.size}
    if tree:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
            writer.save(path, args=ocp.args.PyTreeSave(tree))


def read_arrays(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Reads them back, each with the facts that the manifest states, or DamagedError."""
    import orbax.checkpoint as ocp

    keys = {f"{i:05d}": name for i, name in enumerate(manifest)}
    stored = {key for key, name in keys.items() if 0 not in manifest[name]["shape"]}
    how = ocp.RestoreArgs(restore_type=np.ndarray)
    tree: dict[str, Any] = {}
    if stored:
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                args = ocp.args.PyTreeRestore(restore_args=dict.fromkeys(sorted(stored), how))
                tree = reader.restore(path, args=args)
        except Exception as error:  # whatever Orbax and tensorstore make of broken files
            raise DamagedError(f"{path.parent}: damaged: {one_line(error)}") from error
    held = {}
    for key, name in keys.items():
        facts = manifest[name]
        array = tree.get(key) if key in stored else np.zeros(facts["shape"], facts["dtype"])
        if array is None or facts_of(array, facts["key"]) != facts:
            raise DamagedError(f"{path.parent}: damaged: {name} is not what was saved")
        held[name] = array
    return held


def one_line(error: BaseException) -> str:
    """An error's text without line ends, not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__
