"""Rewrites names, calls, functions and classes; `_statements.py` rewrites the statements."""

import dataclasses
from typing import Any

import libcst as cst

from jaxnet.port._calls import (
    CASTS,
    HANDLED,
    NO_GRADIENT,
    OF_SHAPES,
    VALUES,
    bound,
    own_call,
    rngs_parameter,
    torch_call,
    with_rngs,
)
from jaxnet.port._classes import is_module
from jaxnet.port._kinds import ARRAYS, Kinds
from jaxnet.port._names import (
    FAMILIES,
    LEFT_OUT,
    NOTHING_KNOWN,
    TRAINING,
    is_optimizer,
    jaxnet_name,
    tensor_type,
)
from jaxnet.port._nodes import code, is_partial, is_self, is_super, parts_of
from jaxnet.port._port import Note
from jaxnet.port._scopes import Scope, Unit
from jaxnet.port._sharing import Sharing
from jaxnet.port._source import Definition
from jaxnet.port._tensors import function_of


@dataclasses.dataclass
class _Function:
    scope: Scope
    kinds: Kinds
    unit: Unit | None
    rngs: bool
    making: bool
    quiet: bool  # decorated with torch.no_grad()


class Expressions(cst.CSTTransformer):
    """Rewrites the expressions of one definition.

    Args:
        definition: The definition.
        sharing: Which changes in place would be lost, and who takes `rngs`.
        names: The names of the definitions in the output, by module and name.

    Attributes:
        imports: The import statements that the output needs.
        marked: What is not supported; the output raises an error there.
        notes: What a reader should look at.
    """

    def __init__(self, definition: Definition, sharing: Sharing, names: dict[str, str]) -> None:
        super().__init__()
        self.definition = definition
        self.source = definition.source
        self.sharing = sharing
        self.needs = sharing.needs
        self.lost: dict[int, list[str]] = {}  # changes in place, by the statement
        self.names = names
        self.imports: set[str] = set()
        self.marked: list[Note] = []
        self.notes: list[Note] = []
        self.functions: list[_Function] = []
        self.methods: dict[str, list[Any]] = {}  # to be put behind the method of the name
        self.classes = 0
        self.types = 0  # annotations that are open
        self.firsts: set[int] = set()  # arguments f of partial(f, ...)
        self.words: set[int] = set()  # names that are no expressions: of arguments, of attributes
        self.allowed: set[int] = set()  # torch.no_grad of a block or a decorator
        self.places: set[int] = set()  # x.data that is given a value
        self.asked: set[int] = set()  # classes in isinstance(x, ...)
        self.gone: set[int] = set()  # what the output does not say
        self.whole = 0  # statements that are open and marked as a whole
        self.quiet = 0  # blocks of torch.no_grad() that are open
        self.line = 0  # the statement that is open
        self.unseen: set[int] = set()  # those that change what has a gradient, without one
        self.open: list[list[str]] = []  # what is not supported in each open statement
        self.nowhere = Scope(self.source, None, set(), {})

    @property
    def here(self) -> _Function | None:
        return self.functions[-1] if self.functions else None

    @property
    def scope(self) -> Scope:
        return self.here.scope if self.here else self.nowhere

    def _line(self, node: Any) -> int:
        return self.source.lines.get(id(node), 0)

    def problem(self, node: Any, text: str) -> None:
        """Notes that the open statement is not supported."""
        if id(node) in self.gone or self.whole:
            return
        note = Note(self.source.path.name, self._line(node), text)
        if note not in self.marked:
            self.marked.append(note)
        if self.open:
            self.open[-1].append(str(note))

    def note(self, node: Any, text: str) -> None:
        """Notes what a reader should look at."""
        note = Note(self.source.path.name, self._line(node), text)
        if note not in self.notes:
            self.notes.append(note)

    def need(self, *imports: str) -> None:
        self.imports.update(imports)

    # names

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        self.words.add(id(node.attr))
        return not self._dotted(node)

    def _dotted(self, node: Any) -> str | None:
        """What a name stands for, if it is torch's or one of the program's definitions."""
        first: Any = node
        while isinstance(first, cst.Attribute):
            first = first.value
        if not isinstance(first, cst.Name) or self.scope.is_local(first.value):
            return None
        dotted = self.source.qualified(node)
        if dotted is None:
            return None
        tops = ("torch", *self.source.project.tops)
        return dotted if dotted.partition(".")[0] in tops else None

    def visit_Arg(self, node: cst.Arg) -> None:
        if node.keyword is not None:
            self.words.add(id(node.keyword))

    def visit_Call(self, node: cst.Call) -> None:
        if is_partial(node) and node.args:
            self.firsts.add(id(node.args[0]))
        dotted = self._dotted(node.func) or ""
        if dotted in HANDLED or tensor_type(dotted) is not None:
            self.words.add(id(node.func))
        frozen = isinstance(node.func, cst.Attribute) and node.func.attr.value == "requires_grad_"
        for arg in node.args:
            keyword = arg.keyword.value if arg.keyword is not None else ""
            if frozen or (keyword in LEFT_OUT and self._is_of_torch(node, dotted)):
                self.gone |= {id(part) for part in parts_of(arg)}
        if isinstance(node.func, cst.Attribute) and node.func.attr.value == "type":
            self.words |= {id(arg.value) for arg in node.args}  # x.type(torch.FloatTensor)
        if isinstance(node.func, cst.Name) and node.func.value in ("isinstance", "issubclass"):
            for part in node.args[1:]:
                each = part.value.elements if isinstance(part.value, cst.Tuple) else [part]
                self.asked |= {id(one.value) for one in each}
                self._asks_for_dtype(node, [one.value for one in each])

    def _is_of_torch(self, node: cst.Call, dotted: str) -> bool:
        """Whether what is called is a function of torch or a method of a tensor."""
        if not isinstance(node.func, cst.Attribute) or dotted:
            return dotted.startswith("torch.")
        if self.here is None or is_self(node.func.value):
            return False
        return not self.needs.targets(node, self.scope) and self.here.kinds(node.func.value) in (
            *ARRAYS,
            None,
        )

    def _asks_for_dtype(self, node: cst.Call, types: list[Any]) -> None:
        for one in types:
            name = self._dotted(one) or ""
            if tensor_type(name) is not None and name != "torch.Tensor":
                self.problem(node, f"{name}: arrays have one class; ask for x.dtype")

    def visit_Param(self, node: cst.Param) -> None:
        self.words.add(id(node.name))

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        return updated_node if id(original_node) in self.words else self._named(original_node)

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> Any:
        if id(original_node) in self.words:
            return updated_node
        if self._dotted(original_node):
            return self._named(original_node)
        name = original_node.attr.value
        if name == "data" and self.here and self.here.kinds(original_node) in ARRAYS:
            if id(original_node) in self.places or not self.here.kinds.computing:
                return updated_node.value
            self.need("from jaxnet import ops")
            return cst.Call(cst.parse_expression("ops.detach"), [cst.Arg(updated_node.value)])
        if name in ("is_cuda", "is_quantized", "is_nested") and self.here:
            return cst.Name("False")
        gradient = name in ("requires_grad", "grad", "grad_fn")
        if gradient and self.here and self.here.kinds(original_node.value) in ARRAYS:
            self.problem(original_node, f"Tensor.{name}: gradients are values of jax.grad")
        if name == "forward" and is_super(original_node.value):
            return updated_node.with_changes(attr=cst.Name("__call__"))
        return updated_node

    def leave_Subscript(self, original_node: cst.Subscript, updated_node: cst.Subscript) -> Any:
        """`x[[0, 1]]`: JAX takes no lists as indices."""
        if self.types and code(updated_node.value) == "Any" != code(original_node.value):
            return updated_node.value  # Future[Tensor], which jaxnet has not
        if self.here is None or self.here.kinds(original_node.value) not in ARRAYS:
            return updated_node
        parts = []
        for element in updated_node.slice:
            index: Any = element.slice
            if isinstance(index, cst.Index) and isinstance(index.value, cst.List):
                self.need("from jaxnet import ops")
                array = cst.Call(cst.parse_expression("ops.tensor"), [cst.Arg(index.value)])
                element = element.with_changes(slice=index.with_changes(value=array))
            parts.append(element)
        return updated_node.with_changes(slice=parts)

    def spelled(self, node: Any, dotted: str) -> str:
        """How the program says a name of torch, which the output says alike."""
        return cst.helpers.get_full_name_for_node(node) or dotted

    def _named(self, node: Any) -> Any:
        dotted = self._dotted(node)
        if dotted is None:
            return node
        if dotted.partition(".")[0] != "torch":
            found = self.source.project.find(dotted)
            if found is None:
                return node
            name, rest = self.names.get(found[0].key, found[0].name), found[1]
            new = cst.parse_expression(f"{name}.{rest}" if rest else name)
            return _keep_brackets(node, new)
        spelled = self.spelled(node, dotted)
        if dotted in FAMILIES and id(node) in self.asked:
            self.need("from jaxnet import nn")
            return cst.parse_expression(f"({', '.join(FAMILIES[dotted])})")
        found_name = jaxnet_name(dotted, spelled, frozenset(self.names.values()))
        if found_name.problem and self.types:  # is never called
            self.need("from typing import Any")
            return _keep_brackets(node, cst.Name("Any"))
        self.need(*found_name.imports)
        if found_name.problem:
            self.problem(node, f"{dotted}: {found_name.problem}")
            if not found_name.code:
                self.need("from jaxnet import ops")
                return cst.parse_expression("ops." + dotted.partition(".")[2])
        return _keep_brackets(node, cst.parse_expression(found_name.code))

    # calls

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        here, scope = self.here, self.scope
        name = original_node.func
        dotted = self._dotted(name)
        updated: Any = updated_node
        if dotted in (*NO_GRADIENT, *CASTS) and id(name) not in self.allowed:
            self.problem(original_node, f"{dotted}: write it as a block or a decorator")
            self.need("from contextlib import nullcontext")
            return cst.parse_expression("nullcontext()")
        if dotted is not None and dotted.startswith("torch."):
            updated, wrong, note = torch_call(
                here.kinds if here else None, original_node, updated, dotted
            )
            program = self.source.program
            if is_optimizer(dotted) and not (program is not None and program.trained):
                wrong = f"{dotted}: {TRAINING}"
            if wrong:
                self.problem(original_node, wrong)
            if note:
                self.note(original_node, note)
            if tensor_type(dotted) is not None or dotted in VALUES:
                self.need("from jaxnet import ops")
            if dotted in OF_SHAPES:
                self.need("from jaxnet import nn")
        elif dotted is not None:
            updated, wrong = own_call(scope, original_node, updated, self.needs)
            if wrong:
                self.problem(original_node, wrong)
        elif isinstance(name, cst.Attribute):
            if name.attr.value == "forward" and not is_super(name.value):
                return updated.with_changes(func=updated.func.value)
            if self.needs.targets(original_node, scope):
                updated, wrong = own_call(scope, original_node, updated, self.needs)
                if wrong:
                    self.problem(original_node, wrong)
            if here is not None:
                hands = self.needs.hands_on(original_node, scope) if here.rngs else None
                new, wrong = function_of(
                    here.kinds, original_node, updated, here.rngs and here.making
                )
                # A method that a class of the program has, and nothing that torch's tensors have.
                own = wrong.endswith(NOTHING_KNOWN) and name.attr.value in self.needs.by_method
                if wrong and not own:
                    self.problem(original_node, wrong)
                if new is not None:
                    self.need("from jaxnet import nn", "from jaxnet import ops")
                    return _keep_brackets(original_node, new)
                if hands == "generator":
                    return updated
        if not isinstance(updated, cst.Call):
            return updated
        if here is not None and here.rngs:
            first = (
                original_node.args[0].value
                if is_partial(original_node) and original_node.args
                else None
            )
            if self.needs.is_function(first, scope):
                return bound(updated, None)
            keyword = self.needs.hands_on(original_node, scope)
            if keyword:
                updated = with_rngs(updated, keyword)
        elif here is None and dotted and self.needs.hands_on(original_node, scope):
            self.problem(original_node, f"{dotted}: a layer outside of functions has no rngs")
        return updated

    # functions as values

    def _bound(self, old: Any, new: Any) -> Any:
        """A value that is a function which takes `rngs`, as one that has it."""
        here = self.here
        if here is None or not here.rngs or old is None or isinstance(old, cst.Call):
            return new
        if not self.needs.is_function(old, self.scope):
            return new
        self.need("from functools import partial")
        return bound(None, new)

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> Any:
        if id(original_node) in self.firsts:
            return updated_node
        return updated_node.with_changes(value=self._bound(original_node.value, updated_node.value))

    def leave_Return(self, original_node: cst.Return, updated_node: cst.Return) -> Any:
        return updated_node.with_changes(value=self._bound(original_node.value, updated_node.value))

    # functions and classes

    def visit_Annotation(self, node: cst.Annotation) -> None:
        self.types += 1

    def leave_Annotation(self, original_node: cst.Annotation, updated_node: cst.Annotation) -> Any:
        self.types -= 1
        return updated_node

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        self.words.add(id(node.name))
        self.classes += 1
        return all(self._dotted(base.value) != _FUNCTION for base in node.bases)

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> Any:
        self.classes -= 1
        if any(self._dotted(base.value) == _FUNCTION for base in original_node.bases):
            return self._without_backward(original_node, updated_node)
        body = []
        for old, new in zip(original_node.body.body, updated_node.body.body, strict=False):
            body.append(new)
            if isinstance(old, cst.FunctionDef) and not self.classes:
                body += self.methods.pop(old.name.value, [])
        if len(body) == len(updated_node.body.body):
            return updated_node
        return updated_node.with_changes(body=updated_node.body.with_changes(body=body))

    def _without_backward(self, node: cst.ClassDef, updated: cst.ClassDef) -> Any:
        """A torch.autograd.Function, of which only its error can be called."""
        text = f"{node.name.value}: torch.autograd.Function: write a jax.custom_vjp"
        self.marked.append(Note(self.source.path.name, self._line(node), text))
        where = f"{self.source.path.name}:{self._line(node)}"
        method = cst.parse_statement(
            f"@staticmethod\ndef apply(*arguments):\n"
            f"    raise NotImplementedError({f'{where}: {text}'!r})\n"
        )
        docstring = [s for s in updated.body.body[:1] if node.get_docstring() is not None]
        body = updated.body.with_changes(body=[*docstring, method])
        return updated.with_changes(
            bases=[], body=body, lpar=cst.MaybeSentinel.DEFAULT, rpar=cst.MaybeSentinel.DEFAULT
        )

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.words.add(id(node.name))
        if self.functions:  # a function in a function sees the names around it
            outer = self.functions[-1]
            scope = outer.scope.inside(node)
            program = self.source.program
            if program is not None and node.name.value in program.losses:
                scope.host = False
                kinds = Kinds(scope, node, True)
                loss = dataclasses.replace(outer, scope=scope, kinds=kinds, unit=None)
                self.functions.append(dataclasses.replace(loss, making=False, rngs=False))
                return
            kinds = Kinds(scope, node, outer.kinds.computing)
            self.functions.append(dataclasses.replace(outer, scope=scope, kinds=kinds, unit=None))
            return
        unit = Unit(self.definition, node.name.value if self.classes else "")
        scope = self.needs.units.get(unit) or Scope.of(self.source, None, node)
        known = unit in self.needs.units
        kinds = self.sharing.kinds[unit] if known else Kinds(scope, node, True)
        making, rngs = unit in self.needs.making, unit in self.needs.taking | self.needs.owners
        quiet = any(self._is_quiet_decorator(d.decorator) for d in node.decorators)
        self.functions.append(_Function(scope, kinds, unit, rngs, making, quiet))
        self.lost, self.unseen = self.sharing.lost(unit) if known else ({}, set())

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> Any:
        function = self.functions.pop()
        unit = function.unit
        if unit is None:
            return updated_node
        if unit.method == "forward" and is_module(self.definition):
            updated_node = updated_node.with_changes(name=cst.Name("__call__"))
        optional = self.needs.ignores(unit)
        if function.rngs and "rngs__of_program" in function.scope.parameters:
            self.marked.append(Note(
                self.source.path.name, self._line(original_node),
                "the parameter rngs has the name of the random numbers in jaxnet, and is called "
                "rngs_of_program",
            ))  # fmt: skip
        if (function.rngs and unit not in self.needs.owners) or optional:
            typed = _has_types(original_node) and "Generator" not in self.names.values()
            if typed:
                self.need("from jaxnet.random import Generator")
            updated_node = rngs_parameter(updated_node, optional, typed)
        return updated_node

    def _is_quiet_decorator(self, node: Any) -> bool:
        return self._dotted(node.func if isinstance(node, cst.Call) else node) in NO_GRADIENT

    def visit_Decorator(self, node: cst.Decorator) -> bool:
        self.allowed.add(id(getattr(node.decorator, "func", None)))
        name = node.decorator.func if isinstance(node.decorator, cst.Call) else node.decorator
        return self._dotted(name) not in (*NO_GRADIENT, *CASTS)

    def leave_Decorator(self, original_node: cst.Decorator, updated_node: cst.Decorator) -> Any:
        node = original_node.decorator
        dotted = self._dotted(node.func if isinstance(node, cst.Call) else node) or ""
        return cst.RemoveFromParent() if dotted in (*NO_GRADIENT, *CASTS) else updated_node


_FUNCTION = "torch.autograd.Function"


def _has_types(node: cst.FunctionDef) -> bool:
    params = node.params
    some = [*params.params, *params.kwonly_params]
    some += [p for p in (params.star_arg, params.star_kwarg) if isinstance(p, cst.Param)]
    return node.returns is not None or any(p.annotation is not None for p in some)


def _keep_brackets(old: Any, new: Any) -> Any:
    if getattr(old, "lpar", ()) and not getattr(new, "lpar", ()):
        return new.with_changes(lpar=old.lpar, rpar=old.rpar)
    return new
