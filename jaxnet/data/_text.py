"""Reading text files."""

import os
from pathlib import Path


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """Reads a text file, as Python's `open(path).read()` does.

    Every line end becomes `\\n`. A byte order mark remains, except with the encoding
    "utf-8-sig".

    Args:
        path: The path of the file.
        encoding: The encoding of the file.

    Returns:
        The text.

    Raises:
        ValueError: The bytes are not in this encoding. The error names the file, and the
            line and byte of the first error.
        FileNotFoundError: The file does not exist.
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
