"""Finds second names of a model, or of its weights, which PyTorch's training goes on changing."""

from typing import Any

import libcst as cst

from jaxnet.port._fixed import Fixed
from jaxnet.port._flow import (
    COMPOUND,
    LOOPS,
    assignment_of,
    bound_names,
    bound_names_of_target,
    call_of,
    calls_in,
    header_of,
    is_live,
    lists,
    names_read,
)
from jaxnet.port._nodes import code, is_name, parts_of
from jaxnet.port._roles import Part, Roles, is_guard
from jaxnet.port._steps import NotUnderstoodError, code_line, root_of, target_roots

_COLLECTIONS = {
    "state_dict", "parameters", "named_parameters", "buffers", "named_buffers", "modules",
    "named_modules", "children", "named_children", "get_parameter", "get_submodule", "get_buffer",
}  # fmt: skip
_SAME = {
    "eval", "train", "to", "cuda", "cpu", "double", "float", "half", "copy", "items", "values",
    "detach", "view", "reshape", "t", "numpy", "requires_grad_", "share_memory", "squeeze",
    "unsqueeze", "flatten", "ravel", "transpose", "permute", "contiguous", "expand", "narrow",
    "select", "unbind", "chunk", "split", "diagonal", "view_as", "reshape_as", "expand_as",
    "swapaxes", "type",
}  # fmt: skip
"""Methods whose results have the memory of what they are called on, on the CPU."""
_HOLDERS = {"list", "tuple", "dict", "set", "sorted", "next", "iter", "filter", "OrderedDict",
            "zip", "reversed", "enumerate", "partial"}  # fmt: skip
_KEEPS = {"append", "appendleft", "extend", "insert", "add", "update", "setdefault"}
_PLAIN = {
    "shape", "dtype", "device", "ndim", "training", "requires_grad", "in_features", "out_features",
    "in_channels", "out_channels", "hidden_size", "input_size", "num_layers", "embedding_dim",
    "num_embeddings", "num_features", "num_classes", "kernel_size", "stride", "padding",
}  # fmt: skip
"""Attributes that are no arrays and no layers."""
_WITHOUT = {"ReLU", "Tanh", "Sigmoid", "GELU", "SiLU", "Softmax", "Identity", "Flatten"}


