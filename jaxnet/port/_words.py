"""Takes the devices out of a program, and gives what is around a model its word in jaxnet."""

from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import assignment_of, call_of
from jaxnet.port._nodes import code, parts_of

if TYPE_CHECKING:
    from jaxnet.port._source import Source

_SILENT = {
    "torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "torch.cuda.empty_cache",
    "torch.cuda.synchronize", "torch.cuda.set_device", "torch.mps.manual_seed",
    "torch.set_num_threads", "torch.accelerator.set_device_index",
}  # fmt: skip
"""Statements that say nothing about the numbers."""


class Positioned(cst.CSTTransformer):
    """A transformer that keeps the places of the nodes in the file.

    Args:
        positions: The places by the node, to which those of new nodes are added.
    """

    def __init__(self, positions: dict[Any, Any]) -> None:
        super().__init__()
        self.positions = positions

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        new = super().on_leave(original_node, updated_node)
        if original_node in self.positions:
            nodes = new.nodes if isinstance(new, cst.FlattenSentinel) else [new]
            for node in nodes:
                if isinstance(node, cst.CSTNode):
                    self.positions.setdefault(node, self.positions[original_node])
        return new


class Words(Positioned):
    """Takes out devices, and rewrites what saves, loads and seeds.

    Args:
        source: The file.
        positions: The places of the nodes.
        devices: The names that stand for devices.
        kept: Those of them that the program also prints or asks.
        weights: The name of jaxnet's module of weights.
    """

    def __init__(
        self,
        source: "Source",
        positions: dict[Any, Any],
        devices: set[str],
        kept: set[str],
        weights: str,
    ) -> None:
        super().__init__(positions)
        self.source = source
        self.devices = devices
        self.kept = kept
        self.weights = weights
        self.imports: set[str] = set()
        self.functions: dict[str, list[str]] = {}
        for statement in source_functions(source.whole_tree):
            params = statement.params
            names = [p.name.value for p in (*params.params, *params.kwonly_params)]
            self.functions[statement.name.value] = names

    def _name(self, node: Any) -> str:
        return self.source.imported(node)

    def _gone(self, name: str) -> bool:
        return name in self.devices and name not in self.kept

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> Any:
        call, assign = call_of(original_node), assignment_of(original_node)
        if call is not None:
            if self._name(call.func) in _SILENT:
                return cst.RemoveFromParent()
            new = call_of(updated_node)
            moved = isinstance(call.func, cst.Attribute) and call.func.attr.value in ("to", "cuda")
            return cst.RemoveFromParent() if new is None and moved else updated_node
        if assign is None:
            return updated_node
        target = assign.targets[0].target
        if self._name(target).startswith("torch.backends."):
            return cst.RemoveFromParent()
        named = isinstance(target, cst.Name) and target.value in self.devices
        if named and is_device(self._name, assign.value, self.devices):
            if code(target) not in self.kept:
                return cst.RemoveFromParent()
            self.imports.add("import jax")
            new_value = cst.parse_expression("jax.default_backend()")
            body = [updated_node.body[0].with_changes(value=new_value)]
            return updated_node.with_changes(body=body)
        changed: Any = assignment_of(updated_node)
        before, after = code(assign.value), "" if changed is None else code(changed.value)
        if before != after and code(target).strip("()") == after.strip("()"):
            return cst.RemoveFromParent()  # data = data.to(device)
        return updated_node

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        empty = original_node.body.body and not updated_node.body.body
        if empty and updated_node.orelse is None:
            return cst.RemoveFromParent()
        return updated_node

    def leave_Else(self, original_node: cst.Else, updated_node: cst.Else) -> Any:
        empty = original_node.body.body and not updated_node.body.body
        return cst.RemoveFromParent() if empty else updated_node

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> Any:
        params = updated_node.params
        kept = [p for p in params.params if not self._is_parameter(p)]
        keywords = [p for p in params.kwonly_params if not self._is_parameter(p)]
        if len(kept) == len(params.params) and len(keywords) == len(params.kwonly_params):
            return updated_node
        if kept:
            kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return updated_node.with_changes(
            params=params.with_changes(params=kept, kwonly_params=keywords)
        )

    def _is_parameter(self, node: cst.Param) -> bool:
        return node.default is None and self._gone(node.name.value)

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        function = original_node.func
        name = self._name(function)
        if isinstance(function, cst.Attribute) and isinstance(updated_node.func, cst.Attribute):
            method, receiver = function.attr.value, updated_node.func.value
            if method == "cuda" and not name.startswith("torch."):
                return receiver
            if method == "to" and self._only_device(original_node):
                return receiver
            maker = function.value.func if isinstance(function.value, cst.Call) else None
            if method == "manual_seed" and maker and self._name(maker) == "torch.Generator":
                return updated_node.with_changes(func=cst.parse_expression("torch.Generator"))
        if name == "torch.Generator":
            return updated_node.with_changes(args=[])
        if name == "torch.load" and updated_node.args:
            self.imports.add(self._import())
            first = updated_node.args[0].with_changes(comma=cst.MaybeSentinel.DEFAULT)
            return cst.Call(cst.parse_expression(f"{self.weights}.load"), [first])
        if name == "torch.save" and len(updated_node.args) == 2:
            value, path = (arg.value for arg in updated_node.args)
            if isinstance(value, cst.Call) and code(value.func).endswith(".state_dict"):
                self.imports.add(self._import())
                return cst.Call(
                    cst.parse_expression(f"{self.weights}.save"), [cst.Arg(path), cst.Arg(value)]
                )
        return self._without_devices(original_node, updated_node)

    def _import(self) -> str:
        alias = "" if self.weights == "weights" else f" as {self.weights}"
        return f"from jaxnet import weights{alias}"

    def _only_device(self, call: cst.Call) -> bool:
        if not call.args:
            return False
        for arg in call.args:
            keyword = "" if arg.keyword is None else arg.keyword.value
            if keyword in ("non_blocking", "memory_format", "copy"):
                continue
            if not is_device(self._name, arg.value, self.devices):
                return False
        return True

    def _without_devices(self, original: cst.Call, updated: cst.Call) -> Any:
        function = original.func
        own = self.functions.get(function.value) if isinstance(function, cst.Name) else None
        kept = []
        for index, (old, new) in enumerate(zip(original.args, updated.args, strict=True)):
            keyword = "" if old.keyword is None else old.keyword.value
            parameter = keyword or (own[index] if own and index < len(own) else "")
            there = own is None or parameter in own
            if self._gone(parameter) and there and is_device(self._name, old.value, self.devices):
                continue
            kept.append(new)
        if len(kept) == len(updated.args):
            return updated
        if kept:
            kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return updated.with_changes(args=kept)


