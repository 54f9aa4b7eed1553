"""The batches and draws of a step that is recorded.

Which of them belong to the step, and to which step, is known at its end. Until then their sites
have marks in place of numbers: "batch:⟨b7⟩.0", "draw:⟨d12⟩".
"""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnet.parity._sites import at
from jaxnet.parity._tensors import Tensors
from jaxnet.parity._trace import Draw
from jaxnet.parity._tree import to_json


class Data:
    """The batches and draws of a step.

    Args:
        tensors: The tensors of the step.
        after: The data of the step before.

    Attributes:
        batches: Each with its loader's iterator, its mark, and its form and arrays.
        draws: Each with its mark, its array, and whether it was drawn before the step began.
        late: What was drawn after the update, the next batch's indices perhaps, for the next step.
        late_origins: The origins of its tensors, as in `Tensors`.
    """

    def __init__(self, tensors: Tensors, after: "Data | None" = None) -> None:
        self.tensors = tensors
        self.batches: list[tuple[Any, str, Any]] = []
        self.draws: list[tuple[str, Draw, Any, bool]] = [] if after is None else after.late
        self.late: list[tuple[str, Draw, Any, bool]] = []
        self.late_origins: dict[int, tuple[Any, int, str]] = {}
        self._serial: int = 0 if after is None else after._serial

    def _mark(self, kind: str) -> str:
        self._serial += 1
        return f"⟨{kind}{self._serial}⟩"

    def begin(self) -> None:
        """The step begins: of each loader the last batch is its own."""
        last: dict[int, tuple[Any, str, Any]] = {}
        for batch in self.batches:
            iterator = batch[0]()
            if iterator is not None:
                last[id(iterator)] = batch
        self.batches = [*last.values()]

    def add_batch(self, iterator: Any, batch: Any) -> None:
        """Adds a batch that a loader's iterator gave."""
        mark = self._mark("b")
        arrays: dict[str, Any] = {}

        def key_of(path: str, leaf: Any) -> str | None:
            if not self.tensors.is_tensor(leaf) and not isinstance(leaf, np.ndarray):
                return None
            site = at(f"batch:{mark}", path)
            if self.tensors.is_tensor(leaf):
                arrays[site] = self.tensors.copy(leaf, False)
                self.tensors.note(leaf, site)
            else:
                arrays[site] = leaf.copy(), None
            return site

        form = to_json(batch, key_of)
        self.batches.append((weakref.ref(iterator), mark, (form, arrays)))

    def forget(self, iterator: Any) -> None:
        """Forgets the batches of an iterator."""
        self.batches = [batch for batch in self.batches if batch[0]() is not iterator]

    def add_draw(self, draw: Draw, tensor: Any, late: bool, early: bool) -> str:
        """Adds a draw, and returns its mark.

        Args:
            draw: The draw.
            tensor: Its result.
            late: Whether the update is over, so that it is the next step's.
            early: Whether the step that it is of has not begun.
        """
        mark = self._mark("d")
        array = self.tensors.copy(tensor, False)[0]
        if draw.kind == "mask":
            array = array.astype(bool)
        self.tensors.note(tensor, f"draw:{mark}")
        if late:
            self.late_origins[id(tensor)] = self.tensors.origins[id(tensor)]
        (self.late if late else self.draws).append((mark, draw, array, early))
        return mark

    def site_of(self, tensor: Any) -> str:
        """Which site a tensor is; "" for a part of the batch of a program without a loader.

        What such a program draws before it calls the model, it gives to the model as data.
        """
        site = self.tensors.site_of(tensor)
        early = any(early and site == f"draw:{mark}" for mark, _, _, early in self.draws)
        return "" if early and not self.batches else site

    def numbered(
        self, inputs: Sequence[tuple[str, Any]]
    ) -> tuple[dict[str, str], dict[str, dict[str, tuple[Any, Any]]]]:
        """The numbers of the batches and draws that are stored, by their marks, and the arrays.

        Args:
            inputs: What the models and the loss were given from outside, by site: the batch of a
                program without a loader.
        """
        loaded = bool(self.batches or not inputs)
        if not loaded:
            found = dict(inputs)
            forms = [{"array": f"batch:⟨b0⟩.{i}"} for i in range(len(found))]
            named = zip(forms, found.values(), strict=True)
            made = {form["array"]: (array, None) for form, array in named}
            self.batches = [(None, "⟨b0⟩", ({"tuple": forms}, made))]
        marks = {}
        arrays: dict[str, dict[str, tuple[Any, Any]]] = {"batch": {}, "draw": {}}
        for number, (_, mark, (_, leaves)) in enumerate(self.batches):
            marks[mark] = str(number)
            arrays["batch"].update(leaves)
        for mark, _, array, early in self.draws:
            if early and not loaded:  # it is the batch, or how the program chose it
                continue
            marks[mark] = str(len(arrays["draw"]))
            arrays["draw"][f"draw:{mark}"] = array, None
        return marks, arrays
