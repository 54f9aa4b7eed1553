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


def with_flattened(names: Names | None, sizes: Mapping[str, tuple[int, ...]]) -> Names:
    """What the user says, and which layers are given rows in the order H, W, C, if he does not."""
    known = said(names)
    return {**known, "flattened": {**sizes, **known.get("flattened", {})}}


def said(names: Names | None) -> Mapping[str, Any]:
    """The tables of a names.toml.

    Raises:
        SubjectError: The file cannot be read, or has other tables.
    """
    found: Mapping[str, Any] = {}
    if isinstance(names, Mapping):
        found = names
    elif names is not None:
        try:
            found = tomllib.loads(Path(names).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SubjectError(f"names: {names}: {error}") from error
    accepted = ("layers", "axes", "flattened")
    if unknown := [key for key in found if key not in accepted]:
        raise SubjectError(
            f"names: {', '.join(unknown)}; accepted are the tables {', '.join(accepted)}"
        )
    return found
