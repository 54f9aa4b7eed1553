"""Which names of a function hold arrays that may have a gradient from outside.

In a block of torch.no_grad() a change in place leaves the gradient of an array as it was. That is
no other number for JAX if there is no gradient: of a mask that was made in such a block, of zeros.
"""

from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._kinds import ARRAYS, NO_ARRAYS
from jaxnet.port._nodes import is_data
from jaxnet.port._shares import Shown, is_mask

if TYPE_CHECKING:
    from jaxnet.port._values import State, Values

_NEW = {
    "zeros", "ones", "full", "empty", "rand", "randn", "randint", "randperm", "arange", "linspace",
    "eye", "tensor", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like",
    "randn_like", "bernoulli", "detach", "argmax", "argmin", "argsort", "tril_indices",
    "triu_indices", "one_hot",
}  # fmt: skip
"""Functions and methods whose result has no gradient, whatever they are given."""

_PERHAPS_THE_SAME = {
    "to", "type", "type_as", "float", "double", "half", "cpu", "cuda", "contiguous", "flatten",
    "ravel", "requires_grad_", "as_tensor", "asarray", "Variable", "atleast_1d", "atleast_2d",
    "atleast_3d", "reshape", "expand", "expand_as",
}  # fmt: skip
"""Functions and methods that may give back the very array that they are given."""


def holders(state: "State", shown: Shown) -> set[str]:
    """The names that show one of some arrays."""
    arrays = {array for array, _ in shown}
    return {key for key, other in state.shown.items() if arrays & {array for array, _ in other}}


def has_gradient(values: "Values", node: Any, shown: Shown) -> bool:
    """Whether the value of an expression may have a gradient.

    Args:
        values: What is known where the expression is evaluated.
        node: The expression.
        shown: The arrays that its value shows, which some name may have.
    """
    assert values.state is not None
    if not values.quiet:
        return _computed(values, node)
    # In the block there are new arrays without a gradient, and those that were there before.
    if not shown or _makes_a_view(values, node):
        return False
    known = holders(values.state, shown)
    return not known or bool(known & values.state.graded)


def _makes_a_view(values: "Values", node: Any) -> bool:
    """Whether an expression gives a new array, which shows one that was there before."""
    if isinstance(node, cst.Subscript):
        return values.kinds(node.value) in ARRAYS
    if is_data(node):
        return True
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return False
    name = node.func.attr.value
    torchs = (values.kinds.outside(node.func) or "").startswith("torch.")
    known = torchs or values.kinds(node.func.value) in ARRAYS
    return known and name not in _PERHAPS_THE_SAME and not name.endswith("_")


def _computed(values: "Values", node: Any) -> bool:
    """Whether a value has a gradient that is computed where gradients are."""
    assert values.state is not None
    state, kinds = values.state, values.kinds
    if kinds(node) in NO_ARRAYS or is_data(node):
        return False
    if isinstance(node, cst.Name):
        return node.value not in state.shown or node.value in state.graded
    if isinstance(node, cst.BinaryOperation):
        return _computed(values, node.left) or _computed(values, node.right)
    if isinstance(node, cst.UnaryOperation):
        return _computed(values, node.expression)
    if isinstance(node, cst.Comparison) or is_mask(values.scope, node):
        return False
    if isinstance(node, cst.IfExp):
        return _computed(values, node.body) or _computed(values, node.orelse)
    if isinstance(node, cst.Subscript):
        return _computed(values, node.value)
    if isinstance(node, cst.List | cst.Tuple):
        return any(_computed(values, element.value) for element in node.elements)
    if not isinstance(node, cst.Call):
        return True
    dotted, parts = kinds.outside(node.func) or "", [arg.value for arg in node.args]
    if isinstance(node.func, cst.Attribute) and not dotted:
        if kinds(node.func.value) not in ARRAYS:
            return True
        name, parts = node.func.attr.value, [node.func.value, *parts]
    elif dotted.startswith("torch.") and not dotted.rpartition(".")[2][:1].isupper():
        name = dotted.rpartition(".")[2]
    else:
        return True
    new = name in _NEW or name.startswith("new_")
    return not new and any(_computed(values, part) for part in parts)
