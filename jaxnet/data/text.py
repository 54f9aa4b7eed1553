"""Text as numbers: characters and words, one-hot or as the indices of an embedding."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

__all__ = [
    "clean_words",
    "letters_one_hot",
    "read_text",
    "vocabulary",
    "word_indices",
    "words_one_hot",
]

_PUNCTUATION = '.,;:"!?”“_-'


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """A file's text, with every line end as `\\n`: Python's `open(path).read()`.

    A byte order mark stays, as there; the encoding "utf-8-sig" drops it.

    Raises:
        ValueError: the bytes are not of that encoding; file, line and column of
            the first bad one are named.
        FileNotFoundError: the file is not there.
    """
    raw = Path(path).read_bytes()
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ValueError(
            f"{path}, line {line}, byte {column}: not {encoding} ({raw[error.start]:#04x}: "
            f"{error.reason}); give the file's encoding, such as latin-1"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def clean_words(text: str) -> list[str]:
    """Lower-case words without the punctuation around them, in order.

    >>> clean_words("“Impossible, Mr. Bennet!”")
    ['impossible', 'mr', 'bennet']
    """
    return [word.strip(_PUNCTUATION) for word in text.lower().split()]


def vocabulary(words: Iterable[str]) -> dict[str, int]:
    """Every different word with its place in alphabetical order.

    >>> vocabulary(["to", "be", "or", "not", "to", "be"])
    {'be': 0, 'not': 1, 'or': 2, 'to': 3}
    """
    if isinstance(words, str):
        raise ValueError("words: one text; split it into words first, with clean_words")
    return {word: place for place, word in enumerate(sorted(set(words)))}


def letters_one_hot(line: str, size: int = 128) -> np.ndarray:
    """One row for each character with a 1 at its code, float32 (len(line), size).

    As in the document, the line is lowered and stripped of blanks around it first
    (their rows stay zero, at the end), and characters beyond `size` count as 0.

    >>> letters_one_hot(" Aé").argmax(axis=1)
    array([97,  0,  0])
    """
    out = np.zeros((len(line), size), np.float32)
    for i, letter in enumerate(line.lower().strip()[: len(line)]):
        out[i, ord(letter) if ord(letter) < size else 0] = 1
    return out


def word_indices(
    words: Iterable[str], index: Mapping[str, int], unknown: int | None = None
) -> np.ndarray:
    """The places of words in a vocabulary, int32 (len(words),): what `nn.Embedding` takes.

    An embedding's lookup `weight[indices]` is the product of one-hot rows with the
    weight, without the rows: 4 bytes a word instead of 4 times the vocabulary.

    Args:
        words: as `clean_words` gives them.
        index: of `vocabulary`.
        unknown: stands for words that are not in it; None refuses them.

    Raises:
        ValueError: a word is not in the vocabulary.
    """
    if isinstance(words, str):
        raise ValueError("words: one text; split it into words first, with clean_words")
    words = list(words)  # also of a generator, which can be gone through once
    if unknown is None:
        for i, word in enumerate(words):
            if word not in index:
                raise ValueError(
                    f"words: {word!r} at {i} is not among the {len(index)} of the vocabulary; "
                    "give unknown= to let a number stand for such words"
                )
    return np.array([index.get(word, unknown) for word in words], np.int32)


def words_one_hot(
    words: Iterable[str], index: Mapping[str, int], unknown: int | None = None
) -> np.ndarray:
    """One row for each word with a 1 at its place, float32 (len(words), len(index)).

    Arguments and errors are those of `word_indices`; `unknown` is one of the columns.
    """
    if unknown is not None and not 0 <= unknown < len(index):
        raise ValueError(f"unknown: {unknown}; accepted is a column, 0 to {len(index) - 1}")
    places = word_indices(words, index, unknown)
    out = np.zeros((len(places), len(index)), np.float32)
    out[np.arange(len(places)), places] = 1
    return out
