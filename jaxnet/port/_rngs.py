"""Which classes, methods and functions take `rngs`, and which calls hand it on.

torch draws initial weights from one global generator, in the order in which layers are made. In
jaxnet the generator is an argument, so that everything that makes layers hands it on in that
order, and the same seed gives the same weights.
"""

from collections.abc import Callable
from typing import Any

import libcst as cst

from jaxnet.port._classes import (
    attributes,
    is_module,
    layer_takes_rngs,
    layers_of,
    lineage,
    method,
    methods,
    torch_layer,
    value_kind,
)
from jaxnet.port._names import DRAWS
from jaxnet.port._nodes import has_generator, is_name, is_partial, is_self, is_super
from jaxnet.port._scopes import Scope, Unit
from jaxnet.port._source import Definition

DRAWING_INITS = {
    "kaiming_normal_", "kaiming_uniform_", "normal_", "orthogonal_", "sparse_", "trunc_normal_",
    "uniform_", "xavier_normal_", "xavier_uniform_",
}  # fmt: skip
DRAWING_FUNCTIONS = {
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
    "gumbel_softmax", "rrelu", "scaled_dot_product_attention",
}  # fmt: skip
_OF_DATA = {
    "torch.utils.data.DataLoader": "rngs",
    "torch.utils.data.RandomSampler": "rngs",
    "torch.utils.data.SubsetRandomSampler": "rngs",
    "torch.utils.data.WeightedRandomSampler": "rngs",
    "torch.utils.data.random_split": "generator",
}
"""What reads data in a random order, and the name under which it takes the generator."""

_DRAWING_METHODS = {"normal_", "uniform_", "bernoulli_", "exponential_", "trunc_normal_"}


