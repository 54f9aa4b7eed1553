"""Weights files: `.safetensors`, and PyTorch's `.pt` without PyTorch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxnet._arrays import DTYPES, as_numpy, is_array
from jaxnet._files import replacing
from jaxnet.weights._errors import FileError
from jaxnet.weights._torch_reader import read_legacy, read_zip
from jaxnet.weights._torch_types import torch_name
from jaxnet.weights._torch_unknown import TensorsUnpickler
from jaxnet.weights._torch_unpickler import Unpickler
from jaxnet.weights._torch_writer import write_torch

_TORCH_SUFFIXES = (".pt", ".pth", ".pkl")
_INDEX = ".index.json"
_SAFETENSORS_CODES = {
    "BOOL": "bool",
    **{f"U{n}": f"uint{n}" for n in (8, 16, 32, 64)},
    **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)},
    "BF16": "bfloat16",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


def load(path: str | os.PathLike[str], *, only: Literal["tensors"] | None = None) -> Any:
    """Reads a weights file, of PyTorch or of safetensors, without PyTorch.

    The content of the file decides which of the two it is, not its suffix. Unlike
    `torch.load(..., weights_only=False)`, nothing that the file names is run. Tensors come
    back as numpy arrays (bfloat16 and float8 in the dtypes of ml_dtypes), in the containers
    that they were saved in.

    Args:
        path: Path of a `.safetensors` file, of a file that `torch.save` wrote (the zip archive
            of torch 1.6 and later, or the older format), or of an index such as
            `model.safetensors.index.json`, which names the files beside it that together have
            the weights.
        only: "tensors" reads a file of torch.save that holds objects of other classes too, such
            as a configuration or a whole model: what is not an array is left out. None refuses
            such a file, so that nothing is missed in silence.

    Returns:
        The value that was saved: a dict of arrays for a state_dict, a nested dict for a
        checkpoint. Tensors that shared one storage share memory. A parameter comes back as
        its array, a torch.Size as a tuple, a torch.device as its name, a torch.dtype as
        numpy's dtype; a state_dict keeps its attribute `_metadata`. Arrays and numbers of
        numpy, `argparse.Namespace`, `types.SimpleNamespace`, `collections.defaultdict` and
        paths come back as they are, a path in the form of this system.

        With `only="tensors"` the arrays alone, in dicts and lists: an object is a dict of its
        attributes, a torch.nn.Module is its state_dict, None stands in a list for what is no
        array, and a dict has only the keys with arrays.

    Raises:
        FileNotFoundError: There is no file at the path.
        IsADirectoryError: The path is that of a folder.
        FileError: (a ValueError) The file is damaged, of another kind, or names something
            that a weights file does not need.

    >>> import tempfile, jaxnet.weights, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jaxnet.weights.save(folder + "/a.pt", {"epoch": 3, "w": np.float32([1, 2])})
    ...     jaxnet.weights.load(folder + "/a.pt")
    {'epoch': 3, 'w': array([1., 2.], dtype=float32)}
    """
    if only not in (None, "tensors"):
        raise ValueError(f'only: {only!r}; accepted are None and "tensors"')
    path = Path(path)
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if _looks_like_weights(file))
        there = f": {', '.join(inside[:5])} in it" if inside else ""
        raise IsADirectoryError(f"path: {path} is a folder; give a weights file{there}")
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {path}")
    if not path.is_file():  # reading a pipe would wait for someone to write to it
        raise FileError(f"{path}: it is no file but a device, a pipe or a socket")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if head[:4] in (b"PK\3\4", b"PK\5\6"):
                return read_zip(file, TensorsUnpickler if only else Unpickler)
            if head[:1] == b"\x80":
                return read_legacy(file, TensorsUnpickler if only else Unpickler)
        # The length of a header can begin as a text does, but has bytes of zero.
        if head.lstrip()[:1] == b"{" and b"\0" not in head[:8]:
            return _read_parts(path, only)
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if head[257:262] == b"ustar":
            raise FileError("it is a tar file, as torch wrote before 0.1.10; save it again")
        if not head:
            raise FileError("it is empty")
        raise FileError("it is neither a file of torch.save nor a .safetensors file")
    except FileError as fault:
        raise FileError(f"{path}: {fault}") from None


def save(path: str | os.PathLike[str], d: Any) -> None:
    """Writes a weights file completely, or leaves the disk as it was.

    Args:
        path: Path of the file. The suffix decides the format: `.safetensors` takes a flat
            dict of arrays; `.pt`, `.pth` and `.pkl` are PyTorch's, which
            `torch.load(path, weights_only=True)` opens.
        d: The value to be written. PyTorch's format takes arrays and plain values (None,
            bool, int, float, complex, str, bytes, dtypes) in nested dicts, OrderedDicts,
            lists, tuples and sets. Arrays may be numpy's, JAX's or torch's; numpy's scalars
            are written as arrays without axes. Arrays that overlap in memory share one
            storage in PyTorch's format.

    Raises:
        TypeError, ValueError: The format cannot represent a value in `d`; the message names
            the key.
        FileNotFoundError: The folder of the file does not exist.
        IsADirectoryError: The path is that of a folder.
    """
    path = Path(os.path.realpath(path))  # a symbolic link stays, its target is replaced
    if path.is_dir():
        raise IsADirectoryError(f"path: {path} is a folder; give a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {path.parent}")
    if path.suffix == ".safetensors":
        arrays = _flat_arrays(d)
        # The arrays were checked before a file is made, so that an error touches no file.
        with replacing(path) as temporary:
            _write_safetensors(temporary, arrays)
    elif path.suffix in _TORCH_SUFFIXES:
        with replacing(path) as temporary, open(temporary, "r+b") as file:
            write_torch(file, d)
    else:
        raise ValueError(
            f"path: {path.name} has suffix {path.suffix!r}; accepted are .safetensors, "
            + ", ".join(_TORCH_SUFFIXES)
        )


def _looks_like_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", *_TORCH_SUFFIXES) or path.name.endswith(_INDEX)


def _read_parts(index: Path, only: Literal["tensors"] | None) -> dict[str, np.ndarray]:
    """The arrays of all files that an index names, in its order.

    Raises:
        FileError: It is no index, or a file of it is missing, damaged or has other names.
    """
    try:
        content = json.loads(index.read_bytes())
    except ValueError as error:
        raise FileError(f"it is no sound JSON: {error!s:.100}") from None
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(type(file) is str for file in files.values()):
        raise FileError("it is JSON without a weight_map of names and files, so no index")
    parts: dict[str, dict[str, np.ndarray]] = {}
    for file in dict.fromkeys(files.values()):
        if Path(file).name != file or file in ("", ".", ".."):
            raise FileError(f"it names {file[:100]!r}; accepted are files in its own folder")
        part = index.parent / file
        if not part.is_file():
            raise FileError(f"it names {file}, which is not beside it; fetch all of its files")
        if part.suffix == ".json":
            raise FileError(f"it names {file}, which is no weights file")
        found = load(part, only=only)
        if not isinstance(found, dict):
            raise FileError(f"{file} holds no dict of arrays")
        named = {name for name, where in files.items() if where == file}
        if len(named) != len(found) or named != found.keys():
            missing = ascii(next(iter(sorted(named - found.keys(), key=str)), None))
            more = ascii(next(iter(sorted(found.keys() - named, key=str)), None))
            raise FileError(
                f"{file} has other names than it says: {missing[:100]} is missing, {more[:100]} "
                "is unexpected"
            )
        parts[file] = found
    return {name: parts[file][name] for name, file in files.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        # safetensors' numpy functions know no float8, so the raw bytes are read.
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise FileError(f"it is no sound .safetensors file: {error!s:.300}") from None
    arrays: dict[str, np.ndarray] = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_CODES:
            raise FileError(
                f"tensor {name[:100]!r} is of {entry['dtype']}, which numpy does not have"
            )
        dtype = DTYPES[_SAFETENSORS_CODES[entry["dtype"]]].newbyteorder("<")
        try:
            arrays[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
        except ValueError as error:  # more axes than numpy has, or longer ones
            raise FileError(f"tensor {name[:100]!r}: {error}") from None
    return arrays


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(dict(arrays), path, metadata={"format": "pt"})


def _flat_arrays(d: Any) -> dict[str, np.ndarray]:
    if not isinstance(d, Mapping):
        raise TypeError(f"d: {type(d).__name__}; a .safetensors file holds a dict of arrays")
    arrays = {}
    for name, value in d.items():
        if type(name) is not str or name == "__metadata__":
            raise TypeError(f"d: key {name!r} cannot be written; .safetensors takes names")
        if not is_array(value):
            raise TypeError(
                f"d[{name!r}]: {type(value).__name__} cannot be written; .safetensors holds "
                "only arrays, not nested; .pt holds the rest"
            )
        try:
            array = as_numpy(value)
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"d[{name!r}]: {error}") from None
        if torch_name(array.dtype) not in _SAFETENSORS_CODES.values():
            raise TypeError(f"d[{name!r}]: .safetensors has no dtype {array.dtype}")
        # safetensors writes the memory unchanged, so it must be contiguous, with the last
        # axis innermost, and in this machine's byte order.
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    return arrays
