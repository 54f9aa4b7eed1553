"""Writes the page of ported files, each beside its source.

    python docs/port_examples.py            # what `jaxnet port` writes today; needs libcst and ruff
    python docs/port_examples.py --check    # and checks each with a recorded run; needs torch too

The sources are the models of PyTorch's programs in tests/programs, without the loop that trains
them. `tests/port/test_examples.py` fails where the page is not what this file would write.
"""

import ast
import contextlib
import difflib
import io
import keyword
import os
import re
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

from jaxnet.port import port

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pages" / "port-examples.md"
PROGRAMS = {
    "vae": "A variational autoencoder, which draws random numbers while it computes",
    "gpt": "A transformer with tied weights, masks and initial weights by `apply`",
    "word_language_model": "A recurrent network with a state that is handed in and out",
    "transformer_language_model": "A table of positions as a buffer, and a causal mask",
    "dcgan": "Two networks of `nn.Sequential`, whose weights a function draws again",
}
# It trains several models by turns, which is checked with a step of one's own.
UNCHECKED = {
    "dcgan": "The program trains two models by turns, so that it is checked by a training step, in "
    "`tests/parity/programs.py`."
}
STEPS = 3
# ruff formats the Python of pages too, and the width of a ported file is its source's.
_BEGIN, _END = "<!-- ported -->\n<!-- fmt: off -->\n", "<!-- fmt: on -->\n<!-- end: ported -->\n"
_RNGS = re.compile(r"(?:, )?(?:\*, rngs|(?:rngs|generator)=rngs)\b")
_VERDICT = re.compile(r"<!-- verdict: (\w+) -->\n(.*)\n")


def source(name: str) -> str:
    """The models of a program, with what they import and without what trains them."""
    text = (ROOT / "tests" / "programs" / f"{name}_torch.py").read_text(encoding="utf-8")
    lines, tree = text.splitlines(keepends=True), ast.parse(text)
    trains = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main"]
    kept = ast.parse("".join(lines[: trains[0].lineno - 1]))
    used = {n.id for n in ast.walk(kept) if isinstance(n, ast.Name)}
    for node in kept.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in used]
            own = isinstance(node, ast.ImportFrom) and str(node.module).startswith("tests.")
            lines[node.lineno - 1] = "" if own or not names else _imported(node, names)
    text = "".join(lines[: trains[0].lineno - 1]).rstrip() + "\n"
    return re.sub(r"\n{4,}", "\n\n\n", text)


def _imported(node: ast.Import | ast.ImportFrom, names: list[ast.alias]) -> str:
    """An import of some of the names; those of the programs have a line each."""
    node.names = names
    return ast.unparse(node) + "\n"


def written(name: str) -> str:
    """What jaxnet port writes of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.py"
        file.write_text(source(name), encoding="utf-8")
        result = port(str(file))
    if result.marked:
        raise ValueError(f"{name}: not supported: {'; '.join(map(str, result.marked))}")
    return result.code


def statements(text: str) -> dict[int, str]:
    """The lines of code by number, and each with its names taken out: "N = N(N, 3)".

    Lines that are blank, a comment, or of a docstring are left out.
    """
    found: dict[int, list[str]] = {}
    texts = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    layout = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type in layout or token.type == tokenize.ENDMARKER or line in texts:
            continue
        is_name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
        found.setdefault(line, []).append("N" if is_name else token.string)
    return {line: re.sub(r"N( \. N)+", "N", " ".join(parts)) for line, parts in found.items()}


def compared(old: str, new: str) -> tuple[int, int, int, set[int], set[int]]:
    """How much of a source is there again.

    Args:
        old: The source.
        new: What became of it.

    Returns:
        The number of its lines of code, how many of them are the same or differ in names alone,
        the number of the output's, and the lines that differ in both.
    """
    before, after = statements(old), statements(new)
    lines = [*before], [*after]
    matcher = difflib.SequenceMatcher(None, [*before.values()], [*after.values()], autojunk=False)
    kept = [
        (lines[0][block.a + i], lines[1][block.b + i])
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    ]
    changed = set(lines[0]) - {a for a, _ in kept}, set(lines[1]) - {b for _, b in kept}
    return len(before), len(kept), len(after), *changed


def verdict(name: str) -> str:
    """The line of the certificate of what is ported, checked with a run of the program."""
    from jaxnet.parity import check
    from jaxnet.parity._certificate import line
    from jaxnet.parity._script import record_script

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "run.py"
        program = f"from tests.programs.{name}_torch import main\n\nlist(main())\n"
        script.write_text(program, encoding="utf-8")
        file = Path(folder) / f"{name}_jax.py"
        file.write_text(written(name), encoding="utf-8")
        trace = Path(folder) / "trace"
        record_script(trace, [str(script)], STEPS, self_check=False)
        report = check(trace, str(file))
    return line(report)


def _block(title: str, text: str, changed: set[int]) -> list[str]:
    lines = " ".join(map(str, sorted(changed)))
    marks = f' hl_lines="{lines}"' if lines else ""
    return [
        "<div markdown>",
        "",
        f"{title}",
        "",
        f"```py{marks}",
        text.rstrip(),
        "```",
        "",
        "</div>",
    ]


def entries(verdicts: dict[str, str]) -> Iterator[str]:
    """The page's lines for each program."""
    rows = []
    texts: list[str] = []
    for name, about in PROGRAMS.items():
        old, new = source(name), written(name)
        before, kept, after, *changed = compared(old, new)
        plain = compared(old, _RNGS.sub("", new))[1]
        rows.append(
            f"| [{name}](#{name}) | {before} | {kept} ({kept / before:.0%}) | {plain} "
            f"({plain / before:.0%}) | {after} ({after / before:.2f}) |"
        )
        texts += [f"## {name}", "", f"{about}.", ""]
        if name in UNCHECKED:
            texts += [UNCHECKED[name], ""]
        else:
            texts += [f"<!-- verdict: {name} -->", verdicts[name], ""]
        texts += ['<div class="beside" markdown>', ""]
        texts += [*_block("PyTorch", old, changed[0]), "", *_block("jaxnet port", new, changed[1])]
        texts += ["", "</div>", ""]
    yield (
        "| program | lines | the same, or other names | the same but for `rngs` | "
        "lines of the output |"
    )
    yield "| --- | --- | --- | --- | --- |"
    yield from rows
    yield ""
    yield from texts


def page(verdicts: dict[str, str] | None = None) -> str:
    """The text of the page.

    Args:
        verdicts: What `verdict` gave for each program; None for those that the page has.
    """
    text = PAGE.read_text(encoding="utf-8")
    verdicts = dict(_VERDICT.findall(text)) if verdicts is None else verdicts
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    return before + _BEGIN + "\n" + "\n".join(entries(verdicts)) + _END + after


def main(words: list[str]) -> None:
    found = None
    if words == ["--check"]:
        sys.path.insert(0, str(ROOT))
        os.chdir(ROOT)
        found = {}
        for name in PROGRAMS.keys() - UNCHECKED.keys():
            with contextlib.redirect_stdout(io.StringIO()):
                found[name] = f"`{verdict(name)}`"
            print(name, found[name])
    elif words:
        sys.exit(f"{' '.join(words)}: accepted is --check, or nothing")
    PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
