"""Which parameters of a function mean nothing in jaxnet: pretrained weights and devices."""

import re
from typing import Any

import libcst as cst

from jaxnet.port._nodes import code, is_none

_WEIGHTS = re.compile(r"\w_Weights\b|\bWeightsEnum\b")


def means_nothing(node: cst.FunctionDef) -> set[str]:
    """The parameters of a function that mean nothing in jaxnet.

    A name alone says nothing: `weights` may be those of a loss, and `device` a number. So the
    annotation, the default or the body has to say what a parameter is.

    Args:
        node: The function.
    """
    parameters = [*node.params.params, *node.params.kwonly_params]
    found: set[str] = set()
    for parameter in parameters:
        name, text = parameter.name.value, _annotation(parameter)
        if name in ("weights", "weights_backbone") and (
            _WEIGHTS.search(text) or (not text and _asks_for_a_state(node.body, name))
        ):
            found.add(name)
        elif name == "pretrained" and text.strip("\"' ") in ("", "bool", "Optional[bool]"):
            if _is_only_asked(node.body, name):
                found.add(name)
        elif name == "device" and ("device" in text or says_device(parameter.default)):
            found |= {name} if parameter.default is not None else set()
    for parameter in parameters:
        name = parameter.name.value
        if name == "progress" and found & {"weights", "weights_backbone"}:
            found.add(name)
        # The dtype of a model is up to model.to(); that of a function's arrays is not.
        made = node.name.value == "__init__" and "device" in found
        default = parameter.default is not None and is_none(parameter.default)
        if name == "dtype" and made and default and not _assigns(node.body, name):
            found.add(name)
    return found


def says_device(node: Any) -> bool:
    """Whether an expression is one of a device: "cuda:0", x.device, torch.device(...), None."""
    if isinstance(node, cst.SimpleString):
        return str(node.evaluated_value).startswith(("cpu", "cuda", "mps", "meta", "xla"))
    if isinstance(node, cst.Attribute):
        if node.attr.value in ("type", "index") and says_device(node.value):
            return True  # x.device.type
        return node.attr.value.endswith("device")
    if isinstance(node, cst.Call):
        name = cst.helpers.get_full_name_for_node(node.func) or ""
        return name in ("torch.device", "device") or name.endswith(("get_device", "current_device"))
    if isinstance(node, cst.IfExp):
        return says_device(node.body) and says_device(node.orelse)
    return isinstance(node, cst.Name) and node.value in ("None", "device")


def _annotation(parameter: cst.Param) -> str:
    annotation = parameter.annotation
    return "" if annotation is None else code(annotation.annotation)


def _asks_for_a_state(body: Any, name: str) -> bool:
    """Whether a function uses a name as torchvision's builders use their weights."""
    text = code(body)
    return bool(
        re.search(rf"\b{name}\.(get_state_dict|meta|url|transforms)\b", text)
        or re.search(rf"_Weights\.verify\({name}\)", text)
    )


def _is_only_asked(body: Any, name: str) -> bool:
    """Whether a function only asks for the truth of a name, and hands it on."""
    found = True

    class Uses(cst.CSTVisitor):
        def visit_Attribute(self, node: cst.Attribute) -> None:
            self._note(node.value)

        def visit_Subscript(self, node: cst.Subscript) -> None:
            self._note(node.value)

        def visit_BinaryOperation(self, node: cst.BinaryOperation) -> None:
            self._note(node.left)
            self._note(node.right)

        def visit_Assign(self, node: cst.Assign) -> None:
            self._note(node.value)

        def visit_Call(self, node: cst.Call) -> None:
            text = cst.helpers.get_full_name_for_node(node.func) or ""
            if text.startswith(("torch.", "nn.", "F.")):
                for arg in node.args:
                    self._note(arg.value)

        def _note(self, node: Any) -> None:
            nonlocal found
            found &= not (isinstance(node, cst.Name) and node.value == name)

    body.visit(Uses())
    return found


def _assigns(body: Any, name: str) -> bool:
    """Whether statements give a name another value."""
    found = False

    class Targets(cst.CSTVisitor):
        def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
            nonlocal found
            parts: list[Any] = [node.target]
            while parts:
                part = parts.pop()
                if isinstance(part, cst.Tuple | cst.List):
                    parts += [element.value for element in part.elements]
                found |= isinstance(part, cst.Name) and part.value == name
            return False

    body.visit(Targets())
    return found
