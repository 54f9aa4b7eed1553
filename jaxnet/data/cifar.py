"""CIFAR-10's own archive: pickled batches in a tar file."""

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_archive"]


def read_archive(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Reads `cifar-10-python.tar.gz`: uint8 (N, 32, 32, 3), int32 (N,), class names."""
    wanted = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    found: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name in [*wanted, "batches.meta"]:
                    raw = archive.extractfile(member)
                    if raw is None:
                        raise KeyError(f"{name} is no file")
                    found[name] = _Batch(raw, encoding="bytes").load()
        batches = [found[name] for name in wanted]
        pixels = np.concatenate([batch[b"data"] for batch in batches])
        labels = np.concatenate([batch[b"labels"] for batch in batches])
        classes = tuple(name.decode() for name in found["batches.meta"][b"label_names"])
    except (OSError, EOFError, KeyError, tarfile.TarError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: damaged CIFAR-10 archive: {error!r}; fetch it again") from error
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, C)
    return np.ascontiguousarray(images), labels.astype(np.int32), classes


class _Batch(pickle.Unpickler):
    """Unpickles arrays and nothing else: a pickle can name any function to call."""

    _allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
