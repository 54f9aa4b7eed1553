"""HTML in which text cannot become markup: strings are escaped unless they are elements."""

import html
from collections.abc import Iterable

__all__ = ["Element", "element", "fragment"]

_VOID = {"img", "link", "meta"}
# HTML has no place for these; an error's text may hold a terminal's colours.
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127], "\N{REPLACEMENT CHARACTER}")


class Element(str):
    """Text that is markup already, made by `element` and `fragment` only."""

    __slots__ = ()


Child = str | Iterable["Child"] | None


def fragment(*children: Child) -> Element:
    """Children one after another: elements as they are, all other text escaped.

    >>> fragment("a < b", element("b", "c"))
    'a &lt; b<b>c</b>'
    """
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(_escape(child))
        else:
            parts.append(str(fragment(*child)))
    return Element("".join(parts))


def element(name: str, /, *children: Child, **attributes: str | int | bool | None) -> Element:
    """One element.

    Args:
        name: such as "td".
        *children: text (escaped), elements, or iterables of them; None is nothing.
        **attributes: escaped too; `class_` is class, `aria_label` is aria-label. True
            writes the name alone, None and False leave it out.

    >>> element("a", "5 > 4", href='#"', class_="x")
    '<a href="#&quot;" class="x">5 &gt; 4</a>'
    """
    written = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{_escape(str(value))}"'
    if name in _VOID:
        return Element(f"<{name}{written}>")
    return Element(f"<{name}{written}>{fragment(*children)}</{name}>")


def _escape(text: str) -> str:
    return html.escape(text.translate(_CONTROLS))
