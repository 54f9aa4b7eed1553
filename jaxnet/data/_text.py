"""Text files."""

import os
from pathlib import Path


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
