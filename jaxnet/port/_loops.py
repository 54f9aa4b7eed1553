"""Rewrites the functions of a program whose model is trained: a state takes the model's place."""

import re
from typing import Any

import libcst as cst

from jaxnet.port._aliases import Aliases
from jaxnet.port._flow import (
    COMPOUND,
    LOOPS,
    assignment_of,
    backward_calls,
    bound_names,
    call_of,
    callee_of,
    calls_in,
    has,
    method_of,
    names_read,
)
from jaxnet.port._nodes import code, is_name, parts_of
from jaxnet.port._reads import Reads, is_plain, rate_of
from jaxnet.port._roles import Part, is_guard
from jaxnet.port._steps import NotUnderstoodError, calls, code_line, root_of
from jaxnet.port._training import Training, mode_of


class Loops:
    """Rewrites the parts of a program.

    Args:
        training: The training of the program.
        positions: The places of the nodes in the file.

    Attributes:
        functions: The functions that become others, by name, as lists of statements.
        program: The statements of the program.
    """

    def __init__(self, training: Training, positions: dict[Any, Any]) -> None:
        self.training = training
        self.positions = positions
        self.parts = training.parts
        self.roles = training.roles
        self.aliases = Aliases(training.fixed, training.roles)
        self.aliases.check_layers()
        self.changing = self._changing()
        self.returning = {name for name, part in self.parts.items() if name and _returns(part.node)}
        self.predicting = {n for n in self.parts if n and self._only_calls(self.parts[n])}
        self.made = training.made()
        self.mode = ""
        self.functions = {
            name: self._function(part) for name, part in self.parts.items()
            if name and self._has_roles(part)
        }  # fmt: skip
        program = self.parts.get("")
        self.program = [] if program is None else self._statements(program)

    def _has_roles(self, part: Part) -> bool:
        names = set(self.roles.of(part).values())
        reads = set(names_read(*part.statements))
        return part is self.roles.owner or bool(names & (reads | set(part.parameters)))

    def _changing(self) -> set[str]:
        """The parts that change the state: by a step, by the scheduler, or by new weights."""
        found: set[str] = set()
        grown = True
        while grown:
            grown = False
            for name, part in self.parts.items():
                roles = self.roles.of(part)
                new = part is self.training.place
                for one in part.statements:
                    for call in calls_in(one):
                        receiver, method = method_of(call)
                        new |= bool(receiver) and (receiver, method) in (
                            (roles.get("scheduler"), "step"),
                            (roles.get("model"), "load_state_dict"),
                        )
                        callee = callee_of(call)
                        new |= bool(callee) and callee in found and callee not in part.bound
                if new and name not in found:
                    found.add(name)
                    grown = True
        return found

    def _is_parameter(self, part: Part, role: str) -> bool:
        return self.roles.of(part).get(role) in part.parameters

    def _only_calls(self, part: Part) -> bool:
        """Whether a part does nothing with the model but set it to evaluation mode and call it."""
        model = self.roles.of(part).get("model")
        if model is None or part.name in self.changing or part is self.roles.owner:
            return False
        evaluates = False
        fine: set[int] = set()
        for one in part.statements:
            for call in calls_in(one):
                if is_name(call.func, model) and is_plain(call):
                    fine.add(id(call.func))
                elif (mode := mode_of(call, model)) in ("train", "eval"):
                    evaluates |= mode == "eval"
                    fine.add(id(call.func.value))  # type: ignore[attr-defined]
        for one in part.statements:
            for node in parts_of(one):
                if is_name(node, model) and id(node) not in fine:
                    return False
        return evaluates and not self._is_trained_inside(part, model)

    def _is_trained_inside(self, part: Part, model: str) -> bool:
        """Whether a call of the model comes before eval() or after train()."""
        mode = ""
        for one in part.statements:
            for call in calls_in(one):
                mode = mode_of(call, model) or mode
                if is_name(call.func, model) and mode != "eval" and self.training.has_modes:
                    return True
        return False

    # functions

    def _function(self, part: Part) -> list[Any]:
        self.mode = ""
        node = part.node
        before: list[Any] = []
        owner = part is self.roles.owner
        statements = self._statements(part)
        changes = part.name in self.changing and not owner
        model = self.roles.of(part).get("model")
        if changes and self._is_parameter(part, "model"):
            if not statements or not _ends(statements[-1]):
                statements.append(cst.parse_statement(f"return {self.training.state}"))
        elif changes:
            self._global(part, node, statements)
        elif self._keeps(part) and model is not None and model not in part.parameters:
            line = f"{model} = {self.training.state}.model()"
            statements.insert(_start(node), cst.parse_statement(line))
        if part is self.training.place and not owner:
            before += self.made[0]
        params = node.params
        kept = [self._parameter(part, p) for p in params.params]
        keywords = [self._parameter(part, p) for p in params.kwonly_params]
        params = params.with_changes(params=kept, kwonly_params=keywords)
        body = node.body.with_changes(body=statements)
        new = node.with_changes(params=params, body=body)
        if changes and node.returns is not None:
            new = new.with_changes(returns=None)
        self.positions[new] = self.positions.get(node)
        return [*before, new]

    def _global(self, part: Part, node: Any, statements: list[Any]) -> None:
        if self.roles.owner.name:
            raise NotUnderstoodError(node, f"{part.name} changes a model that it is not given")
        if self.training.state in bound_names(*statements):
            line = cst.parse_statement(f"global {self.training.state}")
            statements.insert(_start(node), line)

    def _parameter(self, part: Part, node: cst.Param) -> cst.Param:
        roles, name = self.roles.of(part), node.name.value
        if part is self.roles.owner:
            return node
        if name == roles.get("model") and (part.name in self.changing | self.predicting):
            return node.with_changes(name=cst.Name(self.training.state), annotation=None)
        if name == roles.get("optimizer"):
            if part.name not in self.changing or self.training.function in part.bound:
                raise NotUnderstoodError(
                    part.node, f"{part.name} takes the optimizer, and does not step"
                )
            return node.with_changes(name=cst.Name(self.training.function), annotation=None)
        return node

    # statements

    def _statements(self, part: Part) -> list[Any]:
        owner = part is self.roles.owner
        statements = list(part.statements)
        guard = next((i for i, one in enumerate(statements) if is_guard(one)), None)
        if owner and guard is not None and part.name == "":
            before = self._owner(part, statements[:guard], after=False)
            if before is not None:
                rest = self._list(part, statements[guard:], ())
                return [*before, *rest]
            inside = list(statements[guard].body.body)
            made = any(one is self.roles.optimizer_statement for one in inside)
            head = statements[:guard] if made else self._owner(part, statements[:guard], after=True)
            if made:
                body = self._owner(part, inside, after=True)
                block = statements[guard].body.with_changes(body=body)
                return [*(head or []), statements[guard].with_changes(body=block)]
            return [*(head or []), *self._list(part, statements[guard:], ())]
        if owner:
            return self._owner(part, statements, after=True) or []
        self.mode = ""
        return self._list(part, statements, ())

    def _owner(self, part: Part, statements: list[Any], after: bool) -> list[Any] | None:
        """The statements of the part that makes the optimizer, with the state before its use.

        Args:
            part: The part.
            statements: The statements.
            after: Whether the state is made at the end where nothing uses it; else None is given.
        """
        made = [i for i, one in enumerate(statements) if one is self.roles.optimizer_statement]
        self.mode = "train"
        found: list[Any] = []
        index = made[0] if made else len(statements)
        first = None
        for i, one in enumerate(statements):
            if i > index and self._uses(part, one):
                first = i
                break
        if first is None:
            if not after:
                return None
            if not made:
                raise NotUnderstoodError(
                    self.roles.optimizer_statement, "it is not used after it is made"
                )
            first = len(statements)
        comments: list[Any] = []
        for i, one in enumerate(statements[:first]):
            if self._is_sorting(one):
                comments += _comments(one)
                continue
            new = self._before(part, one, i > index)
            if one is self.roles.optimizer_statement and comments:
                line = new[0].with_changes(leading_lines=[*comments, *new[0].leading_lines])
                self.positions[line] = self.positions.get(new[0])
                new = [line, *new[1:]]
            found += new
        functions, lines = self.made
        inside = functions if part is self.training.place else []
        found += inside
        found += list(cst.parse_module("\n".join(lines) + "\n").body)
        before = self.training.predicts
        self.training.predicts = False
        rest = self._list(part, statements[first:], ())
        if self.training.predicts and not self.predicting:
            found += list(cst.parse_module(self.training.predict_line() + "\n").body)
        self.training.predicts |= before
        return [*found, *rest]

    def _is_sorting(self, statement: Any) -> bool:
        """Whether a statement sorts the parameters into groups, which optim.groups does."""
        groups = self.roles.groups
        return groups is not None and any(statement is one for one in groups.left_out)

    def _uses(self, part: Part, statement: Any) -> bool:
        """Whether a statement makes a step, or calls what does, or evaluates after it is made."""
        if backward_calls(statement):
            return True
        roles = self.roles.of(part)
        for call in calls_in(statement):
            callee = callee_of(call)
            if (
                callee
                and callee in self.parts
                and (callee in self.changing or callee in self.predicting)
            ):
                return True
            if callee and callee in self.parts and self._has_roles(self.parts[callee]):
                return True
            if method_of(call) == (roles.get("scheduler"), "step"):
                return True
        return isinstance(statement, LOOPS) and bool(
            set(roles.values()) & set(names_read(statement))
        )

    def _before(self, part: Part, statement: Any, late: bool) -> list[Any]:
        """A statement of the owner before the state is made."""
        roles = self.roles.of(part)
        if statement is self.roles.optimizer_statement:
            assign = assignment_of(statement)
            assert assign is not None
            value = self.training.optimizer(assign.value)  # type: ignore[arg-type]
            return [self._with(statement, assign.with_changes(value=value))]
        if late and statement is not self.roles.schedule_statement:
            reads = names_read(statement)
            if method_of(call_of(statement)) == (roles["optimizer"], "zero_grad"):
                return []
            if roles["optimizer"] in reads or roles.get("scheduler") in reads:
                raise NotUnderstoodError(statement, code_line(statement))
        self.aliases.check(part, statement)
        return [statement]

    def _with(self, statement: Any, part: Any) -> Any:
        new = statement.with_changes(body=[part])
        self.positions[new] = self.positions.get(statement)
        return new

    def _list(self, part: Part, place: list[Any], above: tuple[Any, ...]) -> list[Any]:
        training = self.training
        if training.place is part and any(one is training.step.node for one in place):  # type: ignore[union-attr]
            step = training.step
            assert step is not None
            before = self._each(part, step.before, above, place)
            self.mode = "train"
            made = calls(step, training.state, training.function, training.metrics)
            for one in made:
                self.positions[one] = self.positions.get(step.node)
            return [*before, *made, *self._each(part, step.after, above, place)]
        return self._each(part, place, above, place)

    def _each(
        self, part: Part, statements: list[Any], above: tuple[Any, ...], place: list[Any]
    ) -> list[Any]:
        """Statements of a list; the comment of one that is left out goes to the next."""
        found: list[Any] = []
        comments: list[Any] = []
        for one in statements:
            new = self._statement(part, one, above, place)
            if not new:
                comments += getattr(one, "leading_lines", ())
            elif any(line.comment is not None for line in comments):
                lines = [*comments, *new[0].leading_lines]
                first = new[0].with_changes(leading_lines=lines)
                self.positions[first] = self.positions.get(new[0])
                new, comments = [first, *new[1:]], []
            else:
                comments = []
            found += new
        return found

    def _statement(
        self, part: Part, one: Any, above: tuple[Any, ...], place: list[Any]
    ) -> list[Any]:
        if isinstance(one, COMPOUND):
            return [self._compound(part, one, above)]
        if isinstance(one, cst.FunctionDef | cst.ClassDef):
            names = {n for n in self.roles.of(part).values() if n}
            if names & set(names_read(one)):
                raise NotUnderstoodError(
                    one, f"{one.name.value}: a function in a function uses the model"
                )
            return [one]
        roles, state = self.roles.of(part), self.training.state
        model, scheduler = roles.get("model"), roles.get("scheduler")
        call, assign = call_of(one), assignment_of(one)
        if call is not None:
            if (mode := mode_of(call, model)) and self._keeps(part):
                return [one]
            if mode:
                if mode == "unknown":
                    raise NotUnderstoodError(one, f"{code(call)}: training or evaluation mode?")
                self.mode = mode
                return []
            receiver, method = method_of(call)
            if method == "zero_grad" and receiver in (model, roles.get("optimizer")):
                return []
            if scheduler is not None and (receiver, method) == (scheduler, "step"):
                return self._scheduled(part, one, call, above, place)
            if model is not None and (receiver, method) == (model, "load_state_dict"):
                return self._loaded(part, one, call)
            if model is not None and self._changes_model(call, model):
                raise NotUnderstoodError(
                    one, f"{code_line(one)}: a change of the model beside its steps"
                )
        if (call or assign) is not None:
            value: Any = call if call is not None else assign.value  # type: ignore[union-attr]
            callee = callee_of(value) if isinstance(value, cst.Call) else ""
            if callee and callee in self.changing and callee in self.parts:
                return [self._call_of_changing(part, one, value, assign, callee)]
        if assign is not None:
            number = rate_of(assign.targets[0].target, roles.get("optimizer"), self.roles.count)
            if number is not None:
                return self._rate_set(part, one, assign.value, "", number)
        if assign is not None and model is not None:
            words = code(assign.value)
            target = code(assign.targets[0].target)
            loop = any(isinstance(a, LOOPS) for a in above)
            if words == f"{model}.state_dict()" and loop:
                raise NotUnderstoodError(
                    one,
                    f"{code_line(one)}: PyTorch's dictionary goes on changing with the model; "
                    f"write copy.deepcopy({words})",
                )
            if words == model or target.startswith((f"{model}.", f"{model}[")):
                raise NotUnderstoodError(
                    one, f"{code_line(one)}: a second name for the model, or a change"
                )
        self.aliases.check(part, one)
        returned = isinstance(one, cst.SimpleStatementLine) and isinstance(one.body[0], cst.Return)
        new = self._rewritten(part, one)
        changes = part.name in self.changing and part is not self.roles.owner
        if returned and changes and self._is_parameter(part, "model"):
            value = new.body[0].value
            words = state if value is None else f"{state}, {code(value)}"
            if value is not None and isinstance(value, cst.Tuple) and not value.lpar:
                words = f"{state}, ({code(value)})"
            line = new.body[0].with_changes(
                value=cst.parse_expression(words),
                whitespace_after_return=cst.SimpleWhitespace(" "),
            )
            new = self._with(new, line)
        return [new]

    def _keeps(self, part: Part) -> bool:
        """Whether the part has the model itself, as evaluations that ask it more have."""
        if part is self.roles.owner:
            return False
        return part.name not in self.changing and part.name not in self.predicting

    def _changes_model(self, call: cst.Call, model: str) -> bool:
        """Whether a statement calls a method of the model or of a part of it."""
        return isinstance(call.func, cst.Attribute) and root_of(call.func) == model

    def _compound(self, part: Part, one: Any, above: tuple[Any, ...]) -> Any:
        roles = self.roles.of(part)
        model = roles.get("model")
        parameters = rf"\b{model}\.(named_)?(parameters|modules|children)\("
        if isinstance(one, cst.For) and re.search(parameters, code(one.iter)):
            raise NotUnderstoodError(one, f"{code_line(one)}: the parameters are changed or read")
        if isinstance(one, cst.For) and roles.get("optimizer") in names_read(one.iter):
            return self._rates(part, one)
        changes: dict[str, Any] = {}
        for field in ("test", "iter"):
            if (node := getattr(one, field, None)) is not None:
                changes[field] = self._rewritten(part, node)
        if isinstance(one, cst.With):
            changes["items"] = [
                item.with_changes(item=self._rewritten(part, item.item)) for item in one.items
            ]
        inside = (*above, one)
        changes["body"] = self._block(part, one.body, inside)
        for field in ("orelse", "finalbody"):
            other = getattr(one, field, None)
            if isinstance(other, cst.If):
                changes[field] = self._compound(part, other, above)
            elif other is not None:
                changes[field] = other.with_changes(body=self._block(part, other.body, inside))
        if isinstance(one, cst.Try):
            changes["handlers"] = [
                h.with_changes(body=self._block(part, h.body, inside)) for h in one.handlers
            ]
        new = one.with_changes(**changes)
        self.positions[new] = self.positions.get(one)
        return new

    def _block(self, part: Part, block: Any, above: tuple[Any, ...]) -> Any:
        if not isinstance(block, cst.IndentedBlock):
            names = set(self.roles.of(part).values())
            if names & set(names_read(block)):
                raise NotUnderstoodError(
                    above[-1], f"{code_line(above[-1])}: write it on lines of its own"
                )
            return block
        body = self._list(part, list(block.body), above)
        return block.with_changes(body=body or [cst.parse_statement("pass")])

    # what the statements become

    def _scheduled(
        self, part: Part, one: Any, call: cst.Call, above: tuple[Any, ...], place: list[Any]
    ) -> list[Any]:
        """`scheduler.step()`."""
        training, state = self.training, self.training.state
        scheduler = self.roles.of(part)["scheduler"]
        beside = training.place is part and any(other is training.node for other in place)
        if beside:
            self._check_scheduled(part, one, above)
        if self.roles.schedule == "ReduceLROnPlateau":
            if part is not self.roles.owner or len(call.args) != 1:
                raise NotUnderstoodError(
                    one, f"{code(call)}: a plateau that is not beside its optimizer"
                )
            metric = code(self._rewritten(part, call.args[0].value))
            lines = [
                f"{training.plateau}, opt_state = {scheduler}.step("
                f"{training.plateau}, {metric}, {state}.opt_state)",
                f"{state} = {state}.replace(opt_state=opt_state)",
            ]
            return self._lines(one, lines)
        if call.args:
            raise NotUnderstoodError(one, f"{code(call)}: a step with arguments")
        steps = [
            c
            for p in self.parts.values()
            for s in p.statements
            for c in calls_in(s)
            if method_of(c) == (self.roles.of(p).get("scheduler"), "step")
        ]
        if len(steps) > 1:
            raise NotUnderstoodError(one, f"{code(call)}: there are several of them")
        if beside:
            return self._lines(one, [training.scheduled(scheduler, f"int({state}.step)")])
        loops = [a for a in above if isinstance(a, LOOPS)]
        count = ""
        if part is self.roles.owner and len(loops) == 1 and above[-1] is loops[0]:
            count = _passes(loops[0])
        if not count:
            raise NotUnderstoodError(
                one, f"{code(call)}: how often it has been called is not known here"
            )
        return self._lines(one, [training.scheduled(scheduler, count)])

    def _check_scheduled(self, part: Part, one: Any, above: tuple[Any, ...]) -> None:
        """Refuses `scheduler.step()` that is not called once after each step of the optimizer."""
        step = (self.roles.of(part)["optimizer"], "step")
        numbers = [i for i, s in enumerate(self.training.list) if method_of(call_of(s)) == step]
        position = next(i for i, s in enumerate(self.training.list) if s is one)
        if position < numbers[0]:
            raise NotUnderstoodError(
                one, f"{code_line(one)}: before the step of the optimizer, whose rate it changes"
            )
        again = part is not self.roles.owner or sum(isinstance(a, LOOPS) for a in above) > 1
        for other in self.training.list[numbers[0] : position]:
            ends = isinstance(other, COMPOUND) and has(other, cst.Break, cst.Return)
            if has(other, cst.Continue) or (ends and again):
                raise NotUnderstoodError(
                    other, f"{code_line(other)}: a step after which {code_line(one)} is left out"
                )

    def _loaded(self, part: Part, one: Any, call: cst.Call) -> list[Any]:
        """`model.load_state_dict(...)` after the state is made."""
        state, model = self.training.state, self.roles.of(part)["model"]
        self.training.imports.add("from jaxnet.train import split")
        args = ", ".join(code(self._rewritten(part, a.value)) for a in call.args)
        return self._lines(
            one,
            [
                f"{model} = {state}.model()",
                f"{model}.load_state_dict({args})",
                f"_, params, buffers = split({model})",
                f"{state} = {state}.replace(params=params, buffers=buffers)",
            ],
        )

    def _rates(self, part: Part, one: cst.For) -> Any:
        """`for group in optimizer.param_groups: group["lr"] = value`."""
        optimizer = self.roles.of(part)["optimizer"]
        body = list(one.body.body)
        assign = assignment_of(body[0]) if len(body) == 1 else None
        target = code(one.target)
        right = assign is not None and code(assign.targets[0].target) in (
            f'{target}["lr"]',
            f"{target}['lr']",
        )
        if code(one.iter) != f"{optimizer}.param_groups" or not right:
            raise NotUnderstoodError(
                one, f"{code_line(one)}: optim.set_hyperparams sets what it changes"
            )
        assert assign is not None
        return self._rate_set(part, one, assign.value, target)[0]

    def _rate_set(
        self, part: Part, one: Any, value: Any, group: str, number: int | None = None
    ) -> list[Any]:
        """The statement that sets the learning rate of all groups, or of one, to a value."""
        state, roles = self.training.state, self.roles.of(part)
        if {group, roles["optimizer"]} & set(names_read(value)) or "scheduler" in roles:
            raise NotUnderstoodError(one, f"{code(value)}: a learning rate from the one before")
        if part is not self.roles.owner and part.name not in self.changing:
            raise NotUnderstoodError(one, f"{code_line(one)}: {part.name} makes no step")
        self.training.imports.add("from jaxnet import optim")
        words = code(self._rewritten(part, value))
        which = "" if number is None or self.roles.count == 1 else f"group={number}, "
        line = (
            f"{state} = {state}.replace(\n    opt_state=optim.set_hyperparams({state}.opt_state, "
            f"{which}lr={words})\n)"
        )
        return self._lines(one, [line])

    def _lines(self, one: Any, lines: list[str]) -> list[Any]:
        made = list(cst.parse_module("\n".join(lines) + "\n").body)
        leading = getattr(one, "leading_lines", ())
        made[0] = made[0].with_changes(leading_lines=leading)
        last = made[-1]
        if hasattr(one, "trailing_whitespace") and hasattr(last, "trailing_whitespace"):
            made[-1] = last.with_changes(trailing_whitespace=one.trailing_whitespace)
        for new in made:
            self.positions[new] = self.positions.get(one)
        return made

    def _call_of_changing(
        self, part: Part, one: Any, call: cst.Call, assign: Any, callee: str
    ) -> Any:
        """The call of a function that changes the state, which gives it back."""
        other, state = self.parts[callee], self.training.state
        self.mode = ""
        if not self._is_parameter(other, "model"):
            return self._rewritten(part, one)
        new = self._call(part, call)
        targets = [state]
        if assign is not None:
            if callee not in self.returning:
                raise NotUnderstoodError(one, f"{code_line(one)}: {callee} returns nothing")
            target = assign.targets[0].target
            tuple_ = isinstance(target, cst.Tuple) and not target.lpar
            targets.append(f"({code(target)})" if tuple_ else code(target))
        elif callee in self.returning:
            targets.append("_")
        line: Any = cst.parse_statement(f"{', '.join(targets)} = 0")
        return self._with(one, line.body[0].with_changes(value=new))

    def _call(self, part: Part, call: cst.Call) -> Any:
        """A call of a function of the file, which is given the state, or the model of it."""
        training = self.training
        callee = callee_of(call)
        other = self.parts[callee]
        roles, theirs = self.roles.of(part), self.roles.of(other)
        by_state = callee in self.changing | self.predicting
        args = []
        for index, arg in enumerate(call.args):
            keyword = "" if arg.keyword is None else arg.keyword.value
            name = keyword or "".join(other.parameters[index : index + 1])
            value: Any = None
            if is_name(arg.value, str(roles.get("model"))) and name == theirs.get("model"):
                sets = training.sets_mode(other)
                value = training.state if by_state else self._model(call, sets)
            elif is_name(arg.value, str(roles.get("optimizer"))) and name == theirs.get(
                "optimizer"
            ):
                value = training.function
            elif is_name(arg.value, str(roles.get("scheduler"))) and name == theirs.get(
                "scheduler"
            ):
                value = code(arg.value)
            if value is None:
                args.append(arg.with_changes(value=self._rewritten(part, arg.value)))
                continue
            if keyword and by_state and name != theirs.get("scheduler"):
                word = training.state if name == theirs.get("model") else training.function
                arg = arg.with_changes(keyword=cst.Name(word))
            args.append(arg.with_changes(value=cst.parse_expression(value)))
        return call.with_changes(args=args)

    def _model(self, node: Any, sets: bool = False) -> str:
        """The model of the state, in the mode that it has here."""
        training = self.training
        if sets or self.mode == "eval" or not training.has_modes:
            return f"{training.state}.model()"
        if self.mode == "train":
            return f"{training.state}.model(training=True)"
        raise NotUnderstoodError(node, "is the model in training or in evaluation mode here?")

    # expressions

    def _rewritten(self, part: Part, node: Any) -> Any:
        return node.visit(Reads(self, part, only_calls=self._keeps(part)))


