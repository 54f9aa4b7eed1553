"""The files of a PyTorch program: their definitions, their imports, and what a name stands for."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libcst as cst
from libcst import helpers
from libcst.metadata import MetadataWrapper, PositionProvider

from jaxnet.port._own_names import set_aside
from jaxnet.port._program import Program, as_program, is_program

if TYPE_CHECKING:
    from jaxnet.port._fold import Folded


@dataclasses.dataclass(frozen=True)
class Definition:
    """A class, a function or an assigned name at the top of a file.

    Attributes:
        source: The file.
        name: The name, which the output keeps.
    """

    source: "Source"
    name: str

    @property
    def node(self) -> Any:
        """The statement in the folded tree."""
        return self.source.statements[self.name]

    @property
    def key(self) -> str:
        """The dotted name of the module, and the name."""
        return f"{self.source.name}.{self.name}"


class Source:
    """One file, parsed.

    Attributes:
        name: The dotted name of the module.
        path: The file.
        tree: The syntax tree without what means nothing in jaxnet (`_fold.py`).
        lines: The line in the file of every node of the tree, by the node's id.
        imports: What each imported name stands for, dotted: {"F": "torch.nn.functional"}.
        stars: The modules of which everything is imported.
        statements: The statement that defines each name.
        later: The keys in `statements` of those that change what a name stands for afterwards.
        program: What is known of a whole program, or None.
        whole_tree: The tree without devices, and before anything is folded.
    """

    def __init__(self, name: str, path: Path, project: "Project") -> None:
        self.name = name
        self.path = path
        self.is_package = path.name == "__init__.py"
        self.project = project
        self.text = path.read_text(encoding="utf-8")
        wrapper = MetadataWrapper(set_aside(cst.parse_module(self.text)))
        self.program: Program | None = None
        self.whole_tree = wrapper.module
        self.imports: dict[str, str] = {}
        self.import_statements: list[cst.SimpleStatementLine] = []
        self.stars: list[str] = []
        self._read_imports(wrapper.module)
        for star in self.stars:  # `from .activations import *` gives what that file imports too
            other = project.source(star) if star != name else None
            for local, origin in ({} if other is None else other.imports).items():
                if not local.startswith("_"):
                    self.imports.setdefault(local, origin)
        from jaxnet.port._fold import fold

        positions: dict[Any, Any] = dict(wrapper.resolve(PositionProvider))
        tree = wrapper.module
        if name == project.whole and is_program(self.text):
            tree, self.program = as_program(self, tree, positions)
        folded: Folded = fold(self, tree, positions)
        if self.program is not None:
            for line in sorted(self.program.imports):
                self.import_statements.append(cst.parse_statement(line))  # type: ignore[arg-type]
        self.tree = folded.tree
        self.lines = folded.lines
        self.removed = folded.removed
        self.statements: dict[str, Any] = {}
        self.later: dict[str, list[str]] = {}
        for statement in self.tree.body:
            there = [n for n in changed_names(statement) if n in self.statements]
            changed = dict.fromkeys([*defined_names(statement), *there])
            again = not isinstance(statement, cst.ClassDef | cst.FunctionDef)
            for defined in changed:
                # What is defined twice, as in try and except, is what is defined first; what
                # gives the name another value, or changes it, goes along with it.
                if self.statements.setdefault(defined, statement) is not statement and again:
                    later = self.later.setdefault(defined, [])
                    later.append(f"{defined}#{len(later) + 2}")
                    self.statements[later[-1]] = statement

    def __hash__(self) -> int:
        return hash(self.name)

    def _read_imports(self, tree: cst.Module) -> None:
        source = self

        class Imports(cst.CSTVisitor):
            def __init__(self) -> None:
                super().__init__()
                self.tries = 0  # in which imports stay where they are

            def visit_Try(self, node: cst.Try) -> None:
                self.tries += 1

            def leave_Try(self, original_node: cst.Try) -> None:
                self.tries -= 1

            def visit_Import(self, node: cst.Import) -> None:
                for alias in node.names:
                    dotted = helpers.get_full_name_for_node_or_raise(alias.name)
                    if self.tries and source.is_foreign(dotted):
                        continue  # what the try statement defines
                    if alias.asname is None:
                        source.imports[dotted.partition(".")[0]] = dotted.partition(".")[0]
                    else:
                        source.imports[alias.evaluated_alias or ""] = dotted

            def visit_ImportFrom(self, node: cst.ImportFrom) -> None:
                origin = source.absolute(node)
                if isinstance(node.names, cst.ImportStar):
                    source.stars.append(origin)
                    return
                if self.tries and source.is_foreign(origin):
                    return
                for alias in node.names:
                    local = alias.evaluated_alias or alias.evaluated_name
                    source.imports[local] = f"{origin}.{alias.evaluated_name}"

            def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
                imports = (isinstance(part, cst.Import | cst.ImportFrom) for part in node.body)
                if not self.tries and any(imports):
                    source.import_statements.append(node)

        tree.visit(Imports())

    def imported(self, node: Any) -> str:
        """What a name of an import stands for, dotted, or "" for other names."""
        first = node
        while isinstance(first, cst.Attribute):
            first = first.value
        name = first.value if isinstance(first, cst.Name) else ""
        if name not in self.imports:
            return name if isinstance(node, cst.Name) and name else ""
        dotted = helpers.get_full_name_for_node(node) or ""
        return self.imports[name] + dotted[len(name) :]

    def is_foreign(self, module: str) -> bool:
        """Whether a module is neither torch's nor the program's own."""
        return module.partition(".")[0] not in ("torch", *self.project.tops)

    def absolute(self, node: cst.ImportFrom) -> str:
        """The dotted name of the module that an import is from."""
        dotted = "" if node.module is None else helpers.get_full_name_for_node_or_raise(node.module)
        if not node.relative:
            return dotted
        parts = self.name.split(".")
        kept = len(parts) - len(node.relative) + self.is_package
        return ".".join([*parts[: max(kept, 0)], *([dotted] if dotted else [])])

    def qualified(self, node: cst.BaseExpression | str) -> str | None:
        """What an expression such as `F.relu` stands for: "torch.nn.functional.relu".

        Names that this file defines give its dotted name and theirs. None is for what is no
        name of an import or of a definition.
        """
        dotted = node if isinstance(node, str) else helpers.get_full_name_for_node(node)
        if dotted is None or (not isinstance(node, str) and not _is_dotted(node)):
            return None
        first, _, rest = dotted.partition(".")
        if first in self.imports:
            origin = self.imports[first]
        elif first in self.statements:
            origin = f"{self.name}.{first}"
        else:
            found = next((o for o in self.stars if self.project.find(f"{o}.{first}")), None)
            if found is None:
                return None
            origin = f"{found}.{first}"
        return self.project.followed(f"{origin}.{rest}" if rest else origin)

    def rest(self, names: set[str] | None = None) -> Iterator[tuple[int, str]]:
        """The line and the beginning of what is at the top of the file and defines nothing.

        Args:
            names: What is ported of the file, if not all is: what says nothing of it is left out,
                and so is what is only run as a program.
        """
        kept = {id(statement) for statement in self.statements.values()}
        for statement in self.tree.body:
            if id(statement) in kept or not any(True for _ in self._working(statement)):
                continue
            if names is not None and (_is_main(statement) or not names & named(statement)):
                continue
            words = cst.Module([statement.with_changes(leading_lines=[])]).code.strip()
            yield self.lines.get(id(statement), 0), words.splitlines()[0]

    def _working(self, statement: Any) -> Iterator[Any]:
        """The parts of a statement that are neither imports nor the docstring."""
        if not isinstance(statement, cst.SimpleStatementLine):
            yield statement
            return
        for part in statement.body:
            text = isinstance(part, cst.Expr) and isinstance(part.value, cst.SimpleString)
            if not isinstance(part, cst.Import | cst.ImportFrom) and not text:
                yield part

    def definition(self, node: cst.BaseExpression | str) -> Definition | None:
        """The definition in the project that an expression names, or None."""
        dotted = self.qualified(node)
        found = self.project.find(dotted) if dotted else None
        return found[0] if found and not found[1] else None


class Project:
    """The files that are ported along: those of one package, or of one folder.

    Args:
        root: The folder that holds the package, or the files.
        tops: The names of the packages and modules in it that belong to the project.
        whole: The module that is ported as a whole, with what it runs, or "".
    """

    def __init__(self, root: Path, tops: frozenset[str], whole: str = "") -> None:
        self.root = root
        self.whole = whole
        self.tops = tops
        self.sources: dict[str, Source] = {}
        self._found: dict[str, tuple[Definition, str] | None] = {}

    def file(self, module: str) -> Path | None:
        """The file of a module, or None."""
        if module.partition(".")[0] not in self.tops:
            return None
        path = self.root.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
        return None

    def source(self, module: str) -> Source | None:
        """The parsed file of a module, or None."""
        if module not in self.sources:
            path = self.file(module)
            if path is None:
                return None
            self.sources[module] = Source(module, path, self)
        return self.sources[module]

    def find(self, dotted: str) -> tuple[Definition, str] | None:
        """The definition that a dotted name begins with, and the attributes that follow."""
        if dotted.partition(".")[0] not in self.tops:
            return None
        if dotted not in self._found:
            self._found[dotted] = None  # for names that are imported in a circle
            self._found[dotted] = self._find(dotted)
        return self._found[dotted]

    def followed(self, dotted: str) -> str:
        """A name of the project that only hands on another package's, as that package names it."""
        for _ in range(20):
            parts = dotted.split(".")
            if parts[0] not in self.tops or self.find(dotted) is not None:
                return dotted
            for cut in range(len(parts) - 1, 0, -1):
                source = self.source(".".join(parts[:cut]))
                if source is not None:
                    break
            else:
                return dotted
            if parts[cut] not in source.imports:
                return dotted
            dotted = ".".join([source.imports[parts[cut]], *parts[cut + 1 :]])
        return dotted

    def _find(self, dotted: str) -> tuple[Definition, str] | None:
        parts = dotted.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            source = self.source(".".join(parts[:cut]))
            if source is None:
                continue
            name, rest = parts[cut], ".".join(parts[cut + 1 :])
            if name in source.statements:
                return Definition(source, name), rest
            if name in source.imports:
                return self.find(".".join([source.imports[name], *parts[cut + 1 :]]))
            for star in source.stars:
                if found := self.find(".".join([star, *parts[cut:]])):
                    return found
            return None
        return None


