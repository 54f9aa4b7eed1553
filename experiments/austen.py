"""Pride and Prejudice as tensors: letters and words, one-hot and by embedding.

One line of the book becomes 70 rows of 128 letters, and 11 rows of 7,261 words;
then the same words by the lookup that a user would use instead: an embedding's
weight at the words' indices, which equals the one-hot rows times the weight.

    python -m experiments austen

Result: every figure of the document holds. One of its 7,261 "words" is the file's
byte order mark with the first word, since Python's utf8 keeps the mark; so it is
counted here too.
"""

import dataclasses
from collections import Counter

import jax.numpy as jnp
import numpy as np

from experiments import ledger
from experiments.result_table import save_ledger
from experiments.settings import Settings
from jaxnet import data, nn, report, train
from jaxnet.random import Generator

DATA = ("austen",)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of austen."""

    dim: int = 16
    """Numbers a word in the embedding."""

    def validate(self) -> None:
        super().validate()
        if self.dim < 1:
            raise ValueError(f"--dim: {self.dim}; at least 1 is needed")


def main(config: Config) -> int:
    """Encodes the book; returns how many figures are off."""
    config.validate()
    with train.Run(config.out, "austen", config) as run:
        path = data.find("austen", config.data_dir)
        text = data.read_text(path)
        lines = text.split("\n")
        if len(lines) < 201:
            raise ValueError(f"{path}: {len(lines)} lines; the document looks at line 200")
        line = lines[200]
        if not data.clean_words(line):
            raise ValueError(f"{path}, line 201: no words; the document looks at this one")
        letters = data.letters_one_hot(line)
        words, book = data.clean_words(line), data.clean_words(text)
        index = data.vocabulary(book)
        one_hot = data.words_one_hot(words, index)
        print(f"line 200: {line}\nletters {letters.shape}, words {one_hot.shape}")
        for i, word in enumerate(words):
            print(f"{i:2} {index[word]:4} {word}")

        embedding = nn.Embedding(len(index), config.dim, rngs=Generator(config.seed))
        looked_up = embedding(jnp.asarray(data.word_indices(words, index)))
        product = one_hot @ np.asarray(embedding.weight[...])
        gap = float(np.abs(np.asarray(looked_up) - product).max())
        print(
            f"embedding: {looked_up.shape}; the one-hot product differs by {gap:.0e} and takes "
            f"{one_hot.nbytes:,} bytes where the indices take {4 * len(words)}"
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
        rows = ledger.compare("text", figures)
        save_ledger(run, config, rows)
        run.metrics |= figures
        run.metrics |= {"words_in_book": len(book), "embedding_gap": gap}

        counts = np.array(sorted(Counter(book).values(), reverse=True))
        rank = np.arange(1, len(counts) + 1)
        panel = report.Panel(
            "How often each word comes",
            "log10 of the word's rank",
            "times in the book",
            [report.Series(f"{len(counts)} words", np.log10(rank), counts, ".")],
            log=True,
        )
        report.save_panels(run.folder / "words.png", [panel])
    print(f"record, plot and table: {run.folder}")
    return ledger.failed(rows)
