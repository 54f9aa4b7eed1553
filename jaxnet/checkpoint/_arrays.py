"""The arrays of a checkpoint: copied part by part, written as safetensors, read back.

An array that is spread over several devices is never put together: each device's part is an
entry of the file, with the index at which the part begins. Reading assembles the parts of
the sharding that is asked for from the parts in the file, so the two shardings may differ.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._arrays import on_devices
from jaxnet._processes import is_first

# safetensors' codes by numpy's names; numbers of any other dtype are written as bytes.
_CODES = {
    "bool": "BOOL",
    **{f"uint{n}": f"U{n}" for n in (8, 16, 32, 64)},
    **{f"int{n}": f"I{n}" for n in (8, 16, 32, 64)},
    **{f"float{n}": f"F{n}" for n in (16, 32, 64)},
    "bfloat16": "BF16",
    "complex64": "C64",
}

Part = tuple[list[int], np.ndarray]
"""The index at which a part begins in its array, one number an axis, and its elements."""


class DamagedError(ValueError):
    """A checkpoint exists, but its files are missing or are not as they were written."""


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def description(leaf: Any) -> dict[str, Any]:
    """The shape and dtype of a leaf, as `about.json` has them.

    For random keys they are those of the keys' data, and "key" names the generator, such as
    "threefry2x32"; for any other array "key" is None.
    """
    kind = None
    if _is_key(leaf):
        kind = str(jax.random.key_impl(leaf))
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return {"shape": list(array.shape), "dtype": str(array.dtype), "key": kind}


def text_of(described: Mapping[str, Any]) -> str:
    """A `description` as error messages show it: "float32[4, 3]"."""
    return f"{described['key'] or described['dtype']}{described['shape']}"


def parts_of(name: str, leaf: Any) -> list[Part]:
    """Copies of the parts of a leaf on the host, one for each device that has its own part.

    They are copies because the next training step may reuse the array's memory (it is
    donated) while the checkpoint is written in the background.

    Args:
        name: The dotted name of the leaf, for errors.
        leaf: An array of JAX or numpy, a number, or random keys.

    Of several processes each gets the parts on its own devices, and what is no array of JAX is
    the first one's.

    Raises:
        TypeError: The leaf contains Python objects.
    """
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not isinstance(leaf, jax.Array):
        array = np.array(leaf, copy=True, order="C")
        if array.dtype.hasobject:
            raise TypeError(f"{name}: {type(leaf).__name__}; accepted are arrays and numbers")
        return [([0] * array.ndim, array)] if is_first() else []
    if leaf.is_fully_addressable and not is_first():
        return []  # every process has it
    # Several devices may have copies of one part, of which one is enough.
    shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    # All transfers are started before the first is waited for, so that they overlap.
    for shard in shards:
        shard.data.copy_to_host_async()
    return [
        ([where.start or 0 for where in shard.index], np.array(shard.data, copy=True, order="C"))
        for shard in shards
    ]


def writers_of(leaves: Iterable[Any]) -> set[int]:
    """The numbers of the processes that have parts of some leaves to write, the first included."""
    found = {0}
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            shards = (jax.random.key_data(leaf) if _is_key(leaf) else leaf).global_shards
            found |= {shard.device.process_index for shard in shards if shard.replica_id == 0}
    return found


def check_described(name: str, described: Any) -> None:
    """Refuses what `about.json` says of an array if it is not as `write_parts` writes it.

    Checksums show damage, but not that another program wrote a file and its checksum.

    Args:
        name: The name of the array.
        described: Its `description`, with the entries of its parts.

    Raises:
        ValueError: Something is missing, or is not of its kind.
    """
    match described:
        case {"shape": list(shape), "dtype": str(dtype), "key": str() | None, "parts": list(parts)}:
            if not _are_counts(shape) or np.dtype(dtype).hasobject:
                raise ValueError(f"{name} has shape {shape} and dtype {dtype}")
        case _:
            raise ValueError(f"{name} is not described as an array")
    for part in parts:
        match part:
            case {"file": str(file), "entry": str(), "start": list(start), "shape": list(size)}:
                here = Path(file).name == file  # a file in the checkpoint's own folder
                if here and _are_counts([*start, *size]) and len(start) == len(size) == len(shape):
                    continue
        raise ValueError(f"{name} has a part that is not described as one")
    if sum(math.prod(part["shape"]) for part in parts) != math.prod(shape):
        raise ValueError(f"the parts of {name} are not the whole")


def _are_counts(numbers: list[Any]) -> bool:
    return all(type(number) is int and 0 <= number < 2**63 for number in numbers)


def write_parts(path: Path, parts: Mapping[str, list[Part]]) -> dict[str, list[dict[str, Any]]]:
    """Writes all parts into a new `.safetensors` file.

    Args:
        path: Path of the file, which must not exist.
        parts: The parts of each array, by the array's name.

    Returns:
        For each array the entries of the file that contain its parts.
    """
    header: dict[str, Any] = {}
    entries: dict[str, list[dict[str, Any]]] = {}
    end = 0
    for name, array_parts in parts.items():
        entries[name] = []
        for number, (start, array) in enumerate(array_parts):
            entry = name if len(array_parts) == 1 else f"{name}@{number}"
            while entry in header:  # an array of the state may have this very name
                entry += "@"
            code, shape = _CODES.get(str(array.dtype)), list(array.shape)
            # about.json has the true dtype of bytes, so nothing is lost.
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
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array_parts in parts.values():
            for _, array in array_parts:
                file.write(array.reshape(-1).view(np.uint8).data)
    return entries


class Reader:
    """Reads the arrays of one checkpoint, whose checksums have been compared before.

    Args:
        folder: Folder of the checkpoint.
        arrays: For each array its `description` and, under "parts", the entries of its parts.
    """

    def __init__(self, folder: Path, arrays: Mapping[str, Any]) -> None:
        self._folder, self._arrays = folder, arrays
        self._files: dict[str, tuple[dict[str, Any], np.ndarray]] = {}

    def host(self, name: str) -> np.ndarray:
        """A whole array as numpy's, in memory of its own."""
        shape = self._arrays[name]["shape"]
        return self._region(name, tuple(slice(0, size) for size in shape))

    def like(self, name: str, leaf: Any) -> Any:
        """An array in the form of another leaf: its type and its devices.

        Args:
            name: The name of the array in the checkpoint.
            leaf: A Python number, an array of numpy or JAX, or a `jax.ShapeDtypeStruct`.
        """
        if not hasattr(leaf, "dtype"):
            return type(leaf)(self.host(name).item())
        if isinstance(leaf, np.ndarray | np.generic):
            array = self.host(name)
            return array if isinstance(leaf, np.ndarray) else array[()]
        sharding, kind = leaf.sharding, self._arrays[name]["key"]
        if kind is None and sharding is not None and len(sharding.device_set) > 1:
            # Each device gets only its own part: the whole array may not fit on one of them.
            return jax.make_array_from_callback(
                leaf.shape, sharding, lambda where: jnp.array(self._region(name, where or ()))
            )
        if sharding is None:
            return self._on_a_device(name)
        if getattr(leaf, "committed", True):
            return on_devices(self._on_a_device(name), sharding)
        # An uncommitted array, which JAX moves to the devices of the arrays it is used with,
        # has to come back uncommitted, or a step on other devices would refuse it.
        with jax.default_device(next(iter(sharding.device_set))):
            return self._on_a_device(name)

    def _on_a_device(self, name: str) -> jax.Array:
        """An array, or random keys, on the default device."""
        # jnp.array copies, where device_put on a CPU may share numpy's memory.
        array, kind = jnp.array(self.host(name)), self._arrays[name]["key"]
        return array if kind is None else jax.random.wrap_key_data(array, impl=kind)

    def _region(self, name: str, where: tuple[slice, ...]) -> np.ndarray:
        """A rectangular region of an array, filled from all parts that overlap with it."""
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
        """A part as a view of its file, which is mapped into memory and read where needed."""
        if part["file"] not in self._files:
            content: np.ndarray = np.memmap(self._folder / part["file"], np.uint8, "r")
            length = int.from_bytes(content[:8].tobytes(), "little")
            header = json.loads(content[8 : 8 + length].tobytes())
            self._files[part["file"]] = header, content[8 + length :]
        header, content = self._files[part["file"]]
        low, high = header[part["entry"]]["data_offsets"]
        return np.ndarray(part["shape"], dtype, content[low:high])
