"""Pride and Prejudice as tensors: letters and words, one-hot and by embedding.

The program and the figures are those of the notes on the book "Deep Learning with PyTorch"
(docs/pages/book.md), called the document. One line of the novel becomes 70 rows of 128 letters,
and 11 rows of 7,261 words. The same words follow by the lookup that a user would choose instead:
an embedding's weight at the words' indices, which equals the one-hot rows times the weight.

    python -m experiments austen

Result: every figure of the document holds. One of its 7,261 "words" is the first word of the
file with the byte order mark, which Python's "utf8" does not remove; it is counted here too.
"""

import dataclasses
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments.harness import ledger, tables
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Count, Seed, Settings
from jaxnet import data, nn, plots
from jaxnet.random import Generator

DATA = ("austen",)
LINE = 200  # the line that the document encodes
NAMED = ("the", "her", "elizabeth", "impossible")  # the words that the plot names


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of austen."""

    seed: Seed = 0
    """Seed of the embedding's weight."""
    dim: Count = 16
    """Size of the embedding of a word."""


def clean_words(text: str) -> list[str]:
    """The words of a text in order, in lower case and without the punctuation around them.

    Args:
        text: The text.

    >>> clean_words("“Impossible, Mr. Bennet!”")
    ['impossible', 'mr', 'bennet']
    """
    return [word.strip('.,;:"!?”“_-') for word in text.lower().split()]


def letters_one_hot(line: str, size: int = 128) -> np.ndarray:
    """A one-hot row for each character of a line, float32 (len(line), size).

    As in the document, the line is first made lower case and stripped of the blanks around it
    (the rows that are left over at the end are zero), and characters with codes from `size` on
    count as code 0.

    Args:
        line: The line.
        size: The number of character codes.

    >>> letters_one_hot(" Aé").argmax(axis=1)
    array([97,  0,  0])
    """
    out = np.zeros((len(line), size), np.float32)
    for i, letter in enumerate(line.lower().strip()[: len(line)]):
        out[i, ord(letter) if ord(letter) < size else 0] = 1
    return out


def main(config: Config, run: Run) -> None:
    """Encodes the novel."""
    path = find("austen", config.data_dir)
    text = data.read_text(path)
    lines = text.split("\n")
    if len(lines) <= LINE:
        raise ValueError(f"{path}: {len(lines)} lines; the document looks at line {LINE}")
    line = lines[LINE]
    words, book = clean_words(line), clean_words(text)
    if not words:
        raise ValueError(f"{path}, line {LINE + 1}: no words; the document looks at this one")
    letters = letters_one_hot(line)
    index = {word: i for i, word in enumerate(sorted({*book}))}
    indices = np.array([index[word] for word in words], np.int32)
    one_hot = data.one_hot(indices, len(index))
    print(f"line {LINE}: {line}\nletters {letters.shape}, words {one_hot.shape}")
    tables.show(("", "index", "word"), [(i, index[word], word) for i, word in enumerate(words)])

    embedding = nn.Embedding(len(index), config.dim, rngs=Generator(config.seed))
    looked_up = embedding(jnp.asarray(indices))
    product = one_hot @ np.asarray(embedding.weight[...])
    gap = float(np.abs(np.asarray(looked_up) - product).max())
    print(
        f"embedding: {looked_up.shape}; the one-hot product differs by {gap:.0e} and takes "
        f"{one_hot.nbytes:,} bytes where the indices take {indices.nbytes}"
    )
    if gap > 1e-6:
        raise ValueError(f"embedding: lookup and one-hot product differ by {gap:.1e}")

    printed = [
        name.split(".", 1)[1] for name in ledger.documented("text") if name.startswith("index.")
    ]
    figures = {
        "line_200": line,
        "words": words,
        "words_in_line": len(words),
        "letters_shape": letters.shape,
        "vocabulary": len(index),
        "index": {word: index.get(word, -1) for word in printed},
    }
    tables.save_ledger(run, ledger.compare("text", figures))
    run.metrics |= figures | {"words_in_book": len(book), "embedding_gap": gap}

    _plot(run.folder / "words.png", Counter(book))


def _plot(path: Path, times: Counter[str]) -> None:
    ranked = times.most_common()
    counts = np.array([count for _, count in ranked])
    rank = np.arange(1, len(counts) + 1)
    order = {word: i for i, (word, _) in enumerate(ranked)}
    shown = [word for word in NAMED if word in order]
    named = [
        plots.Series(f"{word}: {times[word]:,}", [order[word] + 1], [times[word]], f"C{k + 1}o")
        for k, word in enumerate(shown)
    ]
    panel = plots.Panel(
        "How often each word comes",
        "the word's rank",
        "times in the book",
        [
            plots.Series(f"{len(counts):,} words", rank, counts, "C0."),
            plots.Series("the first's / rank (Zipf's law)", rank, counts[0] / rank, "k--"),
            *named,
        ],
        log=True,
        log_x=True,
    )
    plots.save_panels(path, [panel])
