"""What a row of the catalogue of causes is, and what it is tried on."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np


class Reference(Protocol):
    """A part of the recorded program, built again with jaxnet.

    It is a layer with its input, a loss, an optimizer's step, a schedule. Without a trap it gives
    what torch gave; a trap's `change` makes of it another one, which gives what a program with
    that fault gives.

    Attributes:
        kind: What it is: the name of a module's class ("LayerNorm") or of a function ("gelu"), as
            torch has it, or another word that rows of the catalogue name in `kinds`.
        config: The arguments that torch's one was built or called with, for the predicates and
            the words of the rows.
    """

    @property
    def kind(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...

    def observe(self) -> dict[str, np.ndarray]:
        """The numbers that it gives in float64, by name: "output", "buffer:running_var", ...

        The names are those under which the numbers of both programs are given beside it; what is
        not given is not compared.
        """
        ...


def always(config: Mapping[str, Any]) -> bool:
    return True


def setting(**fixed: Any) -> Callable[..., Any]:
    """A change of arguments, and of the constants and options of the row, by `altered`."""

    def change(reference: Any, **values: Any) -> Any:
        return reference.altered(**fixed, **values)

    return change


@dataclasses.dataclass(frozen=True)
class Trap:
    """A known difference between a torch program and its JAX port.

    Attributes:
        name: A short name, unique in the catalogue: "norm-epsilon".
        kinds: The kinds of references that it is for, as in `Reference.kind`.
        change: A function of a reference, and by keyword of each of `constants` and `options`,
            that returns the altered reference. It may raise ValueError or TypeError where the
            fault cannot be made with this reference.
        words: One plain sentence: what the program has, and what torch has. It is formatted with
            the constants and options, and with `torch`, the reference's config:
            "The epsilon is {eps:.4g}; torch's is {torch[eps]:.4g}."
        fix: What to write, formatted as `words`.
        when: A function of the config that says whether this fault is possible here. A fault
            that makes no difference here (padding modes without padding) is not.
        constants: Real numbers that are fitted, with the usual values of each, which are tried
            before: {"eps": (1e-3, 1e-5, 1e-6, 1e-12)}. A row has at most two.
        options: Values of which each is tried: {"mode": ("reflect", "circular")}, or a function
            of the reference that gives them.
        precision: Whether the fault is one of float32 alone: the float64 numbers are the same.
            Its reference computes as the float32 program does.
    """

    name: str
    kinds: tuple[str, ...]
    change: Callable[..., Any]
    words: str
    fix: str
    when: Callable[[Mapping[str, Any]], bool] = always
    constants: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Sequence[Any] | Callable[[Any], Sequence[Any]]] = dataclasses.field(
        default_factory=dict
    )
    precision: bool = False

    def choices(self, reference: Reference) -> Iterator["Hypothesis"]:
        """The hypotheses with each combination of the options; constants are not set.

        There is none where the fault is not possible.
        """
        if not self.when(reference.config):
            return
        values = [v(reference) if callable(v) else v for v in self.options.values()]
        for chosen in itertools.product(*values):
            yield Hypothesis(self, dict(zip(self.options, chosen, strict=True)))

    def usual(self, reference: Reference) -> Iterator["Hypothesis"]:
        """The hypotheses with all options and the usual values of the constants."""
        for hypothesis in self.choices(reference):
            for values in itertools.product(*self.constants.values()):
                yield hypothesis.fitted(**dict(zip(self.constants, values, strict=True)))


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A trap with values for its constants and options.

    Attributes:
        trap: The trap.
        values: The values by name.
    """

    trap: Trap
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def applied(self, reference: Any) -> Any:
        """The altered reference.

        Raises:
            ValueError, TypeError: The fault cannot be made with this reference.
        """
        return self.trap.change(reference, **self.values)

    def fitted(self, **values: float) -> Self:
        """The same with other values."""
        return dataclasses.replace(self, values={**self.values, **values})

    def words(self, config: Mapping[str, Any]) -> str:
        """What is wrong, in a sentence."""
        return self.trap.words.format(torch=config, **self.values)

    def fix(self, config: Mapping[str, Any]) -> str:
        """What to write."""
        return self.trap.fix.format(torch=config, **self.values)
