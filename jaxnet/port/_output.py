"""From a file or an import path to the text of the output."""

import json
import re
import subprocess
import textwrap
from typing import Any

import libcst as cst
from ruff import find_ruff_bin

from jaxnet.port._flax.canonical import Canonical
from jaxnet.port._flax.whole import Parts
from jaxnet.port._flax.written import layer_takes_rngs
from jaxnet.port._gather import gather
from jaxnet.port._nodes import code
from jaxnet.port._own_names import NEEDED, put_back, restored
from jaxnet.port._port import Note, Ported
from jaxnet.port._program import DRAWN, PROGRAM, draws
from jaxnet.port._rngs import Needs
from jaxnet.port._sharing import Sharing
from jaxnet.port._source import Definition, Source, open_target
from jaxnet.port._statements import Rewriter


def output(target: str, to: str = "jaxnet") -> Ported:
    """Ports a target; `port` has the words."""
    try:
        # A training loop is one of jaxnet's words: of flax's it is left as it would be read.
        source, name = open_target(target, programs=to == "jaxnet")
    except cst.ParserSyntaxError as error:
        raise ValueError(f"{target}: no Python that can be read: {error}") from error
    definitions = gather(source, name)
    names = _names(source, definitions)
    plain = to == "nnx"
    needs = Needs(definitions, layer_takes_rngs, keeps=True) if plain else Needs(definitions)
    sharing, parts = Sharing(needs), Parts()
    imports: set[str] = set()
    marked: list[Note] = []
    notes: list[Note] = []
    blocks = []
    for definition in definitions:
        rewriter = (Canonical if plain else Rewriter)(definition, sharing, names)
        new = definition.node.visit(rewriter)
        if isinstance(rewriter, Canonical):
            new = parts.add(definition, new, rewriter.lines, needs.keeping)
        shown = names[definition.key]
        if shown != definition.name:  # another file has a definition of this name
            new = _renamed(new, definition.name, shown)
        imports |= rewriter.imports
        marked += rewriter.marked
        notes += rewriter.notes
        if definition.name == PROGRAM:
            blocks.append(_run(new, imports, "Generator" in names.values()))
        else:
            blocks.append(cst.Module([new]).code)
    written = ""
    if plain:
        marked += [note for one in parts.converters for note in one.marked]
        notes += [note for one in parts.converters for note in one.notes]
        imports = {line for line in imports if "jaxnet" not in line}
        lines, written, copied = parts.head([*_imports(definitions), *imports])
        imports |= set(lines)
        blocks = [_with_names(block, copied) for block in blocks]
    head = [*_licence(source), *_docstring(source), *_imports(definitions), *sorted(imports)]
    code = "\n".join(head) + "\n\n" + written + "\n".join(blocks)
    left = []
    for one in dict.fromkeys([source, *(d.source for d in definitions)]):
        kept = None if name is None and one is source else {
            d.name for d in definitions if d.source is one
        }  # fmt: skip
        left += [Note(one.path.name, line, f"not ported: {text}") for line, text in one.rest(kept)]
    marked += left
    if source.program is not None and name is None:
        program = source.program
        notes += [Note(source.path.name, line, text) for line, text in program.notes]
        others = (d for d in definitions if d.source is not source)
        if program.trained and (program.draws or any(draws(d.source, d.node) for d in others)):
            notes.append(Note(source.path.name, program.optimizer_line, DRAWN))
    code += "".join(f"\n\n# {note}\n" for note in left)
    longest = max((len(line) for line in source.text.splitlines()), default=0)
    kinds = [(d, type(d.node)) for d in definitions if d.name != PROGRAM]
    for d, _ in kinds:
        if d.name in NEEDED and "#" not in d.name:
            shown = names[d.key]
            notes.append(
                Note(d.source.path.name, 1, f"{d.name} is a name of the output's: {shown}")
            )
    code = formatted(put_back(code), min(max(longest, 88), 120))
    marked += [Note(source.path.name, line, text) for line, text in undefined(code)]
    marked, notes = ([_told(note) for note in some] for some in (marked, notes))
    try:
        compile(code, "<output>", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise RuntimeError(f"{target}: jaxnet port wrote what is no Python, a mistake of its own: "
                           f"{error}") from error  # fmt: skip
    return Ported(
        code,
        tuple(d.name for d, kind in kinds if kind is cst.ClassDef),
        tuple(d.name for d, kind in kinds if kind is cst.FunctionDef),
        tuple(marked),
        tuple(notes),
    )


def _with_names(block: str, names: dict[str, str]) -> str:
    for mark, name in names.items():
        block = re.sub(rf"\b{mark}\b", name, block)
    return block


def _run(function: Any, imports: set[str], taken: bool) -> str:
    """What a file runs as a program, with a generator where nothing seeds one."""
    statements = list(function.body.body)
    text = cst.Module(statements).code
    if re.search(r"\brngs\b", text) and not re.search(r"^rngs = ", text, re.MULTILINE):
        imports.add("import jaxnet.random" if taken else "from jaxnet.random import Generator")
        text = f"rngs = {'jaxnet.random.' if taken else ''}Generator()\n" + text
    return text


def _told(note: Note) -> Note:
    return Note(note.file, note.line, restored(note.text))


def undefined(code: str) -> list[tuple[int, str]]:
    """The names that an output does not define: the line in it, and what is said of it."""
    command = [find_ruff_bin(), "check", "--isolated", "--select", "F821", "--exit-zero"]
    done = subprocess.run(
        [*command, "--output-format", "json", "--stdin-filename", "port.py", "-"],
        input=code,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    found: dict[str, int] = {}
    for one in json.loads(done.stdout):
        name = one["message"].split("`")[1]
        found.setdefault(name, one["location"]["row"])
    return [
        (0, f"{name} is defined nowhere: line {line} of the output uses it; define or import it")
        for name, line in found.items()
    ]


def _renamed(statement: Any, name: str, shown: str) -> Any:
    """A definition under another name."""
    if isinstance(statement, cst.ClassDef | cst.FunctionDef):
        return statement.with_changes(name=cst.Name(shown))

    class Targets(cst.CSTTransformer):
        def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
            return False

        def leave_AssignTarget(self, original_node: Any, updated_node: Any) -> Any:
            same = isinstance(original_node.target, cst.Name)
            if same and original_node.target.value == name:
                return updated_node.with_changes(target=cst.Name(shown))
            return updated_node

    return statement.visit(Targets())


def _names(source: Source, definitions: list[Definition]) -> dict[str, str]:
    """The names of the definitions in the output, by module and name."""
    found: dict[str, str] = {}
    for definition in sorted(definitions, key=lambda d: d.source is not source):
        name = definition.name
        if name in found.values() or name in NEEDED:
            name = f"{name}_{definition.source.name.rpartition('.')[2]}"
        found[definition.key] = name
    return found


def _licence(source: Source) -> list[str]:
    lines = []
    for line in source.tree.header:
        lines.append(line.comment.value if line.comment is not None else "")
    if lines:
        lines.append("")
    origin = source.name if "." in source.name else source.path.name
    return [*lines, f"# From {origin} for PyTorch, by jaxnet port."]


def _docstring(source: Source) -> list[str]:
    text = source.tree.get_docstring(clean=False)
    if text is None:
        return []
    return [cst.Module([source.tree.body[0].with_changes(leading_lines=[])]).code]  # type: ignore[call-arg]


def _imports(definitions: list[Definition]) -> list[str]:
    """The imports of other packages than torch and the program's own."""
    found: dict[str, None] = {}
    for source in dict.fromkeys(d.source for d in definitions):
        ours = ("torch", *source.project.tops)
        for statement in source.import_statements:
            for part in statement.body:
                if isinstance(part, cst.ImportFrom):
                    first = source.absolute(part)
                    if first.partition(".")[0] not in ours:
                        found[code(part)] = None
                elif isinstance(part, cst.Import):
                    for alias in part.names:
                        name = cst.helpers.get_full_name_for_node_or_raise(alias.name)
                        if name.partition(".")[0] not in ours:
                            line = cst.Import([alias.with_changes(comma=cst.MaybeSentinel.DEFAULT)])
                            found[code(line)] = None
    return sorted(found, key=lambda line: "__future__" not in line)


RULES = "E4,E9,F,I"
"""The rules of ruff that the output passes: undefined and unused names, imports. The others are
questions of the source's style, which stays."""


def formatted(code: str, width: int) -> str:
    """Python without unused names, with sorted imports, and formatted.

    Args:
        code: The source.
        width: The longest line.
    """
    ruff = find_ruff_bin()
    settings = ["--isolated", "--stdin-filename", "port.py"]
    for command in (
        # Imports that are divided as for short lines are sorted for longer ones too.
        ["check", "--fix", "--unsafe-fixes", "--select", RULES, "--exit-zero"],
        ["format", "--line-length", str(width), "--config", 'format.quote-style="preserve"'],
    ):
        done = subprocess.run(
            [ruff, *command, *settings, "-"],
            input=code,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                "jaxnet port wrote what is no Python, which is a mistake of its own:\n"
                + textwrap.indent(done.stderr, "  ")
            )
        code = done.stdout
    return code
