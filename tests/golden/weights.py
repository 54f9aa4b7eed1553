"""Writes tests/golden/weights/*.pt with torch: python -m tests.golden.weights

`VALUES` is what each file holds, in numpy; the script turns it into tensors. Each
value is saved in both of torch's formats, and once more by hand in big-endian order.
"""

import io
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.weights._torch_types import DTYPES

FOLDER = Path(__file__).parent / "weights"


def _checkpoint() -> dict[str, Any]:
    rng = np.random.RandomState(0)
    model = OrderedDict(
        {
            "0.weight": rng.standard_normal((4, 3)).astype(np.float32),
            "0.bias": rng.standard_normal(4).astype(np.float32),
            "1.running_mean": np.zeros(4, np.float32),
            "1.num_batches_tracked": np.array(7),
        }
    )
    vars(model)["_metadata"] = OrderedDict(
        {"": {"version": 1}, "0": {"version": 1}, "1": {"version": 2}}
    )
    moments = {"step": np.array(2, np.float32), "exp_avg": np.ones((4, 3), np.float32)}
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "amsgrad": False, "foreach": None, "params": [0]}
    return {
        "model": model,
        "optimizer": {"state": {0: moments}, "param_groups": [group]},
        "scheduler": {"milestones": Counter({3: 1, 5: 2}), "_last_lr": [0.1]},
        "epoch": 3,
        "plain": [True, -1, 300, 2**31, -(2**70), 1e300, "ü", b"\x00\xff", b"", 1 + 2j, set(), {1}],
        ("a", 1): {"nested": [[], (), {}, ((),)]},
    }


def _dtypes() -> dict[str, Any]:
    arrays = {}
    for name, dtype in DTYPES.items():
        arrays[name] = np.array([[0, 1, 2], [1, 4, 0.5]]).astype(dtype)
        if dtype.kind == "c":
            arrays[name][0, 0] = -3j
    return arrays


def _views() -> dict[str, Any]:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    half = np.arange(6, dtype=np.uint16).reshape(2, 3)
    return {
        "base": base,
        "same": base,
        "transposed": base.transpose(2, 0, 1),
        "row": base[1],
        "column": base[:, 1, ::2],
        "expanded": np.broadcast_to(base[0, 0, :1], (5, 1)),
        "scalar": base[1, 2, 3, ...],
        "none": base[:0],
        "empty": np.zeros((0, 3), np.int64),
        "half": half,
        "half_transposed": half.T,
    }


VALUES = {"checkpoint": _checkpoint(), "dtypes": _dtypes(), "views": _views()}


def tensors(value: Any, known: dict[int, Any] | None = None) -> Any:
    """The value with a tensor for each array; views stay views of one storage."""
    import torch

    known = {} if known is None else known
    if isinstance(value, np.ndarray):
        base = value
        while isinstance(base.base, np.ndarray):
            base = base.base
        if id(base) not in known:
            name = next(name for name, dtype in DTYPES.items() if dtype == base.dtype)
            flat = np.ascontiguousarray(base).reshape(-1)
            widened = flat if flat.dtype.isbuiltin == 1 else flat.astype(np.float32)
            known[id(base)] = torch.tensor(widened).to(getattr(torch, name))
        if value.size == 0:
            return torch.zeros(value.shape, dtype=known[id(base)].dtype)
        place = (value.ctypes.data - base.ctypes.data) // value.itemsize
        strides = [step // value.itemsize for step in value.strides]
        return known[id(base)].as_strided(value.shape, strides, place)
    if isinstance(value, dict):
        made = type(value)()
        for key, part in value.items():
            made[key] = tensors(part, known)
        if isinstance(value, OrderedDict):
            vars(made).update(vars(value))
        return made
    if isinstance(value, list | tuple):
        return type(value)(tensors(part, known) for part in value)
    return value


def big_endian(data: bytes, widths: list[int]) -> bytes:
    """A zip of torch.save as a big-endian machine writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            name = info.filename.split("/", 1)[1]
            if name == "byteorder":
                content = b"big"
            elif name.startswith("data/"):
                width = widths[int(name.removeprefix("data/"))]
                content = np.frombuffer(content, f"u{width}").byteswap().tobytes()
            new.writestr(zipfile.ZipInfo(info.filename), content)
    return out.getvalue()


def main() -> None:
    import torch

    FOLDER.mkdir(exist_ok=True)
    for name, value in VALUES.items():
        made = tensors(value)
        for form, is_zip in (("zip", True), ("legacy", False)):
            file = io.BytesIO()
            torch.save(made, file, _use_new_zipfile_serialization=is_zip)
            (FOLDER / f"{name}.{form}.pt").write_bytes(file.getvalue())
    dtypes = [array.dtype for array in VALUES["dtypes"].values()]
    widths = [dtype.itemsize // (2 if dtype.kind == "c" else 1) for dtype in dtypes]
    data = big_endian((FOLDER / "dtypes.zip.pt").read_bytes(), widths)
    (FOLDER / "dtypes.big.pt").write_bytes(data)
    # Names that newer files use for tensors with attributes and for parameters.
    parameter = torch.nn.Parameter(torch.ones(2))
    marked, marked_parameter = torch.ones(3), torch.nn.Parameter(torch.ones(4))
    marked.note, marked_parameter.note = "n", "n"  # type: ignore[attr-defined]
    wave = torch.tensor([1 + 2j, 3 - 4j])
    rest = {
        "parameter": parameter,
        "marked": marked,
        "marked_parameter": marked_parameter,
        "conjugate": wave.conj(),
        "negative": wave.clone().conj().imag,
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "dtype": torch.bfloat16,
        "storage": torch.arange(3).untyped_storage(),
        "bytes": bytearray(b"ab"),
    }
    torch.save(rest, FOLDER / "rest.zip.pt")
    torch.save(rest, FOLDER / "rest.legacy.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
