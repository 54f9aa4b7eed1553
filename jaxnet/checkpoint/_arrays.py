"""The arrays of a checkpoint: copied part by part, written as safetensors, read back.

An array that is spread over several devices is never put together: each device's part is an
entry of the file, with the place where it begins. Reading makes the parts that the asked-for
sharding wants out of the parts that are there, so the two need not be the same.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# numpy's name of a dtype -> safetensors' code; others are written as their bytes.
_CODES = {
    "bool": "BOOL",
    **{f"uint{n}": f"U{n}" for n in (8, 16, 32, 64)},
    **{f"int{n}": f"I{n}" for n in (8, 16, 32, 64)},
    **{f"float{n}": f"F{n}" for n in (16, 32, 64)},
    "bfloat16": "BF16",
    "complex64": "C64",
}

Part = tuple[list[int], np.ndarray]
"""Where a part begins in its array, one index for each axis, and its elements."""


class DamagedError(ValueError):
    """A checkpoint that is there but cannot be read back as it was written."""


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def description(leaf: Any) -> dict[str, Any]:
    """Shape and dtype of a leaf; of random keys those of their data, and their kind."""
    kind = None
    if _is_key(leaf):
        kind = str(jax.random.key_impl(leaf))
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return {"shape": list(array.shape), "dtype": str(array.dtype), "key": kind}


def text_of(described: Mapping[str, Any]) -> str:
    """The same for an error message: "float32[4, 3]"."""
    return f"{described['key'] or described['dtype']}{described['shape']}"


def parts_of(name: str, leaf: Any) -> list[Part]:
    """Copies of the parts of a leaf, one for each device that holds a part of its own.

    They are copies, since the next training step may be given the memory of the array.

    Raises:
        TypeError: It holds Python objects.
        ValueError: Other processes hold parts of the array.
    """
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not isinstance(leaf, jax.Array):
        array = np.array(leaf, copy=True, order="C")
        if array.dtype.hasobject:
            raise TypeError(f"{name}: {type(leaf).__name__}; accepted are arrays and numbers")
        return [([0] * array.ndim, array)]
    if not leaf.is_fully_addressable:
        raise ValueError(
            f"{name}: other processes hold parts of this array; only a state whose arrays lie "
            "on devices of this process can be saved"
        )
    # Of the copies that several devices hold of one part, one is enough.
    shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    for shard in shards:
        shard.data.copy_to_host_async()
    return [
        ([where.start or 0 for where in shard.index], np.array(shard.data, copy=True, order="C"))
        for shard in shards
    ]


def write_parts(path: Path, parts: Mapping[str, list[Part]]) -> dict[str, list[dict[str, Any]]]:
    """Writes all parts into a new `.safetensors` file.

    Returns:
        For each array the entries of the file that hold its parts.
    """
    header: dict[str, Any] = {}
    entries: dict[str, list[dict[str, Any]]] = {}
    end = 0
    for name, pieces in parts.items():
        entries[name] = []
        for number, (start, array) in enumerate(pieces):
            entry = name if len(pieces) == 1 else f"{name}@{number}"
            while entry in header:  # an array may be called so too
                entry += "@"
            code, shape = _CODES.get(str(array.dtype)), list(array.shape)
            if code is None:
                code, shape = "U8", [*shape, array.dtype.itemsize]
            header[entry] = {
                "dtype": code,
                "shape": shape,
                "data_offsets": [end, end := end + array.nbytes],
            }
            entries[name].append(
                {"file": path.name, "entry": entry, "start": start, "shape": list(array.shape)}
            )
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for pieces in parts.values():
            for _, array in pieces:
                file.write(array.reshape(-1).view(np.uint8).data)
    return entries


class Reader:
    """Reads the arrays of one checkpoint, whose files are known to be as they were written.

    Args:
        folder: Folder of the checkpoint.
        arrays: For each array its description and the entries of its parts.
    """

    def __init__(self, folder: Path, arrays: Mapping[str, Any]) -> None:
        self._folder, self._arrays = folder, arrays
        self._files: dict[str, tuple[dict[str, Any], np.ndarray]] = {}

    def host(self, name: str) -> np.ndarray:
        """A whole array, in memory of its own."""
        shape = self._arrays[name]["shape"]
        return self._region(name, tuple(slice(0, size) for size in shape))

    def like(self, name: str, leaf: Any) -> Any:
        """An array as a leaf of the kind, and on the devices, that `leaf` is."""
        if not hasattr(leaf, "dtype"):
            return type(leaf)(self.host(name).item())
        if isinstance(leaf, np.ndarray | np.generic):
            array = self.host(name)
            return array if isinstance(leaf, np.ndarray) else array[()]
        sharding, kind = leaf.sharding, self._arrays[name]["key"]
        if kind is None and sharding is not None and len(sharding.device_set) > 1:
            # Each device gets its part alone; the whole array is never on one of them.
            return jax.make_array_from_callback(
                leaf.shape, sharding, lambda where: jnp.array(self._region(name, where or ()))
            )
        if sharding is None:
            return self._on_a_device(name)
        if getattr(leaf, "committed", True):
            return jax.device_put(self._on_a_device(name), sharding)
        # One that JAX may still move to the devices of the arrays that it is used with.
        with jax.default_device(next(iter(sharding.device_set))):
            return self._on_a_device(name)

    def _on_a_device(self, name: str) -> jax.Array:
        """An array, or random keys, on the default device."""
        # jnp.array copies: device_put on a CPU may keep numpy's memory as its own.
        array, kind = jnp.array(self.host(name)), self._arrays[name]["key"]
        return array if kind is None else jax.random.wrap_key_data(array, impl=kind)

    def _region(self, name: str, where: tuple[slice, ...]) -> np.ndarray:
        """A box out of an array, filled from all parts that reach into it."""
        described = self._arrays[name]
        bounds = [
            cut.indices(size)[:2] for cut, size in zip(where, described["shape"], strict=True)
        ]
        result = np.empty([high - low for low, high in bounds], np.dtype(described["dtype"]))
        filled = 0
        for part in described["parts"]:
            start, shape = part["start"], part["shape"]
            common = [
                (max(low, begin), min(high, begin + size))
                for (low, high), begin, size in zip(bounds, start, shape, strict=True)
            ]
            if any(low >= high for low, high in common):
                continue
            source = tuple(slice(a - s, b - s) for (a, b), s in zip(common, start, strict=True))
            target = tuple(
                slice(a - s, b - s) for (a, b), (s, _) in zip(common, bounds, strict=True)
            )
            result[target] = self._part(part, result.dtype)[source]
            filled += math.prod(b - a for a, b in common)
        if filled != result.size:
            raise DamagedError(f"{self._folder}: damaged: {name} is not there as a whole")
        return result

    def _part(self, part: Mapping[str, Any], dtype: np.dtype) -> np.ndarray:
        """A part as it lies in its file; only what is looked at is read from the disk."""
        if part["file"] not in self._files:
            content: np.ndarray = np.memmap(self._folder / part["file"], np.uint8, "r")
            length = int.from_bytes(content[:8].tobytes(), "little")
            header = json.loads(content[8 : 8 + length].tobytes())
            self._files[part["file"]] = header, content[8 + length :]
        header, content = self._files[part["file"]]
        low, high = header[part["entry"]]["data_offsets"]
        return np.ndarray(part["shape"], dtype, content[low:high])
