"""Which layer of a plain flax model is which of the recorded program.

Layers can be partners if their arrays can be made of each other. Where that leaves a choice, the
values decide if the model begins with torch's weights, then the names, if they leave no doubt, and
then the order in which the layers are called. A choice that these do not make is the user's, in a
file names.toml.
"""

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxnet._names import few
from jaxnet.parity._alone import by_values, orders_of
from jaxnet.parity._buffers import Unclear, changed, of_one_size, state_layers, state_units
from jaxnet.parity._flax_layers import (
    Layer,
    Unit,
    apart,
    layout_of,
    made_of,
    model_layers,
    recorded_units,
    rows_turned,
)
from jaxnet.parity._foreign_model import class_of
from jaxnet.parity._layouts import Made, to_model
from jaxnet.parity._names_file import Names, Tables, said
from jaxnet.parity._port import SubjectError
from jaxnet.parity._program import joined
from jaxnet.parity._result import Report
from jaxnet.parity._sites import phase_of
from jaxnet.parity._spelling import by_name
from jaxnet.parity._told import check_flattened, with_axes
from jaxnet.parity._trace import Trace


@dataclasses.dataclass(frozen=True)
class Partner:
    """A layer of the model and that of the recorded program.

    Attributes:
        own: The name of the model's layer.
        torch: The name of the recorded one.
        module: The recorded module whose calls are the layer's, "" for an array.
        made: How the model's arrays are made of torch's.
        layout: The kind of the layout of its activations.
        why: What decided that they are partners.
    """

    own: str
    torch: str
    module: str
    made: Mapping[str, Made]
    layout: str
    why: str


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The partners of a model and a recorded program.

    Attributes:
        partners: They, in the order of the model.
        unclear: The buffers that torch's program changes whose partner nothing decides.
    """

    partners: tuple[Partner, ...]
    unclear: tuple[Unclear, ...] = ()

    @property
    def made(self) -> dict[str, Made]:
        """How each array of the model is made."""
        return {name: one for partner in self.partners for name, one in partner.made.items()}

    def lines(self) -> list[str]:
        """The partners in words, one a line."""
        width = max(len(partner.own) for partner in self.partners)
        return [f"{p.own:<{width}} = {p.torch}  ({p.why})" for p in self.partners]

    def summary(self) -> str:
        """How many partners there are, and what decided."""
        count: dict[str, int] = {}
        for partner in self.partners:
            count[partner.why] = count.get(partner.why, 0) + 1
        by = ", ".join(f"{n} by {why}" for why, n in count.items())
        return f"{len(self.partners)} layers of the model have their partners in torch's: {by}"


def name_sums(report: Report, pairing: Pairing) -> None:
    """Names the cause where a bias of flax's is the sum of two of torch's, which learn as fast."""
    sums = {n for one in pairing.made.values() if one.summands > 1 for n in one.names}
    for finding in report.findings:
        places = {result.place for result in finding.results}
        if phase_of(finding.site) == "update" and places and places <= sums:
            finding.cause = (
                "flax's layer has one bias where torch's has two, which are added: it moves by one "
                "update where torch's sum moves by two."
            )
            finding.alternatives = []
            finding.fix = (
                "Let the optimizer move it twice as far (optax.multi_transform), or write a cell "
                "with both biases, as jaxnet.nn.LSTM has"
            )


def pair(
    trace: Trace,
    model: nnx.Module,
    names: Names | None = None,
    calls: Callable[[], Sequence[str]] = tuple,
    recorded: str = "",
) -> Pairing:
    """Pairs the layers of a model with those of a recorded model.

    Args:
        trace: The trace.
        model: The model.
        names: What the user says of it.
        calls: A function that gives the names of the model's layers in the order of their calls.
        recorded: The name of the recorded model.

    Raises:
        SubjectError: A layer has no partner, or several that nothing decides between. The message
            says which, and how to decide it.
    """
    told = said(names)
    units = recorded_units(trace, recorded)
    layers = model_layers(model, attention=any(u.cls == "MultiheadAttention" for u in units))
    taken = {joined(layer.name, name) for layer in layers for name in layer.variables}
    states = state_layers(model, taken)
    work = _Work(trace, layers, units, calls, told)
    of_states = {each.name for each in states} - {each.name for each in layers}
    said_of = told.get("layers", {})
    work.by_user({own: theirs for own, theirs in said_of.items() if own not in of_states})
    work.by_structure()
    work.related()
    work.arrays_alone()
    work.check()
    unclear = work.states(states, {k: v for k, v in said_of.items() if k in of_states})
    order = {layer.name: i for i, layer in enumerate([*layers, *states])}
    names_of = _state_names(model, [*layers, *states])
    partners = [
        dataclasses.replace(p, made={names_of.get(n, n): one for n, one in p.made.items()})
        for p in work.partners
    ]
    return Pairing(tuple(sorted(partners, key=lambda p: order[p.own])), unclear)


def _state_names(model: nnx.Module, layers: Sequence[Layer]) -> dict[str, str]:
    """The names in nnx.state of arrays that two layers share, by those in the first layer."""
    paths = {
        id(one): ".".join(map(str, path))
        for path, one in nnx.iter_graph(model)
        if isinstance(one, nnx.Variable)
    }
    return {
        joined(layer.name, own): paths[id(variable)]
        for layer in layers
        for own, variable in layer.variables.items()
        if id(variable) in paths
    }


class _Work:
    """A pairing under way."""

    def __init__(
        self,
        trace: Trace,
        layers: Sequence[Layer],
        units: Sequence[Unit],
        calls: Callable[[], Sequence[str]],
        told: Tables,
    ) -> None:
        self.trace, self.calls, self.file = trace, calls, told.file
        self.axes, self.flattened = told.get("axes", {}), told.get("flattened", {})
        names = [layer.name for layer in layers]
        for table in ("axes", "flattened"):
            for own in told.get(table, {}):
                if own not in names:
                    near = difflib.get_close_matches(own, names, n=3)
                    raise SubjectError(
                        f"{self.file}: [{table}] {own!r}: there is no such layer; near are {near}"
                    )
        self.layers, self.units = list(layers), list(units)
        self._own = {x.name: x.variables[""] for x in layers if x.module is None}
        self.partners: list[Partner] = []
        self.unclear: list[tuple[list[Layer], list[Unit]]] = []
        self.all_norms = False
        first = trace.steps[0]
        self._values = {
            place: site
            for phase in ("before", "buffer_before")
            for place, site in first.of(phase).items()
        }

    def _add(self, layer: Layer, unit: Unit, made: Mapping[str, Made], why: str) -> None:
        layout = layout_of(layer, unit)
        if (axes := self.axes.get(layer.name)) is not None:
            made = with_axes(self.file, layer, unit, made, tuple(axes))
        if sizes := self.flattened.get(layer.name):
            check_flattened(self.file, layer, sizes)
            made, layout = rows_turned(made, sizes), f"flat {' '.join(map(str, sizes))}"
        module = unit.module if layer.module is not None else ""
        self.partners.append(Partner(layer.name, unit.name, module, made, layout, why))
        self.layers.remove(layer)
        self.units.remove(unit)

    def _made(self, layer: Layer, unit: Unit) -> dict[str, Made] | None:
        made = made_of(layer, unit, self.all_norms)
        if made is not None and layer.module is None:
            ((own, one),) = made.items()
            values = self.trace.steps[0]
            if (site := self._values.get(one.names[0])) is not None:
                array = layer.variables[""].get_value()
                made = {own: by_values(array, values[site], one.names[0]) or one}
        return made

    def by_user(self, told: Mapping[str, Any]) -> None:
        """The pairs that names.toml says, by the names of the model's layers."""
        for own, theirs in told.items():
            layer = next((each for each in self.layers if each.name == own), None)
            unit = next((each for each in self.units if each.name == theirs), None)
            if unit is None:
                whole = next((u for u in self.units if theirs in u.parameters.values()), None)
                if whole is not None:
                    self.units.remove(whole)
                    self.units += apart(whole)
                    unit = next(each for each in self.units if each.name == theirs)
            if layer is None or unit is None:
                wrong = own if layer is None else theirs
                known = self.layers if layer is None else self.units
                near = difflib.get_close_matches(wrong, [each.name for each in known], n=3)
                raise SubjectError(
                    f"{self.file}: [layers] {own!r} = {theirs!r}: there is no {wrong!r} that is "
                    f"left; "
                    f"near are {near}"
                )
            made = made_of(layer, unit, related=True)  # a norm of another kind is the user's word
            if made is None:
                raise SubjectError(
                    f"{self.file}: [layers] {own!r} = {theirs!r}: their arrays are of other kinds "
                    f"or shapes: {_shapes(layer)} and torch's {dict(unit.shapes)}"
                )
            self._add(layer, unit, made, "names.toml")

    def by_structure(self) -> None:
        """The pairs that shapes, values, names and calls leave no doubt of."""
        while True:
            fits = {
                layer.name: [unit for unit in self.units if self._made(layer, unit) is not None]
                for layer in self.layers
            }
            groups = _groups(self.layers, fits)
            if not groups:
                return
            done = False
            for layers, units in groups:
                if len(layers) != len(units):
                    continue
                chosen, why = self._chosen(layers, units)
                if not chosen:
                    continue
                for layer, unit in chosen:
                    made = self._made(layer, unit)
                    assert made is not None
                    self._add(layer, unit, made, why)
                done = True
            if not done:
                self.unclear = [(a, b) for a, b in groups if len(a) == len(b)]
                return

    def _chosen(
        self, layers: list[Layer], units: list[Unit]
    ) -> tuple[list[tuple[Layer, Unit]], str]:
        if len(layers) == 1:
            return [(layers[0], units[0])], "shapes"
        fits = np.array([[self._made(x, u) is not None for u in units] for x in layers])
        by_value = self._by_value(layers, units, fits)
        if by_value is not None:
            return by_value, "values"
        numbers, exact = by_name([x.spelled for x in layers], [u.name for u in units], fits)
        named = None if numbers is None else [(layers[i], units[j]) for i, j in numbers]
        if exact and named is not None:
            return named, "names"
        by_call = self._by_call(layers, units, fits)
        if by_call is not None and any(x.counted for x in layers):
            return by_call, "calls"
        if by_call is None or named is None:
            return (named, "names") if named else (by_call or [], "calls")
        if all(a[1] is b[1] for a, b in zip(named, by_call, strict=True)):
            return named, "names and calls"
        return [], ""

    def _by_value(
        self, layers: list[Layer], units: list[Unit], fits: Any
    ) -> list[tuple[Layer, Unit]] | None:
        """The pairs with equal numbers, if each layer has those of one recorded layer alone."""
        equal = fits.copy()
        for i, j in zip(*np.nonzero(fits), strict=True):
            equal[i, j] = self._is_equal(layers[i], units[j])
        if not ((equal.sum(0) == 1).all() and (equal.sum(1) == 1).all()):
            return None
        return [
            (layer, units[int(np.argmax(row))]) for layer, row in zip(layers, equal, strict=True)
        ]

    def _is_equal(self, layer: Layer, unit: Unit) -> bool:
        made = self._made(layer, unit)
        first = self.trace.steps[0]
        arrays = {n: first[self._values[n]] for n in unit.shapes if n in self._values}
        if made is None or not all(name in arrays for one in made.values() for name in one.names):
            return False
        theirs = to_model(made, arrays)
        prefix = f"{layer.name}." if layer.module is not None and layer.name else ""
        for name, array in theirs.items():
            own = layer.variables[name.removeprefix(prefix) if layer.module is not None else ""]
            if not np.allclose(np.asarray(own[...]), np.asarray(array), rtol=1e-5, atol=1e-7):
                return False
        return True

    def _by_call(
        self, layers: list[Layer], units: list[Unit], fits: Any
    ) -> list[tuple[Layer, Unit]] | None:
        """The pairs in the order of the first calls."""
        own = {name: i for i, name in reversed([*enumerate(self.calls())])}
        theirs = {c.module: i for i, c in reversed([*enumerate(self.trace.steps[0].calls)])}

        def position(layer: Layer) -> int | None:
            name = layer.name
            while name and name not in own:
                name = name.rpartition(".")[0]
            return own.get(name) if name else None

        if any(x.module is None or position(x) is None for x in layers):
            return None
        if any(u.module not in theirs for u in units):
            return None
        a = sorted(range(len(layers)), key=lambda i: (position(layers[i]) or 0, i))
        b = sorted(range(len(units)), key=lambda j: (theirs[units[j].module], j))
        if not all(fits[i, j] for i, j in zip(a, b, strict=True)):
            return None
        return sorted(
            ((layers[i], units[j]) for i, j in zip(a, b, strict=True)),
            key=lambda each: layers.index(each[0]),
        )

    def related(self) -> None:
        """Normalisations of two kinds, of which one may be there by mistake.

        It is found as a difference of the layer then, which says more than that it has no partner.
        """
        if self.layers and self.units and not self.unclear:
            self.all_norms = True
            self.by_structure()
            self.all_norms = False

    def arrays_alone(self) -> None:
        """Arrays of a layer of the user's own beside those of a layer of torch's."""
        alone = [layer for layer in self.layers if layer.module is None]
        if not alone or self.unclear:
            return
        for unit in [u for u in self.units if u.cls and len(u.parameters) > 1]:
            self.units.remove(unit)
            self.units += apart(unit)
        self.by_structure()

    def states(self, layers: Sequence[Layer], told: Mapping[str, Any]) -> tuple[Unclear, ...]:
        """Pairs the buffers that torch's program changes with states of the model's own modules.

        Args:
            layers: These states.
            told: What names.toml says of them.

        Returns:
            The buffers that may be one of several states, or of one whose numbers are no floats.
        """
        used = {name for each in self.partners for one in each.made.values() for name in one.names}
        said_of = [theirs for theirs in told.values() if theirs in self.trace.buffers]
        units = state_units(
            self.trace, dict.fromkeys([*said_of, *changed(self.trace, used)] if layers else ())
        )
        self.layers = [x for x in layers if np.issubdtype(x.variables[""].dtype, np.floating)]
        self.units = [u for u in units if "float" in str(self.trace.buffers[u.name].get("dtype"))]
        self.by_user(told)
        self.by_structure()
        paired = {each.torch for each in self.partners}
        partners = {each.own for each in self.partners}
        left = [each for each in layers if each.name not in partners]
        found = ((u.name, of_one_size(u, left)) for u in units if u.name not in paired)
        return tuple(Unclear(name, tuple(near)) for name, near in found if near)

    def check(self) -> None:
        """Raises SubjectError if a layer is left over, or a matrix can be meant in two ways."""
        faults = []
        faults += [f"{layer.name} {_shapes(layer)} has no partner" for layer in self.layers]
        for unit in self.units:
            if unit.parameters:
                shapes = {n.rpartition(".")[2]: unit.shapes[n] for n in unit.parameters.values()}
                tied = _tied(self.trace, unit)
                faults.append(f"torch's {unit.name} {unit.cls} {shapes}{tied} has no partner")
        if faults:
            file = self._proposal()
            more = f"; and {len(faults) - 12} more" if len(faults) > 12 else ""
            raise SubjectError(
                "check: the layers of the model are not all those of the trace: "
                f"{'; '.join(faults[:12])}{more}. Where they are the same and their names and "
                f"order do not show it, say so in {file} and give it: --names {file}"
            )
        several = {
            partner.own: orders
            for partner in self.partners
            if not partner.module
            and self._is_kernel(partner)
            and partner.own not in self.axes
            and (orders := self._orders(partner))
        }
        if several:
            first, orders = next(iter(several.items()))
            raise SubjectError(
                f"check: {few([*several], 8)}: arrays of the model's own of shapes that may have "
                "torch's axes in several orders. Say which: --names names.toml with "
                f'[axes] "{first}" = {" or ".join(map(str, orders))}, and [layers] "{first}" = '
                "its name in torch; or begin with torch's weights, which show it"
            )

    def _orders(self, partner: Partner) -> list[list[int]]:
        """The orders of torch's axes that an array may have, where its numbers do not say it."""
        ((_, one),) = partner.made.items()
        name = one.names[0]
        theirs = (self.trace.parameters.get(name) or self.trace.buffers[name])["shape"]
        found = [[*axes] for axes in orders_of(tuple(theirs), one.shape)]
        if len(found) < 2:
            return []
        if (site := self._values.get(name)) is not None:
            array = self._own[partner.own].get_value()
            return [] if by_values(array, self.trace.steps[0][site], name) else found
        return found

    def _is_kernel(self, partner: Partner) -> bool:
        """Whether torch's array is one of a Linear or a convolution, whose axes have an order."""
        theirs = next(iter(partner.made.values())).names[0]
        owner = self.trace.modules.get(theirs.rpartition(".")[0])
        return owner is not None and owner.cls.startswith(("Linear", "Conv"))

    def _proposal(self) -> Path:
        """Writes names.toml beside the trace, with what is known and what is to be said."""
        file = self.trace.path.parent / "names.toml"
        lines = ["# The layer of the model = that of the recorded program", "[layers]"]
        lines += [f"{json.dumps(p.own)} = {json.dumps(p.torch)}  # {p.why}" for p in self.partners]
        for layer in self.layers:
            near = [u.name for u in self.units if self._made(layer, u) is not None]
            choice = ", ".join(near[:12]) or "nothing that fits is left"
            lines.append(f'# {json.dumps(layer.name)} = ""  # one of: {choice}')
        # The user's own may be there already, or the folder be one that cannot be written.
        with suppress(OSError), file.open("x", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
        return file


def _groups(
    layers: Sequence[Layer], fits: Mapping[str, list[Unit]]
) -> list[tuple[list[Layer], list[Unit]]]:
    """The layers that have partners in common, with these."""
    groups: list[tuple[list[Layer], list[Unit]]] = []
    for layer in layers:
        units = fits[layer.name]
        if not units:
            continue
        own = [layer]
        for group in [g for g in groups if any(u is v for u in g[1] for v in units)]:
            groups.remove(group)
            own = [*group[0], *own]
            units = [*group[1], *(u for u in units if not any(u is v for v in group[1]))]
        groups.append((own, units))
    return groups


def _shapes(layer: Layer) -> str:
    shapes = ", ".join(f"{n} {layer.shape(n)}".strip() for n in layer.variables)
    return f"({class_of(layer.module).__name__}: {shapes})" if layer.module is not None else shapes


def _tied(trace: Trace, unit: Unit) -> str:
    names = [
        other
        for name in unit.parameters.values()
        for other in trace.parameters[name].get("names", ())
        if other != name
    ]
    return f", to which {', '.join(names)} is tied," if names else ""