class Needs:
    """Who takes `rngs` among the definitions of a program.

    Args:
        definitions: They.
        takes: Whether a layer of torch takes `rngs` in the output, by its name.
        keeps: Whether a module whose `forward` draws keeps `rngs`, since the output has no other
            source of random numbers.

    Attributes:
        keeping: The classes whose constructors keep `rngs`.
    """

    def __init__(
        self,
        definitions: list[Definition],
        takes: Callable[[str], bool] = layer_takes_rngs,
        keeps: bool = False,
    ) -> None:
        self.takes = takes
        self.units: dict[Unit, Scope] = {}
        self.values: set[Definition] = set()
        for one in definitions:
            if isinstance(one.node, cst.FunctionDef):
                self.units[Unit(one)] = Scope.of(one.source, None, one.node)
            elif isinstance(one.node, cst.ClassDef):
                for name, node in methods(one).items():
                    self.units[Unit(one, name)] = Scope.of(one.source, one, node)
        self.hosts = {u for u in self.units if u.method == "" and _of_program(u, "hosts")}
        self.owners = {u for u in self.hosts if _of_program(u, "owners")}
        for unit in self.hosts:
            self.units[unit].host = True
        self.calls = {unit: _calls(unit.node) for unit in self.units}
        self.named = {unit: _handed(unit.node) for unit in self.units}
        self.by_method: dict[str, list[Unit]] = {}
        for unit in self.units:
            self.by_method.setdefault(unit.method, []).append(unit)
        self._targets: dict[tuple[int, int], tuple[cst.Call, Scope, list[Unit]]] = {}
        self.making, self.computing = self._divide()
        losses = {u for u in self.units if u.method == "" and _of_program(u, "losses")}
        self.making = (self.making | self.hosts) - losses
        self.computing = (self.computing | losses) - self.hosts
        self.keeping = self._drawing() if keeps else set()
        self.taking: set[Unit] = {u for u in self.hosts if _of_program(u, "seeding")}
        self.taking |= {Unit(one, "__init__") for one in self.keeping}
        self._spread()
        for one in definitions:
            self.values |= _class_values(one)

    def class_takes(self, definition: Definition) -> bool:
        """Whether a class's constructor needs `rngs`."""
        owner = method(definition, "__init__")
        if owner is not None:
            return Unit(owner, "__init__") in self.taking
        return any(map(self.takes, layers_of(definition)))

    def _drawing(self) -> set[Definition]:
        """The classes with the constructors of the modules that draw while they compute."""
        found: set[Definition] = set()
        for unit in self.computing:
            owner = method(unit.definition, "__init__") if is_module(unit.definition) else None
            if owner is not None and any(
                self._draws(call, self.units[unit]) for call in self.calls[unit]
            ):
                found.add(owner)
        return found

    def _draws(self, call: cst.Call, scope: Scope) -> bool:
        """Whether a call draws random numbers."""
        owner, _, last = (scope.source.qualified(call.func) or "").rpartition(".")
        if owner == "torch":
            return last in DRAWS or last == "dropout"
        if owner == "torch.nn.functional":
            return last in DRAWING_FUNCTIONS
        return isinstance(call.func, cst.Attribute) and call.func.attr.value in _DRAWING_METHODS

    def ignores(self, unit: Unit) -> bool:
        """Whether a constructor takes `rngs` only since it is called like others that need it."""
        return (
            unit.method == "__init__"
            and unit not in self.taking
            and any(unit.definition in lineage(value) for value in self.values)
        )

    def _divide(self) -> tuple[set[Unit], set[Unit]]:
        """The units that make modules, and those that compute; some do both.

        Constructors make, with what they call, and `forward` computes. Whatever neither calls,
        such as `generate` or a loss, computes as well, unless it makes layers or weights itself.
        """
        computing = {
            u for u in self.units
            if u.method in ("forward", "__call__") and is_module(u.definition)
        }  # fmt: skip
        making = {u for u in self.units if u.method in ("__init__", "__new__")}
        for unit in self.units:
            for value, caller in self._handed_on(unit):
                if caller.startswith("register_") and caller.endswith("_hook"):
                    computing.add(value)
                elif unit in making and _runs_at_once(caller):
                    making.add(value)
        computing, making = self._reached(computing), self._reached(making)
        self.run = frozenset(computing)  # by `forward`
        left = set(self.units) - computing - making - self.hosts
        grown = True
        while grown:
            makers = {u for u in left - making if self._makes_itself(u, making)}
            making |= self._reached(makers)
            grown = bool(makers)
        return making, self._reached(computing | (left - making))

    def _handed_on(self, unit: Unit) -> list[tuple[Unit, str]]:
        """The units that a unit hands on as values, and the name of what it hands them to."""
        found: list[tuple[Unit, str]] = []
        for call in self.calls[unit]:
            name = call.func
            caller = name.attr.value if isinstance(name, cst.Attribute) else ""
            caller = name.value if isinstance(name, cst.Name) else caller
            for arg in call.args:
                value: Any = arg.value
                if is_partial(value) and value.args:
                    value = value.args[0].value
                if isinstance(value, cst.Name | cst.Attribute):
                    targets = self.targets(cst.Call(value), self.units[unit])
                    found += [(t, caller) for t in targets if t in self.units]
        return [(t, c) for t, c in found if t.method != "__init__"]

    def _makes_itself(self, unit: Unit, making: set[Unit]) -> bool:
        """Whether a unit makes layers or their weights, or calls one that does."""
        scope = self.units[unit]
        for call in self.calls[unit]:
            dotted = scope.source.qualified(call.func) or ""
            found = scope.source.definition(call.func)
            if torch_layer(dotted) or dotted.startswith("torch.nn.init.") or is_module(found):
                return True
            if any(t in making and t.method != "__init__" for t in self.targets(call, scope)):
                return True
            if isinstance(call.func, cst.Attribute) and call.func.attr.value.endswith("_"):
                last = cst.helpers.get_full_name_for_node(call.func.value) or ""
                if last.endswith((".weight.data", ".bias.data", ".weight", ".bias")):
                    return True
                title = unit.method or unit.definition.name
                if last in scope.parameters and (title.endswith("_") or "init" in title):
                    return True  # def trunc_normal_(tensor): tensor.uniform_()
        return False

    def _reached(self, start: set[Unit]) -> set[Unit]:
        found, new = set(start), list(start)
        while new:
            unit = new.pop()
            for call in self.calls[unit]:
                for target in self.targets(call, self.units[unit]):
                    if target not in found and target in self.units:
                        found.add(target)
                        new.append(target)
        return found

    def targets(self, call: cst.Call, scope: Scope) -> list[Unit]:
        """The functions and methods of the program that a call runs."""
        key = (id(call.func), id(scope))
        if key not in self._targets:  # which holds the call, so that no other has its id
            self._targets[key] = (call, scope, self._found_targets(call, scope))
        return self._targets[key][2]

    def _found_targets(self, call: cst.Call, scope: Scope) -> list[Unit]:
        name = call.func
        if isinstance(name, cst.Attribute):
            attr = name.attr.value
            if scope.owner is not None and is_super(name.value):
                owners = lineage(scope.owner)[1:]
                return [Unit(o, attr) for o in owners if attr in methods(o)][:1]
            if scope.owner is not None and is_self(name.value):
                family = [u for u in self.by_method.get(attr, ())
                          if related(u.definition, scope.owner)]  # fmt: skip
                if family:
                    return family
        if isinstance(name, cst.Name) and scope.is_local(name.value):
            return []
        found = scope.source.definition(name)
        if found is None:
            return []
        if isinstance(found.node, cst.ClassDef):
            owner = method(found, "__init__")
            return [Unit(owner, "__init__")] if owner is not None else []
        return [Unit(found)]

    def _spread(self) -> None:
        grown = True
        while grown:
            grown = False
            for unit in self.making - self.taking - self.owners:
                scope = self.units[unit]
                if any(self.hands_on(call, scope) for call in self.calls[unit]) or any(
                    self.is_function(value, scope) for value in self.named[unit]
                ):
                    family = {
                        other
                        for other in self.units
                        if other.method == unit.method
                        and unit.method not in ("", "__init__")
                        and related(other.definition, unit.definition)
                    }
                    self.taking |= {unit} | family
                    grown = True

    def is_function(self, node: Any, scope: Scope) -> bool:
        """Whether a value is a function or method of the program, no class, that takes `rngs`."""
        if isinstance(node, cst.Name):
            found = None if scope.is_local(node.value) else scope.source.definition(node)
            return found is not None and Unit(found) in self.taking
        own = isinstance(node, cst.Attribute) and is_self(node.value)
        if not own or scope.owner is None or node.attr.value in ("forward", "__init__"):
            return False
        targets = self.targets(cst.Call(node), scope)
        return any(unit in self.taking for unit in targets)

    def hands_on(self, call: cst.Call, scope: Scope) -> str | None:
        """The keyword under which a call hands `rngs` on, or None."""
        name, source = call.func, scope.source
        if isinstance(name, cst.Name) and scope.is_local(name.value):
            return "rngs" if not scope.host and self._makes(name.value, scope) else None
        dotted = source.qualified(name)
        if dotted is not None:
            owner, _, last = dotted.rpartition(".")
            if torch_layer(dotted):
                return "rngs" if self.takes(last) else None
            if last == "__init__" and torch_layer(owner):
                return "rngs" if self.takes(owner.rpartition(".")[2]) else None
            if owner == "torch.nn.init" and last in DRAWING_INITS:
                return "generator"
            if owner == "torch" and last in DRAWS:
                return None if has_generator(call) else "generator"
            if dotted in _OF_DATA:
                return None if has_generator(call) else _OF_DATA[dotted]
            found = source.definition(name)
            if found is not None:
                if isinstance(found.node, cst.ClassDef):
                    return "rngs" if self.class_takes(found) else None
                return "rngs" if Unit(found) in self.taking else None
            if dotted.split(".")[0] in ("torch", *source.project.tops):
                return None
        if isinstance(name, cst.Attribute):
            return self._attribute_hands_on(name, scope)
        if isinstance(name, cst.Subscript):
            return None if scope.host else "rngs"
        # getattr(nn, "LSTM")(3, 4), get_norm_layer("bn")(64)
        maker = cst.helpers.get_full_name_for_node(name.func) if isinstance(name, cst.Call) else ""
        layer = maker == "getattr" or (str(maker).startswith("get_") and "layer" in str(maker))
        return "rngs" if layer else None

    def _attribute_hands_on(self, name: cst.Attribute, scope: Scope) -> str | None:
        attr = name.attr.value
        if attr in _DRAWING_METHODS:
            return "generator"
        if is_super(name.value) and scope.owner is not None:
            found = self.targets(cst.Call(name), scope)
            if found:
                return "rngs" if found[0] in self.taking else None
            takes = attr == "__init__" and any(map(self.takes, layers_of(scope.owner)))
            return "rngs" if takes else None
        if is_self(name.value) and scope.owner is not None:
            units = self.targets(cst.Call(name), scope)
            if units:
                return "rngs" if any(unit in self.taking for unit in units) else None
            return "rngs" if attributes(scope.owner).get(attr) == "given" else None
        if attr in ("block", "layer") or attr.endswith(("_block", "_layer")):
            return "rngs"  # a configuration's class, cnf.block(cnf)
        same = [u for u in self.taking if u.method == attr and attr != "__init__"]
        return "rngs" if same and attr not in ("forward", "append", "apply") else None

    def _is_maker(self, call: cst.Call, scope: Scope) -> bool:
        """Whether a call is one of a layer, of a class of modules, or of what hands `rngs` on."""
        found = scope.source.definition(call.func)
        layer = torch_layer(scope.source.qualified(call.func)) or is_module(found)
        return bool(layer) or self.hands_on(call, scope) is not None

    def _makes(self, name: str, scope: Scope) -> bool:
        """Whether a local name is a class, or a function that makes modules, as far as is known."""
        if name.startswith("init_") or name.endswith(("_init", "init_fn")) or name in ("cls", "fn"):
            return name == "cls" and (scope.owner is None or is_module(scope.owner))
        default = scope.defaults.get(name)
        known = default is not None and scope.source.definition(default) is not None
        if default is not None and known and name not in scope.assigned:
            return self._is_maker(cst.Call(default), scope)
        if name in scope.assigned:
            value = scope.assigned[name]
            if isinstance(value, cst.FunctionDef | cst.Lambda):
                return False
            if value_kind(scope.source, value) == "module":
                return False
            if is_partial(value) and value.args:
                made = cst.Call(value.args[0].value)
                known = scope.source.qualified(made.func) is not None
                return not known or self._is_maker(made, scope)
            own = isinstance(value, cst.Attribute) and is_self(value.value)
            if own and scope.owner is not None:  # fc = self.fc
                return attributes(scope.owner).get(value.attr.value) == "given"
        return True