def open_target(target: str, programs: bool = True) -> tuple[Source, str | None]:
    """The file that a target names, and the name in it, or None for the whole file.

    Args:
        target: A file, such as "model.py", or an import path, such as
            "timm.models.resnet:ResNet".
        programs: Whether what a file runs as a program is ported too.

    Raises:
        FileNotFoundError: There is no such file or module.
    """
    where, _, name = target.partition(":")
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"{target}: there is no file {path}")
        root, parts = path.parent, [] if path.name == "__init__.py" else [path.stem]
        while (root / "__init__.py").is_file():
            root, parts = root.parent, [root.name, *parts]
        tops = {p.stem for p in root.glob("*.py")} | {p.parent.name for p in root.glob("*/*.py")}
        module = ".".join(parts)
        tops = tops if len(parts) == 1 else {parts[0]}
        project = Project(root, frozenset(tops), module if programs and not name else "")
    else:
        top = where.partition(".")[0]
        spec = importlib.util.find_spec(top) if top.isidentifier() else None
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                f"{target}: there is no file of this name and no installed package {top!r}; "
                "accepted are a file, model.py, and an import path, timm.models.resnet:ResNet"
            )
        origin = Path(spec.origin)
        root = origin.parent.parent if origin.name == "__init__.py" else origin.parent
        module, project = where, Project(root, frozenset({top}))
    source = project.source(module)
    if source is None:
        raise FileNotFoundError(f"{target}: the package has no module {module!r}")
    if not name:
        return source, None
    found = project.find(f"{module}.{name}")
    if found is None or found[1]:
        there = ", ".join(sorted(source.statements)) or "nothing"
        raise ValueError(f"{target}: {source.path} defines no {name!r}; it defines {there}")
    return found[0].source, found[0].name