def source_functions(tree: cst.Module) -> list[cst.FunctionDef]:
    """The functions at the top of a file."""
    return [statement for statement in tree.body if isinstance(statement, cst.FunctionDef)]


def device_names(name_of: Any, tree: cst.Module) -> set[str]:
    """The names of a program that stand for devices."""
    found = {"device"}
    for part in parts_of(tree):
        if isinstance(part, cst.Assign) and len(part.targets) == 1:
            target = part.targets[0].target
            text = isinstance(part.value, cst.SimpleString)
            if isinstance(target, cst.Name) and not text and is_device(name_of, part.value, found):
                found.add(target.value)
    return found


def is_device(name_of: Any, node: Any, names: set[str]) -> bool:
    """Whether an expression is a device: torch.device(...), "cuda", a name of one."""
    if isinstance(node, cst.Name):
        return node.value in names
    if isinstance(node, cst.SimpleString):
        text = str(node.evaluated_value)
        return text in ("cpu", "mps") or text.startswith("cuda")
    if isinstance(node, cst.IfExp):
        sides = is_device(name_of, node.body, names), is_device(name_of, node.orelse, names)
        return all(sides)
    if isinstance(node, cst.Attribute):
        return node.attr.value in ("device", "type") and (
            node.attr.value == "device" or is_device(name_of, node.value, names)
        )
    if isinstance(node, cst.Call):
        return name_of(node.func) in (
            "torch.device",
            "torch.accelerator.current_accelerator",
            "torch.cuda.current_device",
        )
    return False


def other_uses(tree: Any, names: set[str]) -> set[str]:
    """The names that a tree still reads."""
    found = set()
    hidden: set[int] = set()
    for part in parts_of(tree):
        if isinstance(part, cst.Attribute):
            hidden.add(id(part.attr))
        elif isinstance(part, cst.Arg | cst.Param):
            hidden.add(id(part.keyword if isinstance(part, cst.Arg) else part.name))
        elif isinstance(part, cst.AssignTarget):
            hidden.add(id(part.target))
    for part in parts_of(tree):
        if isinstance(part, cst.Name) and id(part) not in hidden and part.value in names:
            found.add(part.value)
    return found
