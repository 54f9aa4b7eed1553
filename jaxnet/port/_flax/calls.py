"""Rewrites jaxnet's names and calls as those of flax and jax; `convert.py` has the statements."""

from typing import Any

import libcst as cst

from jaxnet.port._classes import layers_of, methods
from jaxnet.port._flax.rows import DRAWS, REQUIRED, ROWS, TYPES
from jaxnet.port._flax.template import Filled, filled, with_commas
from jaxnet.port._flax.written import parameters_of, written
from jaxnet.port._names import unknown_parameter
from jaxnet.port._nodes import Variables, code, is_name, is_self, parts_of
from jaxnet.port._port import Note
from jaxnet.port._source import Definition
from jaxnet.port._tensors import argument

MARK = "__written"
"""What the name of a copied definition ends with until the names of all are known."""

_MODULES = {
    "nn.Module": "nnx.Module", "nn.ModuleList": "nnx.List", "nn.ModuleDict": "nnx.Dict",
    "nn.ParameterList": "nnx.List", "nn.ParameterDict": "nnx.Dict", "nn.Parameter": "nnx.Param",
}  # fmt: skip
_OTHER_NAMES = {
    "ops.max": "max_along", "ops.min": "min_along", "ops.cdist": "pairwise_distances",
    "ops.unfold": "windows_along", "ops.linalg.norm": "linalg_norm",
    "ops.linalg.vector_norm": "vector_norm", "ops.split_with_sizes": "split", "ops.clip": "clamp",
}  # fmt: skip
"""Functions whose copies have another name than jaxnet's."""

_WALKS = {
    "apply", "children", "modules", "named_children", "named_modules", "named_parameters",
    "parameters",
}  # fmt: skip
_LOADING = {"buffers", "load_state_dict", "named_buffers", "requires_grad_", "state_dict"}
_DRAWN = {"dropout", "dropout2d", "scaled_dot_product_attention"}
"""Copies that take `rngs`."""