def defined_names(statement: Any) -> Iterator[str]:
    """The names that a statement at the top of a file defines."""
    if isinstance(statement, cst.ClassDef | cst.FunctionDef):
        yield statement.name.value
    elif isinstance(statement, cst.SimpleStatementLine):
        for part in statement.body:
            targets: list[Any] = []
            if isinstance(part, cst.Assign):
                targets = [target.target for target in part.targets]
            elif isinstance(part, cst.AnnAssign) and part.value is not None:
                targets = [part.target]
            for target in targets:
                if isinstance(target, cst.Name):
                    yield target.value
                elif isinstance(target, cst.Tuple):
                    for element in target.elements:
                        if isinstance(element.value, cst.Name):
                            yield element.value.value
    for inner in _inside(statement):
        if isinstance(statement, cst.Try):
            yield from _foreign_names(inner)
        yield from defined_names(inner)


def _inside(statement: Any) -> Iterator[Any]:
    """The statements in the parts of a statement at the top of a file."""
    if isinstance(statement, cst.Try | cst.If | cst.For | cst.While | cst.With | cst.Else):
        yield from getattr(statement.body, "body", ())
        for part in (getattr(statement, "orelse", None), getattr(statement, "finalbody", None)):
            if isinstance(part, cst.If):
                yield part
            elif part is not None:
                yield from part.body.body
        for handler in getattr(statement, "handlers", ()):
            yield from handler.body.body


