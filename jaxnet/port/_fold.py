"""Takes out of a syntax tree what means nothing in jaxnet: compilers, devices, pretrained weights.

A model that is ported is built from random weights and gets others by their names. So a builder's
argument for pretrained weights is None, and what depends on it is decided here, as are the
questions whether torch compiles the model.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._answers import (
    CONSTANTS,
    Bindings,
    answer_of,
    flat,
    has,
    is_pass,
    is_text,
    without_fallbacks,
)
from jaxnet.port._nodes import is_none
from jaxnet.port._parameters import means_nothing, says_device

if TYPE_CHECKING:
    from jaxnet.port._source import Source

_DECORATORS = ("torch.jit.", "torch.fx.", "torch.compile", "torch._dynamo.", "torch.compiler.")
_OVERLOADS = {
    "torch.jit._overload_method", "torch.jit._overload", "torch.jit.unused_overload",
    "typing.overload", "typing_extensions.overload",
}  # fmt: skip
_REGISTRIES = {
    "register_model", "handle_legacy_interface", "register_notrace_module", "disable_compiler",
    "register_notrace_function", "auto_docstring", "kwonly_to_pos_or_kw", "can_return_tuple",
}  # fmt: skip
_SILENT = {"_log_api_usage_once", "register_notrace_module", "register_notrace_function", "wrap"}
# timm's builder calls a class with what is left of its arguments without these.
_BUILDER = "build_model_with_cfg"
_OF_BUILDER = {
    "variant", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "feature_cfg",
    "pretrained_strict", "pretrained_filter_fn", "cache_dir", "kwargs_filter",
    "pretrained_model_args",
}  # fmt: skip
_METHODS = {"_load_from_state_dict", "_save_to_state_dict", "_version", "load_pretrained"}


@dataclasses.dataclass
class Folded:
    """A tree without what was taken out.

    Attributes:
        tree: The tree.
        lines: The line of each of its nodes in the file, by the node's id.
        removed: The parameters that functions no longer have, position and name, by the name of
            the function, of the class, or of the class and the method.
    """

    tree: cst.Module
    lines: dict[int, int]
    removed: dict[str, list[tuple[int, str]]]


def fold(source: "Source", tree: cst.Module, positions: Mapping[cst.CSTNode, Any]) -> Folded:
    """Takes out of a file what means nothing in jaxnet."""
    folder = _Folder(source, positions)
    defined = Bindings()
    tree.visit(defined)
    folder.defined, folder.once = defined.names, defined.once()
    return Folded(tree.visit(folder), folder.lines, folder.removed)  # type: ignore[arg-type]


def owner_name(classes: list[str], function: str) -> str:
    """The name under which the parameters of a function are looked up."""
    if not classes:
        return function
    return classes[-1] if function == "__init__" else f"{classes[-1]}.{function}"


class _Folder(cst.CSTTransformer):
    def __init__(self, source: "Source", positions: Mapping[cst.CSTNode, Any]) -> None:
        super().__init__()
        self.source = source
        self.positions = positions
        self.lines: dict[int, int] = {}
        self.removed: dict[str, list[tuple[int, str]]] = {}
        self.fixed: list[set[str]] = []
        self.words: set[int] = set()  # names that are no expressions
        self.classes: list[str] = []
        self.own: set[int] = set()  # arguments of the program's own functions
        self.defined: set[str] = set()  # the functions, methods and classes of the file
        self.once: set[str] = set()  # the names that have one meaning in the file
        self.answers: dict[str, bool] = {}  # functions that only answer a question of CONSTANTS
        self.flags: dict[str, bool] = {}  # names at the top of the file that have such an answer
        self.asked = 0  # the questions that have been answered
        self.before: list[int] = []  # and how many they were when each open function began

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        new = super().on_leave(original_node, updated_node)
        if isinstance(new, cst.CSTNode) and original_node in self.positions:
            self.lines[id(new)] = self.positions[original_node].start.line
        return new

    def _qualified(self, node: Any) -> str:
        name: Any = node
        while isinstance(name, cst.Attribute):
            name = name.value
        first = name.value if isinstance(name, cst.Name) else ""
        if first not in self.source.imports:
            return first if isinstance(node, cst.Name) else ""
        dotted = cst.helpers.get_full_name_for_node(node) or ""
        return self.source.imports[first] + dotted[len(first) :]

    # functions

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self.classes.append(node.name.value)

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> Any:
        self.classes.pop()
        return updated_node

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        parameters = [*node.params.params, *node.params.kwonly_params]
        names = {parameter.name.value for parameter in parameters}
        fixed = means_nothing(node)
        self.before.append(self.asked)
        self.fixed.append(fixed | (self.fixed[-1] - names if self.fixed else set()))
        if fixed:
            owner = owner_name(self.classes, node.name.value)
            skip = 1 if self.classes else 0
            self.removed[owner] = [
                (index - skip if index < len(node.params.params) else 10**6, p.name.value)
                for index, p in enumerate(parameters)
                if p.name.value in fixed
            ]

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> Any:
        self.fixed.pop()
        asks = self.asked > self.before.pop()
        name = original_node.name.value
        if self.classes and name in _METHODS:
            return cst.RemoveFromParent()
        for decorator in original_node.decorators:
            if self._qualified(decorator.decorator) in _OVERLOADS:
                return cst.RemoveFromParent()
        if asks:
            self._note_answer(updated_node)
        owner = owner_name(self.classes, name)
        gone = {p for _, p in self.removed.get(owner, ())}
        if not gone:
            return updated_node
        params = updated_node.params
        kept = [p for p in params.params if p.name.value not in gone]
        keywords = [p for p in params.kwonly_params if p.name.value not in gone]
        star = params.star_arg
        if not keywords and isinstance(star, cst.ParamStar):
            star = cst.MaybeSentinel.DEFAULT
        params = params.with_changes(params=kept, kwonly_params=keywords, star_arg=star)
        return updated_node.with_changes(params=params)

    def _note_answer(self, node: cst.FunctionDef) -> None:
        """Notes a function at the top of the file that does nothing but give True or False."""
        top = not self.classes and not self.fixed and not node.decorators and not node.asynchronous
        live = [s for s in getattr(node.body, "body", ()) if not is_text(s) and not is_pass(s)]
        if top and node.name.value in self.once and live:
            known = answer_of(live[0])
            if known is not None:
                self.answers[node.name.value] = known

    def leave_Try(self, original_node: cst.Try, updated_node: cst.Try) -> Any:
        # Giving True or False raises nothing, so that no handler is ever run.
        first = next((s for s in updated_node.body.body if not is_pass(s)), None)
        new = first is not None and answer_of(first) is not None
        if new and answer_of(original_node.body.body[0]) is None and not updated_node.finalbody:
            block = updated_node.body.with_changes(body=[first])
            return flat(block, updated_node.leading_lines)
        return without_fallbacks(self.source, updated_node)

    def leave_Decorator(self, original_node: cst.Decorator, updated_node: cst.Decorator) -> Any:
        node = original_node.decorator
        name = self._qualified(node.func if isinstance(node, cst.Call) else node)
        if name.startswith(_DECORATORS) or name.rpartition(".")[2] in _REGISTRIES:
            return cst.RemoveFromParent()
        return updated_node

    # statements

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> Any:
        if len(updated_node.body) == 1 and self._is_silent(updated_node.body[0]):
            return cst.RemoveFromParent()
        if len(updated_node.body) == 1 and not self.classes and not self.fixed:
            self._note_flag(original_node.body[0], updated_node.body[0])
        return updated_node

    def _note_flag(self, old: Any, new: Any) -> None:
        """Notes `has_silu = hasattr(F, "silu")`, the answer of a question under a name."""
        if not isinstance(new, cst.Assign) or len(new.targets) != 1:
            return
        target, value = new.targets[0].target, new.value
        if not isinstance(value, cst.Name):
            return
        new_answer = not isinstance(old.value, cst.Name)
        if isinstance(target, cst.Name) and target.value in self.once and new_answer:
            known = {"True": True, "False": False}.get(value.value)
            self.flags |= {} if known is None else {target.value: known}

    def _is_silent(self, part: Any) -> bool:
        if isinstance(part, cst.Expr) and isinstance(part.value, cst.Call):
            name = self._qualified(part.value.func)
            return name.rpartition(".")[2] in _SILENT
        if isinstance(part, cst.Assign) and len(part.targets) == 1:
            target = part.targets[0].target
            if isinstance(target, cst.Name):
                if self.fixed and target.value in self.fixed[-1]:
                    return True  # weights = ResNet18_Weights.verify(weights)
                if self.classes and not self.fixed and target.value in ("__constants__", *_METHODS):
                    return True
                if self.fixed and _is_factory(part.value):
                    self.fixed[-1].add(target.value)  # dd = {"device": device, "dtype": dtype}
                    return True
        return False

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self.words.add(id(node.attr))

    def visit_Arg(self, node: cst.Arg) -> None:
        self.words.add(id(node.keyword))

    def visit_Param(self, node: cst.Param) -> None:
        self.words.add(id(node.name))

    def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
        return not isinstance(node.target, cst.Name)

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        known = id(original_node) not in self.words and self._is_fixed(original_node.value)
        return cst.Name("None") if known else updated_node

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        name = self._qualified(original_node.func)
        known = CONSTANTS.get(name)
        if isinstance(original_node.func, cst.Name) and name in self.answers:
            known = str(self.answers[name])
        if known is not None:
            self.asked += 1
            return cst.Name(known)
        if name == "hasattr" and len(original_node.args) == 2:
            owner, attribute = (arg.value for arg in original_node.args)
            if isinstance(attribute, cst.SimpleString):
                there = has(self._qualified(owner), str(attribute.evaluated_value))
                return updated_node if there is None else cst.Name(str(there))
        if name.rpartition(".")[2] != _BUILDER or not updated_node.args:
            return updated_node
        made, *rest = updated_node.args
        kept = []
        positions = 0
        for arg in rest:
            if arg.keyword is None and not arg.star:
                positions += 1
                if positions > 2:  # not the name of the variant, and not whether it is pretrained
                    return updated_node
            elif arg.keyword is not None and arg.keyword.value == "model_cfg":
                kept.append(arg.with_changes(keyword=cst.Name("cfg")))
            elif arg.keyword is None or arg.keyword.value not in _OF_BUILDER:
                kept.append(arg)
        return updated_node.with_changes(func=made.value, args=kept)

    def visit_Call(self, node: cst.Call) -> None:
        own = self._is_own(node.func)
        for arg in node.args:
            if own:
                self.own.add(id(arg))

    def _is_own(self, function: Any) -> bool:
        """Whether a call is one of the program's functions, whose parameters are looked up."""
        own = isinstance(function, cst.Attribute) and isinstance(function.value, cst.Name)
        if own and function.value.value == "self":
            return function.attr.value in self.defined
        name = self._qualified(function).partition(".")[0]
        return name in self.defined or name in self.source.project.tops

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> Any:
        value = original_node.value
        keyword = "" if original_node.keyword is None else original_node.keyword.value
        if id(original_node) in self.own and original_node.star != "**":
            return updated_node  # `own_call` leaves out what the function no longer has
        if keyword == "device" and (says_device(value) or self._is_device(value)):
            return cst.RemoveFromParent()
        if isinstance(value, cst.Name) and self._is_fixed(value.value):
            factory = value.value in ("device", "dtype")
            same = factory if not keyword else keyword == value.value
            if original_node.star == "**" or same:
                return cst.RemoveFromParent()
        return updated_node

    def _is_device(self, value: Any) -> bool:
        return isinstance(value, cst.Name) and (
            self._is_fixed(value.value) or value.value == "device"
        )

    def leave_StarredDictElement(
        self, original_node: cst.StarredDictElement, updated_node: cst.StarredDictElement
    ) -> Any:
        value = original_node.value
        gone = isinstance(value, cst.Name) and self._is_fixed(value.value)
        return cst.RemoveFromParent() if gone else updated_node

    def _is_fixed(self, name: str) -> bool:
        return bool(self.fixed) and name in self.fixed[-1]

    # conditions

    def _constant(self, node: Any) -> bool | None:
        """The truth of an expression where it is known."""
        if isinstance(node, cst.Name):
            known = {"True": True, "False": False, "None": False}
            return known.get(node.value, self.flags.get(node.value))
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            inner = self._constant(node.expression)
            return None if inner is None else not inner
        if isinstance(node, cst.BooleanOperation):
            stops = isinstance(node.operator, cst.Or)
            sides = [self._constant(node.left), self._constant(node.right)]
            return stops if stops in sides else (None if None in sides else not stops)
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            target = node.comparisons[0]
            if is_none(node.left) and is_none(target.comparator):
                return {cst.Is: True, cst.IsNot: False}.get(type(target.operator))
        return None

    def leave_Comparison(self, original_node: cst.Comparison, updated_node: cst.Comparison) -> Any:
        target = original_node.comparisons[0]
        name, listed = original_node.left, target.comparator
        if (
            isinstance(target.operator, cst.In)
            and isinstance(name, cst.SimpleString)
            and isinstance(listed, cst.Call)
            and len(listed.args) == 1
            and self._qualified(listed.func) == "dir"
        ):
            known = has(self._qualified(listed.args[0].value), str(name.evaluated_value))
            return updated_node if known is None else cst.Name(str(known))
        return updated_node

    def leave_BooleanOperation(
        self, original_node: cst.BooleanOperation, updated_node: cst.BooleanOperation
    ) -> Any:
        neutral = isinstance(updated_node.operator, cst.And)
        if self._constant(updated_node.left) is neutral:
            return updated_node.right
        if self._constant(updated_node.right) is neutral:
            return updated_node.left
        return updated_node

    def leave_IfExp(self, original_node: cst.IfExp, updated_node: cst.IfExp) -> Any:
        known = self._constant(updated_node.test)
        return (
            updated_node if known is None else updated_node.body if known else updated_node.orelse
        )

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        known = self._constant(updated_node.test)
        live = [s for s in updated_node.body.body if not is_pass(s)]
        orelse = updated_node.orelse
        if known is None and live:
            return updated_node
        if known is None and not live and orelse is None and original_node.body.body:
            was_pass = all(is_pass(s) for s in original_node.body.body)
            return updated_node if was_pass else cst.RemoveFromParent()
        if known is None:
            return updated_node
        if known:
            return flat(updated_node.body, updated_node.leading_lines)
        if orelse is None:
            return cst.RemoveFromParent()
        if isinstance(orelse, cst.If):
            return orelse.with_changes(leading_lines=updated_node.leading_lines)
        return flat(orelse.body, updated_node.leading_lines)

    def leave_IndentedBlock(
        self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock
    ) -> Any:
        if updated_node.body:
            return updated_node
        return updated_node.with_changes(body=[cst.parse_statement("pass")])


def _is_factory(node: Any) -> bool:
    """Whether an expression is {"device": device, "dtype": dtype}."""
    if not isinstance(node, cst.Dict) or not node.elements:
        return False
    keys = [e.key.evaluated_value for e in node.elements
            if isinstance(e, cst.DictElement) and isinstance(e.key, cst.SimpleString)]  # fmt: skip
    return len(keys) == len(node.elements) and set(keys) <= {"device", "dtype"}
