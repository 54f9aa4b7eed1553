"""Turns the training loops of a program into loops over a state, with a compiled step."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._fixed import Fixed
from jaxnet.port._flow import (
    COMPOUND,
    LOOPS,
    assignment_of,
    blocks,
    body_of,
    bound_names,
    bound_names_of_target,
    call_of,
    calls_in,
    lists,
    method_of,
    names_read,
)
from jaxnet.port._nodes import code, is_name, parts_of
from jaxnet.port._roles import Part, Roles, find_roles
from jaxnet.port._steps import (
    NotUnderstoodError,
    Step,
    backward_in,
    code_line,
    loss_function,
    root_of,
    step_in,
)

if TYPE_CHECKING:
    from jaxnet.port._source import Source

_MODES = re.compile(r"[Dd]ropout|batch_norm|BatchNorm|InstanceNorm|self\.training|RReLU|rrelu")
_BEGINS_ELSEWHERE = {
    "LambdaLR", "LinearLR", "ConstantLR", "OneCycleLR", "CyclicLR", "SequentialLR",
    "ChainedScheduler", "SWALR",
}  # fmt: skip
"""Schedules whose first learning rate is not the optimizer's."""


class Training:
    """The training of one model by one optimizer in a program.

    Args:
        source: The file.
        parts: The functions of the file and its program, by name.

    Attributes:
        roles: What the names of each part stand for.
        step: The step, and the part that it is in.
    """

    def __init__(self, source: "Source", parts: dict[str, Part]) -> None:
        self.source = source
        self.parts = parts
        self.roles: Roles = find_roles(source, parts)
        self.fixed = Fixed(source, parts, self.roles.owner)
        self.words = set(re.findall(r"(?<![.\w])[A-Za-z_]\w*", source.text))
        self.state = self._fresh("state", "train_state", "training_state")
        self.function = self._fresh("step", "train_step", "training_step")
        self.metrics = self._fresh("metrics", "measured", "step_metrics")
        self.loss = self._fresh("loss_function", "loss_of_batch", "training_loss")
        self.predict = self._fresh("predict", "predict_step", "predicted")
        self.plateau = self._fresh("plateau", "plateau_state")
        self.has_modes = (
            bool(_MODES.search(re.sub(r"#.*", "", source.text))) or self._foreign_model()
        )
        self.imports: set[str] = set()
        self.step: Step | None = None
        self.place: Part | None = None
        self.predicts = False
        self.node: Any = None  # the statement loss.backward()
        self._find_step()
        self._check_modes()

    def _fresh(self, *names: str) -> str:
        return next((n for n in names if n not in self.words), f"{names[0]}_of_training")

    def _foreign_model(self) -> bool:
        """Whether the model may have layers of a class that is not in the file."""
        made = self.roles.made
        names = [self.source.imported(call.func) for call in calls_in(made)]
        tops = self.source.project.tops - {self.source.name}
        if any(origin.partition(".")[0] in tops for origin in self.source.imports.values()):
            return True  # whose layers are not read here
        own = {s.name.value for s in self.source.whole_tree.body if isinstance(s, cst.ClassDef)}
        return not any(name in own or name.startswith("torch.nn.") for name in names)

    # the step

    def _find_step(self) -> None:
        found = [
            (part, place, above)
            for part in self.parts.values()
            for place, above in lists(part.statements)
            if backward_in(place)
        ]
        if not found:
            raise NotUnderstoodError(self.roles.optimizer_statement, "no loss.backward() uses it")
        if len(found) > 1:
            raise NotUnderstoodError(
                found[1][1][found[1][0] is None], "there are two training steps of one optimizer"
            )
        part, place, above = found[0]
        roles = self.roles.of(part)
        model, optimizer = roles.get("model"), roles.get("optimizer")
        node = place[backward_in(place)[0]]
        if model is None or optimizer is None:
            raise NotUnderstoodError(node, "the model and the optimizer of it are not known here")
        for other in above:
            if isinstance(other, cst.With | cst.Try):
                raise NotUnderstoodError(other, f"{code_line(other)} around a training step")
        self.step = step_in(
            place,
            above,
            part.statements,
            model,
            optimizer,
            self.source.imported,
            lambda name, used: self._sort(part, name, used),
        )
        self.place, self.list, self.above, self.node = part, place, above, node
        every = [one for other in self.parts.values() for one in other.statements]
        every += [one for one in self.source.whole_tree.body if isinstance(one, cst.ClassDef)]
        for other in (inner for one in every for inner in parts_of(one)):
            if isinstance(other, cst.Attribute) and other.attr.value == "grad":
                raise NotUnderstoodError(
                    node, "the program reads gradients, .grad; jax.grad gives them"
                )
            if isinstance(other, cst.Attribute) and other.attr.value in _UNSEEN:
                raise NotUnderstoodError(node, f"{code(other)}: hooks on gradients are not ported")
        self._check_frozen(every)
        assert self.step is not None
        used = [*self.step.forward, self.step.loss]
        self.fixed.check(node, part, used, list(self.constants().values()))

    def _check_frozen(self, every: list[Any]) -> None:
        """Refuses parameters that are not trained, unless they are those of another model."""
        owner = self.roles.owner
        model = self.roles.of(owner).get("model")
        near = {model}  # the names that the model is made from, or is made to
        for place, _ in lists(owner.statements):
            for one in place:
                if not isinstance(one, COMPOUND) and model in bound_names(one):
                    near |= set(names_read(one))
        for one in every:
            loops = {
                name: root_of(loop.iter)
                for loop in parts_of(one)
                if isinstance(loop, cst.For | cst.CompFor)
                for name in bound_names_of_target(loop.target)
            }
            for root, node in _frozen(one):
                if self.source.imports.get(root) == "torch":  # a tensor that torch has just made
                    continue
                name = loops.get(root, root)
                inside = isinstance(one, cst.ClassDef) or not any(
                    one is other for other in owner.statements
                )
                if inside or name in near or name not in owner.bound:
                    raise NotUnderstoodError(
                        node, f"{code(node)}: a parameter that is not trained; optim.frozen in "
                        "optim.groups leaves parameters as they are"
                    )  # fmt: skip

    def _sort(self, part: Part, name: str, used: Sequence[Any]) -> str:
        """What a name is that the loss reads: free of the function, a constant, or of the batch."""
        local = name in part.bound or name in part.parameters
        if not local:
            program = self.parts.get("")
            if program is None or name not in program.bound:
                return "free"
            return "free" if self._is_constant(program, name, used) else "batch"
        if name in part.parameters:
            constant = name not in part.bound and _is_used_as_constant(name, used)
            if constant and self.fixed.changes_inside(name):
                raise NotUnderstoodError(used[0], f"{name} changes from step to step")
            return "constant" if constant else "batch"
        return "constant" if self._is_constant(part, name, used) else "batch"

    def _is_constant(self, part: Part, name: str, used: Sequence[Any]) -> bool:
        """Whether a name has one value all along that is no array."""
        if self.fixed.changes_inside(name):
            if _is_used_as_constant(name, used):
                raise NotUnderstoodError(used[0], f"{name} changes from step to step")
            return False
        if not self._single(part, name):
            return False
        values = list(self.fixed.bindings(part, name))
        if _is_used_as_constant(name, used):
            return True
        assign = assignment_of(values[0][0])
        if assign is None:
            return isinstance(values[0][0], cst.FunctionDef)
        return _is_number(assign.value)

    # evaluation and training mode

    def _check_modes(self) -> None:
        """Refuses a training step whose model may be in evaluation mode."""
        if not self.has_modes or self.place is None:
            return
        model = self.roles.of(self.place)["model"]
        if not any(self._evaluates(part) for part in self.parts.values()):
            return
        assert self.step is not None
        if not self._is_training(self.place, self.list, self.above, self.step.node, set()):
            raise NotUnderstoodError(
                self.step.node,
                f"{model} may be in evaluation mode here after an eval(); write {model}.train() "
                "in the loop before it",
            )

    def _evaluates(self, part: Part) -> bool:
        model = self.roles.of(part).get("model")
        return model is not None and any(
            mode_of(call, model) == "eval" for one in part.statements for call in calls_in(one)
        )

    def _is_training(
        self, part: Part, place: list[Any], above: tuple[Any, ...], node: Any, seen: set[str]
    ) -> bool:
        """Whether the model has been set to training mode on every way to a statement."""
        model = self.roles.of(part).get("model")
        path = [*above, node]
        depth = len(above)
        here = place
        while True:
            position = next(i for i, one in enumerate(here) if one is path[depth])
            for one in reversed(here[:position]):
                call = call_of(one)
                if call is not None and mode_of(call, model) == "train":
                    return True
                if self._sets_evaluation(part, one):
                    return False
            if depth == 0:
                break
            if isinstance(path[depth - 1], LOOPS) and any(
                self._sets_evaluation(part, one) for one in body_of(path[depth - 1].body)
            ):
                return False
            depth -= 1
            here = (
                part.statements
                if depth == 0
                else next(
                    found
                    for found, over in lists(part.statements)
                    if over == tuple(above[:depth]) and any(one is path[depth] for one in found)
                )
            )
        if part.name in seen or part.name == self.roles.owner.name:
            return part.name == self.roles.owner.name
        sites = self.roles.sites.get(part.name, [])
        return bool(sites) and all(
            self._is_training(caller, *_place_of(caller, call), {*seen, part.name})
            for caller, call in sites
        )

    def _sets_evaluation(self, part: Part, statement: Any) -> bool:
        """Whether a statement may leave the model in evaluation mode."""
        model = self.roles.of(part).get("model")
        for call in calls_in(statement):
            if model is not None and mode_of(call, model) == "eval":
                return True
            if isinstance(call.func, cst.Name) and call.func.value in self.parts:
                other = self.parts[call.func.value]
                if other is not part and any(
                    self._sets_evaluation(other, s) for s in other.statements
                ):
                    return True
        return False

    def sets_mode(self, part: Part) -> bool:
        """Whether a function sets the mode of the model before it uses it."""
        model = self.roles.of(part).get("model")
        for one in part.statements:
            if model in names_read(one):
                call = call_of(one)
                return call is not None and mode_of(call, model) in ("train", "eval")
        return False

    def predict_line(self) -> str:
        """The line that makes the compiled prediction."""
        return f"{self.predict} = jax.jit(make_predict())"

    # writing

    def constants(self) -> dict[str, str]:
        """The constants of the loss by name, and what they are where the step is made."""
        assert self.step is not None
        assert self.place is not None
        owner, found = self.roles.owner, {n: n for n in self.step.constants}
        part = self.place
        if part is owner:
            return {}
        seen = {part.name}
        while part is not owner and found:
            sites = self.roles.sites.get(part.name, [])
            if not sites:
                raise NotUnderstoodError(self.step.node, f"{part.name} is called nowhere")
            if any(caller is not sites[0][0] for caller, _ in sites):
                raise NotUnderstoodError(sites[1][1], f"{part.name} is called by several functions")
            caller = sites[0][0]
            given = [
                {name: part.argument(call, name) for name in found.values()} for _, call in sites
            ]
            for name, value in given[0].items():
                words = {code(each[name]) if each[name] is not None else "" for each in given}
                constant = (
                    value is not None and len(words) == 1 and self._stays(caller, owner, value)
                )
                if not constant:
                    raise NotUnderstoodError(
                        sites[0][1],
                        f"{part.name}: its argument {name}, which the loss depends on, is not the "
                        "same at every call",
                    )
            found = {key: code(given[0][name]) for key, name in found.items()}
            part = caller
            if part.name in seen:
                raise NotUnderstoodError(self.step.node, f"{part.name} calls itself")
            seen.add(part.name)
        return found

    def _stays(self, caller: Part, owner: Part, value: Any) -> bool:
        names = names_read(value)
        if caller is not owner:
            return isinstance(value, cst.Name) and value.value in caller.parameters
        if isinstance(value, cst.Call):
            return not any(n in caller.bound for n in names)
        return all(n not in caller.bound or self._single(caller, n) for n in names)

    def _single(self, part: Part, name: str) -> bool:
        """Whether a name is given its value once, outside of loops."""
        found = [above for _, above in self.fixed.bindings(part, name)]
        if len(found) != 1 or name in self.fixed.globals or self.fixed.changes_inside(name):
            return False
        return not any(isinstance(a, LOOPS) for a in found[0])

    def made(self) -> tuple[list[Any], list[str]]:
        """The loss function, and the lines that make the state and the step."""
        assert self.step is not None
        assert self.place is not None
        owner = self.roles.of(self.roles.owner)
        constants = self.constants()
        function = loss_function(
            self.step, self.loss, self.roles.of(self.place)["model"], list(constants)
        )
        given = self.loss
        if constants:
            self.imports.add("from functools import partial")
            given = f"partial({self.loss}, {', '.join(constants.values())})"
        norm = ", grad_norm=True" if self.step.norm else ""
        self.imports |= {"import jax", "from jaxnet.train import create, make_train_step"}
        optimizer = owner["optimizer"]
        lines = [
            f"{self.state} = create({owner['model']}, {optimizer})",
            f"{self.function} = jax.jit(make_train_step({given}, {optimizer}{norm}))",
        ]
        scheduler = owner.get("scheduler")
        if scheduler is not None:
            if self.roles.schedule == "ReduceLROnPlateau":
                lines.append(f"{self.plateau} = {scheduler}.init()")
            elif self.roles.schedule in _BEGINS_ELSEWHERE:
                lines.append(self.scheduled(scheduler, "0"))
        return [function], lines

    def scheduled(self, scheduler: str, count: str) -> str:
        """The line that sets the learning rate after some steps of the scheduler."""
        state = self.state
        return f"{state} = {state}.replace(opt_state={scheduler}.apply({state}.opt_state, {count}))"

    def optimizer(self, value: cst.Call) -> Any:
        """The call that makes the optimizer, without the parameters, and with clipping."""
        assert self.step is not None
        args = [
            arg
            for i, arg in enumerate(value.args)
            if not (i == 0 and arg.keyword is None)
            and not (
                arg.keyword is not None and arg.keyword.value in ("params", "foreach", "fused")
            )
        ]
        if args:
            args[-1] = args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        made = value.with_changes(args=args, whitespace_before_args=cst.SimpleWhitespace(""))
        if self.roles.groups is not None:
            made = self._with_groups(made)
        clip = self.step.clip
        if clip is None:
            return made
        self.imports.add("from jaxnet import optim")
        assert self.place is not None
        words = []
        for arg in clip.args[1:]:
            bound = arg.value
            if self.place is not self.roles.owner:
                for name in names_read(bound):
                    if name in self.place.bound:
                        raise NotUnderstoodError(self.step.node, f"{code(clip)}: {name} changes")
                    if name in self.place.parameters:
                        bound = self._from_owner(name, bound)
            keyword = "" if arg.keyword is None else f"{arg.keyword.value}="
            words.append(keyword + code(bound))
        self._before_optimizer(clip, words)
        kind = "norm" if code(clip.func).endswith("norm_") else "value"
        clipping = f"optim.clip_by_{kind}({', '.join(words)})"
        outer: Any = cst.parse_expression(f"optim.chain({clipping}, 0)")
        return outer.with_changes(args=[outer.args[0], cst.Arg(made)])

    def _with_groups(self, made: cst.Call) -> Any:
        """The optimizers of the parameter groups, from the one that has what they share."""
        groups, statement = self.roles.groups, self.roles.optimizer_statement
        assert groups is not None
        if any(isinstance(part, cst.Call) for arg in made.args for part in parts_of(arg)) or any(
            arg.star for arg in made.args
        ):
            raise NotUnderstoodError(
                statement, f"{code(made)}: what its groups share is not numbers or names"
            )
        shared: dict[str, Any] = {}
        for arg in made.args:
            if arg.keyword is None and shared:
                raise NotUnderstoodError(
                    statement, f"{code(made)}: arguments of parameter groups; write them by name"
                )
            shared["lr" if arg.keyword is None else arg.keyword.value] = arg.value
        members = []
        for own in groups.own:
            values = {
                n: v for n, v in {**shared, **own}.items() if n not in ("foreach", "fused")
            }  # fmt: skip
            words = ", ".join(f"{name}={code(value)}" for name, value in values.items())
            members.append(f"{code(made.func)}({words})")
        if not groups.choices:
            return cst.parse_expression(members[0])
        if "optim" in self.roles.owner.bound | set(self.roles.owner.parameters):
            raise NotUnderstoodError(statement, "optim is a name of the program; rename it")
        self.imports.add("from jaxnet import optim")
        rules = ", ".join(
            f"({choice}, {member})" for choice, member in zip(groups.choices, members, strict=False)
        )
        return cst.parse_expression(f"optim.groups([{rules}], {members[-1]})")

    def _from_owner(self, name: str, bound: Any) -> Any:
        """A bound in a function, by the names of the part that makes the optimizer."""
        assert self.place is not None
        sites = self.roles.sites.get(self.place.name, [])
        value = self.place.argument(sites[0][1], name) if sites else None
        words = {code(self.place.argument(call, name) or cst.Name("None")) for _, call in sites}
        owner = self.roles.owner
        if value is None or len(words) != 1 or any(caller is not owner for caller, _ in sites):
            raise NotUnderstoodError(
                self.place.node or bound, f"{name}: the bound of the gradients"
            )
        if not self._stays(owner, owner, value):
            raise NotUnderstoodError(
                self.place.node or bound, f"{name}: the bound of the gradients changes"
            )
        inner = value

        class Replaced(cst.CSTTransformer):
            def visit_Attribute(self, node: cst.Attribute) -> bool:
                return not isinstance(node.value, cst.Name) or node.value.value == name

            def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
                return inner.deep_clone() if original_node.value == name else updated_node

        return bound.visit(Replaced())

    def _before_optimizer(self, clip: Any, words: list[str]) -> None:
        """Refuses a bound whose names are not known yet where the optimizer is made."""
        owner = self.roles.owner
        later: set[str] = set()
        passed = False
        for one in owner.statements:
            passed |= one is self.roles.optimizer_statement or any(
                p is self.roles.optimizer_statement for p in parts_of(one)
            )
            if passed:
                later |= bound_names(one)
        for text in words:
            value = cst.parse_expression(text.partition("=")[2] or text)
            for name in names_read(value):
                if name in later and name in owner.bound:
                    raise NotUnderstoodError(self.step.node, f"{code(clip)}: {name} is given later")  # type: ignore[union-attr]