def changed_names(statement: Any) -> Iterator[str]:
    """The names whose values a statement at the top of a file changes, or gives new ones."""
    for inner in _inside(statement):
        yield from changed_names(inner)
    for part in statement.body if _is_line(statement) else ():
        targets: list[Any] = []
        if isinstance(part, cst.Assign):
            targets = [target.target for target in part.targets]
        elif isinstance(part, cst.AugAssign):
            targets = [part.target]
        elif isinstance(part, cst.Expr) and isinstance(part.value, cst.Call):
            targets = [part.value.func]  # names.append(1)
        for target in targets:
            loose = isinstance(target, cst.Name) and isinstance(part, cst.AugAssign)
            inner = target
            while isinstance(inner, cst.Attribute | cst.Subscript):
                inner, loose = inner.value, True
            if loose and isinstance(inner, cst.Name):
                yield inner.value


def named(statement: Any) -> set[str]:
    """The names in a statement."""
    found: set[str] = set()

    class Names(cst.CSTVisitor):
        def visit_Name(self, node: cst.Name) -> None:
            found.add(node.value)

    statement.visit(Names())
    return found


def _is_main(statement: Any) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(statement, cst.If) and "__name__" in named(statement.test)


def _foreign_names(statement: Any) -> Iterator[str]:
    """The names that a statement imports from packages other than torch."""
    for part in getattr(statement, "body", ()) if _is_line(statement) else ():
        if isinstance(part, cst.ImportFrom) and not isinstance(part.names, cst.ImportStar):
            origin = "" if part.module is None else helpers.get_full_name_for_node(part.module)
            if not part.relative and str(origin).partition(".")[0] != "torch":
                yield from (alias.evaluated_alias or alias.evaluated_name for alias in part.names)
        elif isinstance(part, cst.Import):
            for alias in part.names:
                name = (alias.evaluated_alias or alias.evaluated_name).partition(".")[0]
                if alias.evaluated_name.partition(".")[0] != "torch":
                    yield name


def _is_line(node: Any) -> bool:
    return isinstance(node, cst.SimpleStatementLine)


def _is_dotted(node: Any) -> bool:
    while isinstance(node, cst.Attribute):
        node = node.value
    return isinstance(node, cst.Name)
