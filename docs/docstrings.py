"""Shows examples and formulas of docstrings as code.

Markdown would take `>>>` for a quotation, and write the lines of a formula as one.
"""

import ast
import re

import griffe

# "b <- momentum b + g", and lines such as "i = sigmoid(...)" below each other.
ASSIGNMENT = re.compile(r"\w.* <- ")
EQUATION = re.compile(r"\w[\w', ]* = ")


def fenced(text: str) -> str:
    """A docstring with every block of `>>>` lines and their output in a fence."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        stripped = line.lstrip()
        if not inside and stripped.startswith(">>>"):
            indent = line[: len(line) - len(stripped)]
            # A fence after a paragraph's line would belong to the paragraph.
            lines += ["", f"{indent}```pycon"]
            inside = True
        elif inside and not stripped:
            lines.append(f"{indent}```")
            inside = False
        lines.append(line)
    if inside:
        lines.append(f"{indent}```")
    return "\n".join(lines)


def with_formulas(text: str) -> str:
    """A docstring with every paragraph that is a formula in a fence."""
    paragraphs = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        lines = paragraph.splitlines()
        formula = bool(lines) and (
            ASSIGNMENT.match(lines[0])
            or (len(lines) > 1 and all(EQUATION.match(line) for line in lines))
        )
        paragraphs.append(f"```text\n{paragraph}\n```" if formula else paragraph)
    return "\n\n".join(paragraphs)


def docstring_of_row(attribute: griffe.Attribute) -> griffe.Docstring | None:
    """The docstring of a function that a table makes: sin = float_unary("sin", jnp.sin, "...")."""
    value = attribute.value
    if isinstance(value, griffe.ExprCall):
        for argument in value.arguments[2:3]:
            if isinstance(argument, str) and argument[:1] in ("'", '"'):
                return griffe.Docstring(ast.literal_eval(argument), parent=attribute)
    return None


class Fences(griffe.Extension):
    """Fences the examples and formulas of every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is None and isinstance(obj, griffe.Attribute):
            obj.docstring = docstring_of_row(obj)
        if obj.docstring is not None:
            obj.docstring.value = with_formulas(fenced(obj.docstring.value))
