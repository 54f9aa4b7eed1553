"""Shows the examples of docstrings as code: Markdown would take `>>>` for a quotation."""

import griffe


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


class Doctests(griffe.Extension):
    """Fences the examples of every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