def _of_program(unit: Unit, names: str) -> bool:
    """Whether a function is among some functions of a whole program."""
    program = unit.definition.source.program
    return program is not None and unit.definition.name in getattr(program, names)


def _runs_at_once(name: str) -> bool:
    """Whether a function calls what it is given while a model is built."""
    return name.endswith("apply") or "init" in name


def related(one: Definition, other: Definition) -> bool:
    """Whether one of two classes inherits from the other."""
    return one in lineage(other) or other in lineage(one)


def _calls(node: Any) -> list[cst.Call]:
    found: list[cst.Call] = []

    class Calls(cst.CSTVisitor):
        def visit_Call(self, node: cst.Call) -> None:
            found.append(node)

        def visit_Annotation(self, node: cst.Annotation) -> bool:
            return False

    node.visit(Calls())
    return found


def _handed(node: Any) -> list[Any]:
    """The expressions of a function that are arguments, results or assigned."""
    found: list[Any] = []

    class Values(cst.CSTVisitor):
        def visit_Arg(self, node: cst.Arg) -> None:
            found.append(node.value)

        def visit_Return(self, node: cst.Return) -> None:
            found.append(node.value)

        def visit_Assign(self, node: cst.Assign) -> None:
            found.append(node.value)

        def visit_Annotation(self, node: cst.Annotation) -> bool:
            return False

    node.body.visit(Values())
    return found


def _class_values(definition: Definition) -> set[Definition]:
    """The classes of modules that a definition hands on, to be called by someone else."""
    source = definition.source
    found: set[Definition] = set()

    class Values(cst.CSTVisitor):
        def visit_Call(self, node: cst.Call) -> bool:
            called = is_name(node.func, "isinstance") or is_name(node.func, "issubclass")
            if not called:
                if not isinstance(node.func, cst.Name | cst.Attribute):
                    node.func.visit(self)
                elif isinstance(node.func, cst.Attribute):
                    node.func.value.visit(self)
                for argument in node.args:
                    argument.value.visit(self)
            return False

        def visit_Annotation(self, node: cst.Annotation) -> bool:
            return False

        def visit_ClassDef(self, node: cst.ClassDef) -> bool:
            node.body.visit(self)
            return False

        def visit_Comparison(self, node: cst.Comparison) -> bool:
            return False

        def visit_Attribute(self, node: cst.Attribute) -> bool:
            self._note(node)
            return True

        def visit_Name(self, node: cst.Name) -> None:
            self._note(node)

        def _note(self, node: Any) -> None:
            one = source.definition(node)
            if one is not None and one != definition and is_module(one):
                found.add(one)

    definition.node.visit(Values())
    return found
