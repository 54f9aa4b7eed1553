"""The cost of an optimizer's update, jaxnet beside optax: python -m benchmarks.optim

A step is update and apply_updates for fixed gradients, with one compiled call from Python for
each step (arrays donated), and with many steps in one lax.scan, as in training. Both sides
have the same arguments; jaxnet has torch's arithmetic, and hyperparameters
in the optimizer's state. A ratio above 1 means that jaxnet is faster.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from benchmarks.timing import Timing, interleave, machine, markdown
from jaxnet import optim

STEPS = 20  # the number of steps in one scan

PAIRS: dict[str, tuple[Any, Any]] = {
    "SGD": (optim.SGD(0.01), optax.sgd(0.01)),
    "SGD momentum": (optim.SGD(0.01, momentum=0.9), optax.sgd(0.01, momentum=0.9)),
    "Adam": (optim.Adam(), optax.adam(1e-3)),
    "AdamW": (optim.AdamW(), optax.adamw(1e-3, weight_decay=1e-2)),
    "NAdam": (optim.NAdam(), optax.nadam(2e-3)),
    "RAdam": (optim.RAdam(), optax.radam(1e-3)),
    "Adamax": (optim.Adamax(), optax.adamax(2e-3)),
    "RMSprop": (optim.RMSprop(), optax.rmsprop(1e-2, decay=0.99)),
    "Adagrad": (optim.Adagrad(), optax.adagrad(1e-2, initial_accumulator_value=0.0)),
    "Adadelta": (optim.Adadelta(), optax.adadelta(1.0)),
}

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "MLP 784-128-64-10": [(128, 784), (128,), (64, 128), (64,), (10, 64), (10,)],
    "3072-512-2": [(512, 3072), (512,), (2, 512), (2,)],
    "60 small arrays": [(32, 32, 3, 3), (32,), (32,)] * 20,
}


def arrays(shapes: list[tuple[int, ...]]) -> tuple[Any, Any]:
    keys = jax.random.split(jax.random.key(0), 2 * len(shapes))
    params = {f"{i}": jax.random.normal(keys[2 * i], s) for i, s in enumerate(shapes)}
    grads = {f"{i}": jax.random.normal(keys[2 * i + 1], s) for i, s in enumerate(shapes)}
    return params, grads


def stepper(optimizer: Any, params: Any, grads: Any, steps: int) -> Callable[[], Any]:
    """A function without arguments that does some steps and keeps the state.

    Args:
        optimizer: The optimizer.
        params: The initial parameters.
        grads: The gradients of every step.
        steps: The number of steps in a call.
    """

    def once(carry: Any, _: Any) -> Any:
        params, state, grads = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state, grads), None

    def many(params: Any, state: Any, grads: Any) -> Any:
        if steps == 1:
            return once((params, state, grads), None)[0][:2]
        return lax.scan(once, (params, state, grads), length=steps)[0][:2]

    compiled = jax.jit(many, donate_argnums=(0, 1))
    kept = [jax.tree.map(jnp.copy, params), jax.jit(optimizer.init)(params)]

    def call() -> Any:
        kept[:] = compiled(*kept, grads)
        return kept[0]

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", help="optimizers whose name contains this")
    options = parser.parse_args()
    rows = []
    for model, shapes in SHAPES.items():
        params, grads = arrays(shapes)
        for name, (ours, theirs) in PAIRS.items():
            if options.only and options.only not in name:
                continue
            for steps, way in ((1, "call"), (STEPS, "scan")):
                timings = interleave(
                    {
                        "jaxnet": stepper(ours, params, grads, steps),
                        "optax": stepper(theirs, params, grads, steps),
                    },
                    rounds=options.rounds,
                )
                a, b = timings["jaxnet"], timings["optax"]
                ratio, first = b.median / a.median, f"{a.first:.2f} / {b.first:.2f}"
                figures = (micro(a, steps), micro(b, steps), f"{ratio:.2f}", first)
                rows.append([model, name, way, *figures])
    print(machine())
    print("Microseconds a step: median (quartiles); first call in seconds, with compilation.\n")
    heads = ["arrays", "optimizer", "way", "jaxnet", "optax", "ratio", "first call"]
    print(markdown(heads, rows))


def micro(timing: Timing, steps: int) -> str:
    low, median, high = (1e6 * t / steps for t in (timing.low, timing.median, timing.high))
    return f"{median:.1f} ({low:.1f}-{high:.1f})"


if __name__ == "__main__":
    main()
