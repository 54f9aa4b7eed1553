"""Numbers in general position, which hide no mistake.

A bias of zero, a norm's weight of one, running statistics of zero and one, a last layer that is
zero at first: beside the defaults of PyTorch many mistakes make no difference. So a program is
recorded a second time with other weights: `parity.recording(path, weights="generic")`.
"""

import zlib

import numpy as np


def numbers(array: np.ndarray, name: str) -> np.ndarray:
    """Numbers without symmetry: normal, or between 0 and 1 where none is negative.

    Args:
        array: An array of the shape and dtype. Integers stay as they are.
        name: A name, which the numbers depend on.
    """
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(array.shape)
    if array.dtype.kind == "b":
        return np.asarray(drawn > 0)
    if array.dtype.kind != "f":
        return array
    if array.size and array.min() >= 0 and array.max() > 0:
        drawn = np.abs(drawn) / (1 + np.abs(drawn))
    return np.asarray(drawn.astype(np.float32).astype(array.dtype))


def weight(array: np.ndarray, name: str) -> np.ndarray:
    """A parameter or a running statistic in general position, of a size that networks can bear.

    Rows of zeros stay: they are an embedding's padding.

    Args:
        array: The parameter or buffer.
        name: Its name, on which the numbers depend.
    """
    kind = name.rpartition(".")[2]
    if array.dtype.kind != "f" or not array.size:
        return array
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(array.shape)
    if kind == "running_var":
        drawn = 0.5 + np.abs(drawn)
    elif array.ndim > 1:
        drawn /= (array.size / array.shape[0]) ** 0.5
        rows = array.reshape(len(array), -1).any(1)
        if rows.any():
            drawn[~rows] = 0
    else:
        drawn = 0.3 * drawn + ("weight" in kind)
    return np.asarray(drawn.astype(np.float32).astype(array.dtype))