_UNSEEN = {"register_hook", "register_full_backward_hook", "register_post_accumulate_grad_hook"}


def _frozen(node: Any) -> list[tuple[str, Any]]:
    """The places where `requires_grad` may become false, with the names they begin with."""
    found: list[tuple[str, Any]] = []
    for part in parts_of(node):
        if isinstance(part, cst.Assign):
            yes = is_name(part.value, "True")
            found += [
                (root_of(t.target), t.target)
                for t in part.targets
                if isinstance(t.target, cst.Attribute)
                and t.target.attr.value == "requires_grad"
                and not yes
            ]
        elif isinstance(part, cst.Call) and isinstance(part.func, cst.Attribute):
            given = [a.value for a in part.args]
            if part.func.attr.value == "requires_grad_" and given:
                found += [(root_of(part.func), part)] if not is_name(given[0], "True") else []
    return found


def mode_of(call: Any, model: str | None) -> str:
    """What a call sets the model to: "train", "eval", or "" for nothing."""
    name, method = method_of(call)
    if model is None or name != model or method not in ("train", "eval"):
        return ""
    if method == "eval" or not call.args:
        return method
    value = call.args[0].value
    return "eval" if is_name(value, "False") else "train" if is_name(value, "True") else "unknown"


def _place_of(part: Part, call: Any) -> tuple[list[Any], tuple[Any, ...], Any]:
    """The list, what it is in, and the statement of a call."""
    for place, above in lists(part.statements):
        for one in place:
            if any(p is call for p in parts_of(one)) and not any(
                p is call for block in blocks(one) for p in parts_of(block)
            ):
                return place, above, one
    raise NotUnderstoodError(call, "a call that is in no statement")


_OF_ARRAYS = {"T", "mT", "shape", "dtype", "device", "data", "ndim", "real", "imag"}


def _is_used_as_constant(name: str, used: Sequence[Any]) -> bool:
    """Whether statements call a name, or read attributes of it that no array has."""
    methods: set[int] = set()
    found = False
    for one in used:
        for part in parts_of(one):
            if isinstance(part, cst.Call):
                found |= is_name(part.func, name)
                methods.add(id(part.func))
            if isinstance(part, cst.Attribute) and is_name(part.value, name):
                found |= id(part) not in methods and part.attr.value not in _OF_ARRAYS
    return found


def _is_number(value: Any) -> bool:
    """Whether an expression is one of numbers, texts and the like."""
    if isinstance(value, cst.Integer | cst.Float | cst.SimpleString | cst.Lambda | cst.Dict):
        return True
    if is_name(value, "True", "False", "None"):
        return True
    if isinstance(value, cst.BinaryOperation):
        return _is_number(value.left) and _is_number(value.right)
    return isinstance(value, cst.UnaryOperation) and _is_number(value.expression)