class Aliases:
    """Refuses second names of the model that are read after its weights have changed.

    Args:
        fixed: What changes between two training steps.
        roles: What the names of each part stand for.
    """

    def __init__(self, fixed: Fixed, roles: Roles) -> None:
        self.fixed = fixed
        self.roles = roles
        self.classes = {
            one.name.value for one in fixed.source.whole_tree.body if isinstance(one, cst.ClassDef)
        }

    def check(self, part: Part, statement: Any) -> None:
        """Refuses a statement that keeps a second name of the model until after a later step.

        Args:
            part: The part that it is in.
            statement: The statement.
        """
        model = self.roles.of(part).get("model")
        if model is None:
            return
        if isinstance(statement, COMPOUND):
            for place, _ in lists([statement]):
                for one in place:
                    if not isinstance(one, COMPOUND):
                        self.check(part, one)
            return
        words = f"{code_line(statement)}: a second name for the model or its weights, which go on "
        words += "changing in PyTorch; write copy.deepcopy for those of now"
        for kept in self._kept(statement, model):
            names = {kept} if kept else bound_names(statement) - {model}
            if any(self._lasts(part, statement, name, bool(kept)) for name in names):
                raise NotUnderstoodError(statement, words)

    def _kept(self, statement: Any, model: str) -> list[str]:
        """The names of what keeps weights of the model; "" for the names that are bound."""
        found: list[str] = []
        named = [part for part in parts_of(statement) if isinstance(part, cst.NamedExpr)]
        if any(self._is_live(part.value, model) for part in named):
            found.append("")
        for part in getattr(statement, "body", ()):
            value = getattr(part, "value", None)
            if isinstance(part, cst.Assign) and self._is_live(value, model):
                found += [root for target in part.targets for root in target_roots(target)]
                found.append("")
            elif isinstance(part, cst.AugAssign | cst.AnnAssign) and self._is_live(value, model):
                found += [root_of(part.target)] if isinstance(part, cst.AugAssign) else [""]
        call = call_of(statement)
        if call is not None and isinstance(call.func, cst.Attribute):
            live = any(self._is_live(arg.value, model) for arg in call.args)
            if live and call.func.attr.value in _KEEPS:
                found.append(root_of(call.func))
        return [name for name in found if name != model]

    def _is_live(self, node: Any, model: str) -> bool:
        """Whether an expression is the model, a part of it, or holds one."""
        if is_name(node, model):
            return True
        if isinstance(node, cst.Attribute):
            return node.attr.value not in _PLAIN and self._is_live(node.value, model)
        if isinstance(node, cst.Subscript | cst.NamedExpr):
            return self._is_live(node.value, model)
        if isinstance(node, cst.Lambda):
            return model in names_read(node)
        if isinstance(node, cst.IfExp):
            return self._is_live(node.body, model) or self._is_live(node.orelse, model)
        if isinstance(node, cst.List | cst.Tuple | cst.Set | cst.Dict):
            return any(self._is_live(element.value, model) for element in node.elements)
        if isinstance(node, cst.DictComp | cst.ListComp | cst.GeneratorExp | cst.SetComp):
            value = node.value if isinstance(node, cst.DictComp) else node.elt
            own = bound_names_of_target(node.for_in.target)
            return self._is_live(value, model) or (
                self._is_live(node.for_in.iter, model)
                and any(self._is_live(value, name) for name in own)
            )
        return isinstance(node, cst.Call) and self._is_live_call(node, model)

    def _is_live_call(self, node: cst.Call, model: str) -> bool:
        if isinstance(node.func, cst.Attribute) and self._is_live(node.func.value, model):
            return node.func.attr.value in _COLLECTIONS | _SAME
        name = self.fixed.source.imported(node.func).rpartition(".")[2]
        holds = name in _HOLDERS or name in self.classes
        if self.fixed.source.imported(node.func).startswith("torch.nn."):
            holds = name[:1].isupper()
        return holds and any(self._is_live(arg.value, model) for arg in node.args)

    def _lasts(self, part: Part, statement: Any, name: str, always: bool) -> bool:
        """Whether a name may be read after a training step that follows a statement."""
        fixed = self.fixed
        here, above = next(
            (place, above)
            for place, above in lists(part.statements)
            if any(one is statement for one in place)
        )
        looped = [one for one in above if isinstance(one, LOOPS) and fixed.trains(one)][:1]
        path = [*above, statement]
        trains = bool(looped)
        later: list[Any] = []
        for place, _ in lists(part.statements):
            position = next((i for i, o in enumerate(place) if any(o is p for p in path)), None)
            if position is not None:
                later += place[position + 1 :]
        trains |= any(fixed.trains(one) for one in later)
        if not trains or always:
            return trains
        safe: set[int] = set()
        position = next(i for i, one in enumerate(here) if one is statement)
        for one in here[position + 1 :]:
            if fixed.trains(one):
                break
            safe.add(id(one))
        if not looped and is_live(name, here, position + len(safe), above, part.statements):
            return True
        for place, over in lists([*looped, *later] if looped else ()):
            for one in place:
                if any(id(o) in safe for o in (*over, one)) or one is statement:
                    continue
                if any(name in names_read(node) for node in header_of(one)):
                    return True
        return part.name == "" and any(
            name in names_read(*other.statements)
            for other in fixed.parts.values()
            if other is not part and name not in other.bound and name not in other.parameters
        )

    def check_layers(self) -> None:
        """Refuses a layer that the model is made of, and that is read beside it."""
        owner = self.roles.owner
        model = self.roles.of(owner)["model"]
        inside, grown = {model}, True
        while grown:
            grown = False
            for place, _ in lists(owner.statements):
                for one in place:
                    if isinstance(one, COMPOUND) or not inside & bound_names(one):
                        continue
                    more = {n for n in names_read(one) if self._is_layer(owner, n)} - inside
                    inside, grown = inside | more, grown or bool(more)
        optimizer = self.roles.optimizer_statement
        place = next(p for p, _ in lists(owner.statements) if any(o is optimizer for o in p))
        after = place[next(i for i, o in enumerate(place) if o is optimizer) :]
        for guard in owner.statements if place is not owner.statements else ():
            after += [guard] if is_guard(guard) and not any(o is guard for o in place) else []
        nodes = [(o, set[str]()) for o in after]
        if owner.name == "":
            nodes += [
                (one, other.bound | set(other.parameters))
                for other in self.fixed.parts.values()
                if other is not owner
                for one in other.statements
            ]
        for one, hidden in nodes:
            if beside := (inside - {model} - hidden) & set(names_read(one)):
                raise NotUnderstoodError(
                    one,
                    f"{code_line(one)}: {min(beside)} is a part of {model}, whose weights change",
                )

    def _is_layer(self, part: Part, name: str) -> bool:
        """Whether a name is given layers, which may have weights."""
        for one, _ in self.fixed.bindings(part, name):
            assign = assignment_of(one)
            for call in calls_in(assign.value) if assign is not None else ():
                origin = self.fixed.source.imported(call.func)
                last = origin.rpartition(".")[2]
                torchs = origin.startswith("torch.nn.") and last[:1].isupper()
                plain = last.endswith("Loss") or last in _WITHOUT
                if (torchs and not plain) or code(call.func) in self.fixed.modules:
                    return True
        return False
