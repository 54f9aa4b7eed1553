"""Rewrites a definition that is ported to jaxnet as plain flax.nnx.

It is given jaxnet's source with jaxnet's whole names, `nn.functional.relu` and `ops.cat`, in which
methods of tensors, changes in place and random numbers are settled already. What is left are the
names, the parameters and buffers of modules, and where random numbers come from.
"""

from typing import Any

import libcst as cst

from jaxnet.port._flax.calls import NOTHING, Names, of_torch
from jaxnet.port._nodes import code, is_name, is_self
from jaxnet.port._statements import raising


class Converter(Names):
    """Rewrites one definition; the arguments are those of `Names`."""

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        self.open.append([])
        for part in node.body:
            for target in part.targets if isinstance(part, cst.Assign) else ():
                place = target.target
                if isinstance(place, cst.Attribute) and place.attr.value == "training":
                    self.words.add(id(place))
                    self.problem(f"{code(part)}: write model.train() or model.eval()")

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> Any:
        wrong = self.open.pop()
        if len(updated_node.body) == 1:
            part = self._statement(updated_node.body[0])
            updated_node = updated_node.with_changes(body=[part])
        return raising(wrong, [updated_node]) if wrong and self.functions else updated_node

    def _statement(self, part: Any) -> Any:
        """`setattr(self, "mean", x)` as an assignment, and None that may become a layer."""
        if isinstance(part, cst.Expr) and isinstance(part.value, cst.Call):
            call = part.value
            if is_name(call.func, "setattr") and len(call.args) == 3:
                name = call.args[1].value
                if isinstance(name, cst.SimpleString) and str(name.evaluated_value).isidentifier():
                    place = cst.Attribute(call.args[0].value, cst.Name(str(name.evaluated_value)))
                    return cst.Assign([cst.AssignTarget(place)], call.args[2].value)
        if isinstance(part, cst.Assign) and is_name(part.value, "None"):
            target = part.targets[0].target
            if isinstance(target, cst.Attribute) and is_self(target.value) and self._in_init:
                return part.with_changes(value=cst.parse_expression("nnx.data(None)"))
        return part

    def _compound(self, updated: Any) -> Any:
        wrong = self.open.pop()
        return raising(wrong, [updated]) if wrong and self.functions else updated

    def visit_If(self, node: cst.If) -> None:
        self.open.append([])

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        return self._compound(updated_node)

    def visit_For(self, node: cst.For) -> None:
        self.open.append([])

    def leave_For(self, original_node: cst.For, updated_node: cst.For) -> Any:
        return self._compound(updated_node)

    def visit_While(self, node: cst.While) -> None:
        self.open.append([])

    def leave_While(self, original_node: cst.While, updated_node: cst.While) -> Any:
        return self._compound(updated_node)

    def visit_With(self, node: cst.With) -> None:
        self.open.append([])

    def leave_With(self, original_node: cst.With, updated_node: cst.With) -> Any:
        return self._compound(updated_node)

    # functions and classes

    _in_init = False

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.words.add(id(node.name))
        every = [*node.params.params, *node.params.kwonly_params]
        self.functions.append({p.name.value for p in every})
        if node.name.value in ("train", "eval") and any(
            is_name(p.name, "self") for p in node.params.params
        ):
            self.problem(
                f"def {node.name.value}: nnx.Module.{node.name.value} of a model calls none of its "
                "parts', and sets `deterministic` in each"
            )
        if len(self.functions) == 1:
            self._in_init = node.name.value == "__init__"

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> Any:
        self.functions.pop()
        if self.functions or original_node.name.value != "__init__" or not self.keeps:
            return updated_node
        statement = cst.parse_statement("self.rngs = rngs.fork()")
        body = list(updated_node.body.body)
        place = next((i + 1 for i, one in enumerate(body) if "super()" in code(one)), 0)
        if not place and updated_node.get_docstring() is not None:
            place = 1
        body.insert(place, statement)
        return updated_node.with_changes(body=updated_node.body.with_changes(body=body))

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self.words.add(id(node.name))
        self.words |= {id(base.value) for base in node.bases if self._unknown_layer(base.value)}

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef) -> Any:
        unknown = [b for b in original_node.bases if self._unknown_layer(b.value)]
        if unknown:
            updated_node = self._without_base(original_node, updated_node, code(unknown[0].value))
        if not self.trains or self.functions:
            return updated_node
        flag = cst.parse_statement("deterministic = False  # model.eval() makes it True\n")
        body = list(updated_node.body.body)
        place = int(updated_node.get_docstring() is not None)
        first = body[place] if place < len(body) else None
        if isinstance(first, cst.FunctionDef) and not first.leading_lines:
            body[place] = first.with_changes(leading_lines=[cst.EmptyLine(False)])
        body.insert(place, flag)
        return updated_node.with_changes(body=updated_node.body.with_changes(body=body))

    def _without_base(self, old: cst.ClassDef, new: cst.ClassDef, base: str) -> cst.ClassDef:
        """A class of which the base is not there, so that it cannot be made."""
        self.open.append([])
        self.problem(f"{of_torch(base)}: {NOTHING}")
        statement = cst.parse_statement(f"raise NotImplementedError({self.open.pop()[0]!r})")
        bases = [
            b.with_changes(value=cst.parse_expression("nnx.Module"))
            if self._unknown_layer(a.value) else b
            for a, b in zip(old.bases, new.bases, strict=True)
        ]  # fmt: skip
        body, made = [], False
        for part in new.body.body:
            if isinstance(part, cst.FunctionDef) and part.name.value == "__init__":
                inner = part.body.with_changes(body=[statement, *part.body.body])
                part, made = part.with_changes(body=inner), True
            body.append(part)
        if not made:
            text = "def __init__(self, *args, **options):\n    pass\n"
            made_one: Any = cst.parse_statement(text)
            inner = made_one.body.with_changes(body=[statement])
            body.append(made_one.with_changes(body=inner))
        return new.with_changes(bases=bases, body=new.body.with_changes(body=body))
