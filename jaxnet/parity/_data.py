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
        used: The marks of those that were an argument of a call.
        left: The batches that the step did not use: the program took them ahead, perhaps.
        late: What was drawn after the update, the next batch's indices perhaps, for the next step.
        late_origins: The origins of its tensors, as in `Tensors`.
    """

    def __init__(self, tensors: Tensors, after: "Data | None" = None) -> None:
        self.tensors = tensors
        self.batches: list[tuple[Any, str, Any]] = [] if after is None else after.left
        self.left: list[tuple[Any, str, Any]] = []
        self.draws: list[tuple[str, Draw, Any, bool]] = [] if after is None else after.late
        self.late: list[tuple[str, Draw, Any, bool]] = []
        self.late_origins: dict[int, tuple[Any, int, str]] = {}
        self._serial: int = 0 if after is None else after._serial
        self.used: set[str] = set()
        self._began = 0  # the serial number at the beginning of the step

    def _mark(self, kind: str) -> str:
        self._serial += 1
        return f"⟨{kind}{self._serial}⟩"

    def begin(self) -> None:
        """The step begins: what ended loaders gave, and was drawn before the data, is not its."""
        self.batches = [batch for batch in self.batches if batch[0]() is not None]
        if self.batches:
            first = _serial(self.batches[0][1])
            self.draws = [draw for draw in self.draws if _serial(draw[0]) > first]
        self._began = self._serial
        self._forget_origins()

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
                self.tensors.recorder.twins.forget(leaf)
                self.tensors.note(leaf, site)
            else:
                arrays[site] = leaf.copy(), None
            return site

        form = to_json(batch, key_of)
        self.batches.append((weakref.ref(iterator), mark, (form, arrays)))

    def forget(self, iterator: Any) -> None:
        """Forgets the batches of an iterator."""
        self.batches = [batch for batch in self.batches if batch[0]() is not iterator]
        self._forget_origins()

    def forget_used(self) -> None:
        """Forgets the batches that were used, and what was computed."""
        self.batches = [batch for batch in self.batches if batch[1] not in self.used]
        self.forget_trials()

    def forget_trials(self) -> None:
        """Forgets what was computed: what was drawn so far, was drawn before the step."""
        self.used.clear()
        self.draws = [(mark, draw, array, True) for mark, draw, array, _ in self.draws]
        self._forget_origins()

    def _forget_origins(self) -> None:
        """Forgets of which sites tensors are but for the batches and draws that there are."""
        known = {mark for _, mark, _ in self.batches} | {mark for mark, *_ in self.draws}
        origins = self.tensors.origins
        for key in [k for k, (_, _, site) in origins.items() if _mark_of(site) not in known]:
            del origins[key]

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

    def site_of(self, tensor: Any, inside: bool = False) -> str:
        """Which site an argument is; "" for a part of the batch of a program without a loader.

        What such a program draws before it calls the model, it gives to the model as data.

        Args:
            tensor: The argument.
            inside: Whether it is one of a call within the call of a module.
        """
        site = self.tensors.site_of(tensor)
        own = _mark_of(site)
        data = not inside and not self.batches
        if data and any(early and mark == own for mark, _, _, early in self.draws):
            return ""
        self.used.add(own)
        return site

    def numbered(
        self, given: Sequence[Sequence[tuple[Any, Any]]]
    ) -> tuple[dict[str, str], dict[str, dict[str, tuple[Any, Any]]]]:
        """The numbers of the batches and draws that are stored, by their marks, and the arrays.

        Args:
            given: What the models and the loss were given from outside: the batches of a program
                without a loader.
        """
        loaded = bool(self.batches or not given)
        if not loaded:
            for found in given:
                mark = self._mark("b")
                made = {f"batch:{mark}.{i}": value for i, value in enumerate(found)}
                form = {"tuple": [{"array": site} for site in made]}
                self.batches.append((None, mark, (form, made)))
        else:
            self._choose()
        marks = {}
        arrays: dict[str, dict[str, tuple[Any, Any]]] = {"batch": {}, "draw": {}}
        for number, (_, mark, (_, leaves)) in enumerate(self.batches):
            marks[mark] = str(number)
            arrays["batch"].update(leaves)
        # What was drawn before the data has nothing to do with it; without a loader it is the
        # data, or how the program chose it.
        data = [mark for _, mark, _ in self.batches if loaded and mark in self.used]
        before = [_serial(mark) for _, mark, _ in self.batches if loaded]
        first = min(map(_serial, data), default=max(before, default=0))
        kept = []
        for each in self.draws:
            mark, _, array, early = each
            if early and mark not in self.used and not (loaded and _serial(mark) > first):
                continue
            kept.append(each)
            marks[mark] = str(len(arrays["draw"]))
            arrays["draw"][f"draw:{mark}"] = array, None
        self.draws = kept
        return marks, arrays

    def _choose(self) -> None:
        """Leaves the batches that are not the step's to the next one."""
        named = {id(iterator) for iterator, mark, _ in self.batches if mark in self.used}
        last = {id(it): mark for it, mark, _ in self.batches if _serial(mark) <= self._began}
        chosen: list[tuple[Any, str, Any]] = []
        for batch in self.batches:
            iterator, mark, _ = batch
            # Where a loader's batches became something else before they were used, those that
            # were taken in the step are its own, and the last one before.
            near = _serial(mark) > self._began or last[id(iterator)] == mark
            own = mark in self.used or (near and id(iterator) not in named)
            (chosen if own else self.left).append(batch)
        self.batches = chosen
        left = {mark for _, mark, _ in self.left}
        origins = self.tensors.origins.items()
        self.late_origins.update({k: o for k, o in origins if _mark_of(o[2]) in left})


def _serial(mark: str) -> int:
    return int(mark[2:-1])


def _mark_of(site: str) -> str:
    """The mark of a batch or draw in a site, "⟨b7⟩" of "batch:⟨b7⟩.0"."""
    return site.partition(":")[2].partition(".")[0]