class Names(Variables):
    """Rewrites one definition.

    Args:
        definition: The definition in the source.
        lines: The line in the source of each node of the tree, by the node's id.
        keeping: The classes whose constructors keep `rngs`.

    Attributes:
        copied: The names of the definitions that are copied.
        marked: What is not supported.
        notes: What a reader should look at.
    """

    def __init__(
        self, definition: Definition, lines: dict[int, int], keeping: set[Definition]
    ) -> None:
        super().__init__()
        self.definition, self.lines = definition, lines
        self.keeps = definition in keeping
        self.copied: set[str] = set()
        self.marked: list[Note] = []
        self.notes: list[Note] = []
        self.open: list[list[str]] = []
        self.line = [0]
        self.functions: list[set[str]] = []  # the parameters of the functions that are open
        self.asked: set[int] = set()
        self.types = 0
        self.trains = False  # whether the class asks whether it is trained

    # what is said

    def on_visit(self, node: cst.CSTNode) -> bool:
        line = self.lines.get(id(node))
        self.line.append(line or self.line[-1])
        return super().on_visit(node)

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        new = super().on_leave(original_node, updated_node)
        self.line.pop()
        return new

    def problem(self, text: str) -> None:
        """Notes that the open statement is not supported."""
        note = Note(self.definition.source.path.name, self.line[-1], text)
        if note not in self.marked:
            self.marked.append(note)
        if self.open:
            self.open[-1].append(str(note))

    def note(self, text: str) -> None:
        """Notes what a reader should look at."""
        note = Note(self.definition.source.path.name, self.line[-1], text)
        if note not in self.notes:
            self.notes.append(note)

    def copy(self, name: str) -> cst.Name:
        """The name of a copied definition."""
        self.copied.add(name)
        return cst.Name(f"{name}{MARK}")

    # names

    def _dotted(self, node: Any) -> str | None:
        """The name of jaxnet's that an expression is, such as "ops.cat"."""
        text = cst.helpers.get_full_name_for_node(node) or ""
        whole = isinstance(node, cst.Name | cst.Attribute) and code(node).replace(" ", "") == text
        return text if whole and text.partition(".")[0] in ("ops", "nn") else None

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        super().visit_Attribute(node)
        return self._dotted(node) is None

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:
        value = updated_node.value
        asks = isinstance(value, cst.UnaryOperation) and isinstance(value.operator, cst.Not)
        if asks and len(value.lpar) == 1 and not getattr(original_node.value, "lpar", ()):
            return updated_node.with_changes(value=value.with_changes(lpar=[], rpar=[]))
        return updated_node

    def visit_Annotation(self, node: cst.Annotation) -> None:
        self.types += 1

    def leave_Annotation(self, original_node: cst.Annotation, updated_node: cst.Annotation) -> Any:
        self.types -= 1
        return updated_node

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        if self.types and original_node.value == "Generator":
            return cst.parse_expression("nnx.Rngs")
        if id(original_node) in self.words or original_node.value not in ("ops", "nn"):
            return updated_node
        self.problem(f"{original_node.value} as a value: name what is taken of it")
        return cst.Name("jnp" if original_node.value == "ops" else "nnx")

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> Any:
        if id(original_node) in self.words:
            return updated_node
        dotted = self._dotted(original_node)
        if dotted is not None:
            new = self._value(dotted)
            return new.with_changes(lpar=original_node.lpar, rpar=original_node.rpar) if (
                original_node.lpar) else new  # fmt: skip
        if original_node.attr.value == "training":
            self.trains = True
            trained = cst.Attribute(updated_node.value, cst.Name("deterministic"))
            bracket: dict[str, Any] = {"lpar": [cst.LeftParen()], "rpar": [cst.RightParen()]}
            return cst.UnaryOperation(cst.Not(), trained, **bracket)
        return updated_node

    def _value(self, dotted: str) -> Any:
        """What a name of jaxnet's is as a value, or in an annotation."""
        last = dotted.rpartition(".")[2]
        if dotted in _MODULES:
            return cst.parse_expression(_MODULES[dotted])
        if dotted.startswith("ops.") and last in TYPES and dotted.count(".") == 1:
            return cst.parse_expression(TYPES[last])
        for row in ROWS.get(dotted, ()):
            function = cst.parse_expression(row)
            plain = isinstance(function, cst.Call) and len(function.args) == 1
            if plain and code(function.args[0]) in ("input", "tensors"):  # type: ignore[attr-defined]
                return function.func  # type: ignore[attr-defined]
        if dotted == "nn.functional.gelu":
            return self.copy("exact_gelu")
        name = _OTHER_NAMES.get(dotted, last)
        if written(name) is not None and name not in _DRAWN:
            return self.copy(name)
        if self.types:
            return cst.Name("Any")
        self.problem(f"{of_torch(dotted)}: {NOTHING}")
        return cst.parse_expression(f"jnp.{last}" if dotted.startswith("ops.") else f"nnx.{last}")

    # calls

    def visit_Call(self, node: cst.Call) -> None:
        if self._dotted(node.func) is not None or self._is_by_name(node):
            self.words.add(id(node.func))
            self.words |= {id(arg.value) for arg in node.args[:1] if self._is_by_name(node)}
        if is_name(node.func, "isinstance", "issubclass"):
            for arg in node.args[1:]:
                if isinstance(arg.value, cst.Tuple):
                    self.asked.add(id(arg.value))

    def visit_Tuple(self, node: cst.Tuple) -> None:
        if id(node) in self.asked:
            for element in node.elements:
                if isinstance(element.value, cst.Tuple):
                    self.asked.add(id(element.value))
                elif self._unknown_layer(element.value):
                    self.words.add(id(element.value))

    def leave_Tuple(self, original_node: cst.Tuple, updated_node: cst.Tuple) -> Any:
        """Layers that the output cannot make are not asked for."""
        if id(original_node) not in self.asked:
            return updated_node
        kept = [
            new.with_changes(comma=cst.MaybeSentinel.DEFAULT)
            for old, new in zip(original_node.elements, updated_node.elements, strict=True)
            if not self._unknown_layer(old.value)
        ]
        return updated_node.with_changes(elements=kept)

    def _unknown_layer(self, node: Any) -> bool:
        dotted = self._dotted(node) or ""
        return dotted.startswith("nn.") and dotted not in _MODULES and (
            written(dotted.rpartition(".")[2]) is None)  # fmt: skip

    def _is_by_name(self, node: cst.Call) -> bool:
        """Whether a call is getattr(nn, name)."""
        first = code(node.args[0].value) if len(node.args) == 2 else ""
        return is_name(node.func, "getattr") and first in ("nn", "nn.functional", "ops")

    def _by_name(self, call: cst.Call) -> Any:
        """getattr(nn, name), of the names that the definition has."""
        texts = {
            str(part.evaluated_value): None for part in parts_of(self.definition.node)
            if isinstance(part, cst.SimpleString)
        }  # fmt: skip
        functions = code(call.args[0].value) != "nn"
        known = [t for t in texts if isinstance(written(t), type) is not functions and written(t)]
        if not known:
            self.problem(f"{code(call)}: which? write a dict of those that there are")
            return call.with_changes(args=with_commas([cst.Arg(cst.Name("nnx")), call.args[1]]))
        space = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
        pairs = [cst.DictElement(cst.SimpleString(repr(t)), self.copy(t), comma=space)
                 for t in known]  # fmt: skip
        index = cst.SubscriptElement(cst.Index(call.args[1].value))
        return cst.Subscript(cst.Dict(pairs), [index])

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        if self._is_by_name(original_node):
            return self._by_name(updated_node)
        dotted = self._dotted(original_node.func)
        if dotted is None:
            return self._method(original_node, updated_node)
        if dotted in _MODULES:
            if dotted == "nn.Module":
                return updated_node.with_changes(func=cst.parse_expression("nnx.Module"))
            return updated_node.with_changes(func=cst.parse_expression(_MODULES[dotted]))
        if dotted == "nn.Buffer":
            kept = [a for a in updated_node.args if a.keyword is None or a.keyword.value == "data"]
            return cst.Call(self.copy("Buffer"), [cst.Arg(kept[0].value)])
        if dotted == "nn.checkpoint":
            self.note("checkpoint is left out: nnx.remat is what saves memory so")
            words = ("use_reentrant", "preserve_rng_state")
            first, *rest = (
                a for a in updated_node.args
                if a.keyword is None or a.keyword.value not in words
            )  # fmt: skip
            return cst.Call(first.value, rest)
        if dotted in DRAWS or dotted == "ops.normal":
            return self._drawn(dotted, updated_node)
        special = self._special(dotted, updated_node)
        if special is not None:
            return _closed(original_node, special)
        given = filled(dotted, updated_node, ROWS.get(dotted, ()), REQUIRED.get(dotted, ""))
        if given.new is not None:
            return _closed(original_node, given.new)
        return self._copied(dotted, updated_node, given)

    def _special(self, dotted: str, call: cst.Call) -> Any:
        """Calls of which the arguments decide what is written."""
        plain = all(a.keyword is None and not a.star for a in call.args)
        if dotted in ("ops.max", "ops.min") and plain and len(call.args) == 1:
            return call.with_changes(func=cst.parse_expression(f"jnp.{dotted[4:]}"))
        if dotted == "ops.squeeze" and plain and len(call.args) == 1:
            return call.with_changes(func=cst.parse_expression("jnp.squeeze"))
        if dotted == "ops.flatten" and plain and len(call.args) == 2:
            first = call.args[0].value
            if isinstance(first, cst.Name) and code(call.args[1].value) == "1":
                return cst.parse_expression(f"{first.value}.reshape(len({first.value}), -1)")
        if dotted in ("ops.div", "ops.divide") and len(call.args) == 3:
            mode = call.args[2]
            floors = code(mode.value) in ('"floor"', "'floor'")
            if floors and mode.keyword and mode.keyword.value == "rounding_mode":
                args = [a.with_changes(comma=cst.MaybeSentinel.DEFAULT) for a in call.args[:2]]
                return cst.Call(cst.parse_expression("jnp.floor_divide"), args)
        return None

    def _copied(self, dotted: str, call: cst.Call, given: Filled) -> Any:
        """A call of a function or a layer that is copied."""
        name = _OTHER_NAMES.get(dotted, dotted.rpartition(".")[2])
        value = written(name)
        if value is None or (dotted in ROWS and given.problem):
            reason = f"{given.problem}; " if given.problem else ""
            self.problem(f"{of_torch(dotted)}: {reason}{NOTHING}")
            last = dotted.rpartition(".")[2]
            holder = "jnp" if dotted.startswith("ops.") else "nnx"
            return call.with_changes(func=cst.parse_expression(f"{holder}.{last}"))
        parameters = parameters_of(value)
        args: list[cst.Arg] = []
        for arg in call.args:
            word = arg.keyword.value if arg.keyword is not None else ""
            if word in ("input", "tensor", "x") and word not in parameters:
                arg = arg.with_changes(keyword=None, equal=cst.MaybeSentinel.DEFAULT)
                args.insert(0, arg)
                continue
            if word in ("device", "dtype") and isinstance(value, type):
                if word == "dtype":
                    self.problem(f"{of_torch(dotted)}: dtype= of a layer; {NOTHING}")
                continue
            args.append(arg)
        if name in _DRAWN and self._is_random(name, args):
            args.append(argument("rngs", self._rngs()))
        positional = sum(a.keyword is None and a.star == "" for a in args)
        words = [a.keyword.value for a in args if a.keyword is not None]
        wrong = unknown_parameter(parameters, positional, words)
        if wrong:
            self.problem(f"{of_torch(dotted)}: {wrong}; {NOTHING}")
        if len(args) != len(call.args):
            args = with_commas(args)
        return call.with_changes(func=self.copy(name), args=args)

    def _is_random(self, name: str, args: list[Any]) -> bool:
        if name != "scaled_dot_product_attention":
            return True
        found = [a.value for a in args if a.keyword is not None and a.keyword.value == "dropout_p"]
        found += [a.value for a in args[4:5] if a.keyword is None]
        return bool(found) and code(found[0]) not in ("0.0", "0")

    def _rngs(self) -> str:
        """The random numbers of the function that is open."""
        if any("rngs" in names for names in self.functions):
            return "rngs"
        if any("self" in names for names in self.functions):
            if not self.keeps:
                self.problem("random numbers in a class without a constructor: write __init__")
            return "self.rngs"
        self.problem("random numbers in a function, which has none: write it as a method")
        return "rngs"

    def _drawn(self, dotted: str, call: cst.Call) -> Any:
        making = any("rngs" in names for names in self.functions)
        key = f"{self._rngs()}.{'params' if making else 'noise'}()"
        kept = [a for a in call.args if a.keyword is None or a.keyword.value != "generator"]
        call = call.with_changes(args=with_commas(kept))
        if dotted == "ops.normal":
            both = "jnp.broadcast_shapes(jnp.shape(mean), jnp.shape(std))"
            rows: tuple[str, ...] = (
                f"mean + jax.random.normal({key}, jnp.shape(mean))",
                f"mean + jax.random.normal({key}, size)",
                f"mean + std * jax.random.normal({key}, {both})",
                f"mean + std * jax.random.normal({key}, size)",
            )
        else:
            rows = tuple(row.strip() for row in DRAWS[dotted].replace("KEY", key).split("|"))
        given = filled(dotted, call, rows, "")
        if given.new is None:
            self.problem(f"{of_torch(dotted)}: {given.problem}; {NOTHING}")
            return call.with_changes(func=cst.parse_expression("jax.random.normal"))
        return given.new

    def _method(self, original: cst.Call, call: cst.Call) -> Any:
        """A call of a method of a module."""
        name = call.func
        if not isinstance(name, cst.Attribute):
            return call
        last = name.attr.value
        if last in ("register_buffer", "register_parameter") and len(call.args) > 1:
            value: Any = call.args[1].value
            if is_name(value, "None"):
                value = cst.parse_expression("nnx.data(None)")
            elif last == "register_buffer":
                value = cst.Call(self.copy("Buffer"), [cst.Arg(value)])
            return self._set(name.value, call.args[0].value, value)
        if last == "add_module" and len(call.args) == 2 and not self._is_sequential(name.value):
            if is_self(name.value):
                return self._set(name.value, call.args[0].value, call.args[1].value)
            self.problem(
                f"{code(original)}: write append(...) of an nn.Sequential, or an assignment"
            )
        if last in _WALKS and not is_name(name.value, "jax") and self._is_walk(last, call):
            return cst.Call(self.copy(last), with_commas([cst.Arg(name.value), *call.args]))
        if last in _LOADING and is_self(name.value):
            self.problem(f"{code(original)}: {NOTHING}; names and layouts are those of flax")
        return call

    def _is_sequential(self, node: Any) -> bool:
        """Whether a name stands for an nn.Sequential, as far as the definition shows."""
        if is_self(node):
            return "Sequential" in layers_of(self.definition)
        text = code(node)
        return any(
            isinstance(part, cst.Assign)
            and isinstance(part.value, cst.Call)
            and code(part.value.func).rpartition(".")[2] == "Sequential"
            and any(code(target.target) == text for target in part.targets)
            for part in parts_of(self.definition.node)
        )

    def _is_walk(self, name: str, call: cst.Call) -> bool:
        own = set(methods(self.definition))
        assert isinstance(call.func, cst.Attribute)
        if is_self(call.func.value) and name in own:
            return False
        return len(call.args) == (1 if name == "apply" else 0)

    def _set(self, target: Any, name: Any, value: Any) -> Any:
        """A call that stands for `target.name = value`, which a statement becomes."""
        return cst.Call(
            cst.Name("setattr"), with_commas([cst.Arg(n) for n in (target, name, value)])
        )

    def leave_Subscript(self, original_node: cst.Subscript, updated_node: cst.Subscript) -> Any:
        """`x[...][i]` is `x[i]`."""
        inner = updated_node.value
        if isinstance(inner, cst.Subscript) and code(inner).endswith("[...]"):
            return updated_node.with_changes(value=inner.value)
        return updated_node


def of_torch(dotted: str) -> str:
    """torch's name of a function or a layer of jaxnet's."""
    return "torch" + (dotted[3:] if dotted.startswith("ops.") else f".{dotted}")


NOTHING = "flax and jax have nothing with these numbers; --to jaxnet has"


def _closed(old: Any, new: Any) -> Any:
    """An operation in brackets, as a call needs none and an operation may."""
    if isinstance(new, cst.BinaryOperation | cst.UnaryOperation | cst.Comparison) and not new.lpar:
        return new.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    if getattr(old, "lpar", ()) and not getattr(new, "lpar", ()):
        return new.with_changes(lpar=old.lpar, rpar=old.rpar)
    return new