def _passes(loop: Any) -> str:
    """How many passes of a loop `for epoch in range(...)` are done at the end of one."""
    if not isinstance(loop, cst.For) or not isinstance(loop.target, cst.Name):
        return ""
    items = loop.iter
    if not isinstance(items, cst.Call) or not is_name(items.func, "range"):
        return ""
    if any(isinstance(p, cst.Continue) for p in parts_of(loop.body)):
        return ""
    if loop.target.value in bound_names(loop.body):
        return ""
    name, args = loop.target.value, [code(a.value) for a in items.args]
    if len(args) == 1 or (len(args) == 2 and args[0] == "0"):
        return f"{name} + 1"
    if len(args) == 2 and args[0] == "1":
        return name
    return ""


def _returns(node: Any) -> bool:
    """Whether a function returns a value."""
    return any(isinstance(p, cst.Return) and p.value is not None for p in parts_of(node.body))


def _comments(statement: Any) -> list[cst.EmptyLine]:
    """The comments of a statement and of all in it, each on a line."""
    places = cst.EmptyLine | cst.TrailingWhitespace
    return [
        cst.EmptyLine(comment=part.comment)
        for part in parts_of(statement)
        if isinstance(part, places) and part.comment is not None
    ]


def _ends(statement: Any) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and isinstance(
        statement.body[0], cst.Return
    )


def _start(node: Any) -> int:
    """Where the statements of a function begin, behind its docstring."""
    return int(node.get_docstring() is not None)
