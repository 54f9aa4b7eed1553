"""names.toml: which layer of a plain flax model is which of torch's, as the user says it.

[layers]              # the layer of the model = the layer of the recorded program
"blocks.0.mix" = "layers.0.proj"
[axes]                # the order of torch's axes in an array of the model's own
"head.w" = [1, 0]
[flattened]           # a layer whose inputs are rows in the order H, W, C: torch's C, H, W
"fc1" = [16, 4, 4]
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnet.parity._port import SubjectError

Names = Mapping[str, Any] | str | Path
"""The content of a names.toml, or its path."""


TABLES = ("layers", "axes", "flattened")


class Tables(dict[str, Mapping[str, Any]]):
    """The tables of a names.toml.

    Attributes:
        file: How an error calls it: "names" and the path, if it was read from a file.
    """

    file: str = "names"


def with_flattened(names: Names | None, sizes: Mapping[str, tuple[int, ...]]) -> Names:
    """What the user says, and which layers are given rows in the order H, W, C, if he does not."""
    known = said(names)
    more = Tables({**known, "flattened": {**sizes, **known.get("flattened", {})}})
    more.file = known.file
    return more


def said(names: Names | None) -> Tables:
    """The tables of a names.toml.

    Raises:
        SubjectError: The file cannot be read, has other tables, or values of another kind.
    """
    if isinstance(names, Tables):
        return names
    found = Tables(names if isinstance(names, Mapping) else {})
    if names is not None and not isinstance(names, Mapping):
        found.file = f"names: {names}"
        try:
            found.update(tomllib.loads(Path(names).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SubjectError(f"{found.file}: {error}") from error
    if unknown := [key for key in found if key not in TABLES]:
        raise SubjectError(
            f"{found.file}: {', '.join(unknown)}; accepted are the tables {', '.join(TABLES)}"
        )
    for table, entries in found.items():
        if not isinstance(entries, Mapping):
            raise SubjectError(
                f"{found.file}: [{table}] {entries!r}; accepted is a table, with a line for each "
                f"layer of the model: {_EXAMPLES[table]}"
            )
        for own, value in entries.items():
            if not _is_accepted(table, value):
                raise SubjectError(
                    f"{found.file}: [{table}] {own!r} = {value!r}; accepted is "
                    f"{_ACCEPTED[table]}, as in {_EXAMPLES[table]}"
                )
    return found


_EXAMPLES = {
    "layers": '"blocks.0.mix" = "layers.0.proj"',
    "axes": '"head.w" = [1, 0]',
    "flattened": '"fc1" = [16, 4, 4]',
}
_ACCEPTED = {
    "layers": "the name of a layer of the recorded program",
    "axes": "a list of the numbers of torch's axes, from 0, each of them once",
    "flattened": "a list of torch's sizes C, H, W of what is flattened, each at least 1",
}


def _is_accepted(table: str, value: Any) -> bool:
    if table == "layers":
        return isinstance(value, str)
    whole = isinstance(value, list | tuple) and all(
        isinstance(each, int) and not isinstance(each, bool) for each in value
    )
    if not whole or not value:
        return False
    if table == "axes":
        return sorted(value) == [*range(len(value))]
    return len(value) > 1 and min(value) > 0
