"""Small data sets from a seed, in place of the downloads of the original programs."""

import numpy as np


def images(n: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey images in [0, 1] of shape (n, 1, size, size) and their ten classes, blurred bars."""
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, 10, n)
    angles = labels[:, None, None] * np.pi / 10
    y, x = np.mgrid[:size, :size] / (size - 1) - 0.5
    distances = x * np.cos(angles) + y * np.sin(angles)
    pixels = np.exp(-((distances / 0.15) ** 2)) + 0.1 * rng.uniform(size=(n, size, size))
    return (pixels[:, None] / pixels.max()).astype(np.float32), labels


def text(n: int, words: int, seed: int = 0) -> np.ndarray:
    """A text of word numbers in which each word has a few likely followers."""
    rng = np.random.RandomState(seed)
    followers = rng.randint(0, words, (words, 3))
    found = [0]
    while len(found) < n:
        found.append(followers[found[-1], rng.randint(3)])
    return np.array(found)


def waves(n: int, length: int, seed: int = 0) -> np.ndarray:
    """Sine waves of one frequency and n phases, in float64, of shape (n, length)."""
    shifts = np.random.RandomState(seed).randint(-80, 80, n)
    return np.sin((np.arange(length) + shifts[:, None]) / 4.0)
