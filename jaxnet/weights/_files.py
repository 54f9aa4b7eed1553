"""Weights files: `.safetensors`, and PyTorch's `.pt` without PyTorch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet._arrays import DTYPES, as_numpy, is_array
from jaxnet._files import replacing
from jaxnet.weights._errors import FileError
from jaxnet.weights._torch_reader import read_legacy, read_zip
from jaxnet.weights._torch_types import torch_name
from jaxnet.weights._torch_writer import write_torch

_TORCH_SUFFIXES = (".pt", ".pth", ".pkl")
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


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a weights file; its content says which kind it is.

    Nothing that a file names is run. Tensors come back as numpy arrays (bfloat16
    and float8 as ml_dtypes have them) in the containers they were saved in.

    Args:
        path: a `.safetensors` file, or what `torch.save` wrote: the zip archive of
            torch 1.6 and later, or the older form.

    Returns:
        What was saved: a dict of arrays for a state_dict, nested for a checkpoint.
        Tensors that shared one storage share memory. A parameter comes back as its
        array, torch.Size as a tuple, torch.device as its name, torch.dtype as
        numpy's dtype; a state_dict keeps its attribute `_metadata`.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no file at the path.
        FileError: (a ValueError) the file is damaged, of another kind, or names
            something that a weights file has no need of.

    >>> import tempfile, jaxnet.weights, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jaxnet.weights.save(folder + "/a.pt", {"epoch": 3, "w": np.float32([1, 2])})
    ...     jaxnet.weights.load(folder + "/a.pt")
    {'epoch': 3, 'w': array([1., 2.], dtype=float32)}
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path: {path} is a folder; give a weights file")
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {path}")
    if not path.is_file():  # reading a pipe would wait for someone to write to it
        raise FileError(f"{path}: it is no file but a device, a pipe or a socket")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if head[:4] in (b"PK\3\4", b"PK\5\6"):
                return read_zip(file)
            if head[:1] == b"\x80":
                return read_legacy(file)
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
    """Writes a weights file, wholly or not at all.

    Args:
        path: its suffix names the form. `.safetensors`: a flat dict of arrays. `.pt`,
            `.pth`, `.pkl`: what `torch.load(path, weights_only=True)` opens.
        d: for torch's form arrays and plain values (None, bool, int, float, complex,
            str, bytes, dtypes) in nested dict, OrderedDict, list, tuple and set. Arrays
            may be numpy's, JAX's or torch's; numpy's scalars are written as arrays of no
            axes. Arrays that lie in the same memory share one storage in torch's form.

    Raises:
        TypeError, ValueError: `d` holds what the form cannot; the message names the key.
        FileNotFoundError, IsADirectoryError: there is no such folder, or it is one.
    """
    path = Path(os.path.realpath(path))  # a link stays, its target is replaced
    if path.is_dir():
        raise IsADirectoryError(f"path: {path} is a folder; give a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {path.parent}")
    if path.suffix == ".safetensors":
        arrays = _flat_arrays(d)
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


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        # The numpy side of the library knows no float8, so its raw view is used.
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
        # The library writes memory as it lies: rows first, and of this byte order.
        arrays[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    return arrays
