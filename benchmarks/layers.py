"""Forward and backward of each layer, jaxnet beside PyTorch: python -m benchmarks.layers

A step is the gradient of sum(output * fixed numbers) with respect to the input
and the parameters. jaxnet is timed with one call from Python for each step, and with many
steps in one lax.scan, as in training. A ratio above 1 means that jaxnet is faster.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.timing import interleave, machine, markdown
from jaxnet import nn, train
from jaxnet.random import Generator

STEPS = 8  # the number of steps in one scan


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer and its inputs.

    Attributes:
        name: The name of the layer in torch and jaxnet.
        args: The arguments by position.
        shapes: The shapes of the inputs. A shape that begins with "i" and a number n is one of
            integers below n, a shape that begins with "p" one of probabilities.
        kwargs: The arguments by keyword, as pairs.
    """

    name: str
    args: tuple[Any, ...]
    shapes: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        words = [*map(str, self.args), *(f"{k}={v}" for k, v in self.kwargs)]
        shape = "x".join(map(str, self.shapes[0]))
        return f"{self.name}({', '.join(words)}) on {shape}"


LAYERS = [
    Layer("Linear", (784, 128), ((64, 784),)),
    Layer("Linear", (3072, 512), ((64, 3072),)),
    Layer("Bilinear", (32, 32, 16), ((64, 32), (64, 32))),
    Layer("Conv1d", (16, 32, 5), ((64, 16, 128),)),
    Layer("Conv2d", (3, 16, 3), ((64, 3, 32, 32),), (("padding", 1),)),
    Layer("Conv2d", (32, 32, 3), ((64, 32, 16, 16),), (("padding", 1),)),
    Layer("Conv2d", (32, 32, 3), ((64, 32, 16, 16),), (("padding", 1), ("groups", 32))),
    Layer("Conv3d", (4, 8, 3), ((8, 4, 16, 16, 16),), (("padding", 1),)),
    Layer("ConvTranspose2d", (16, 8, 4), ((64, 16, 16, 16),), (("stride", 2), ("padding", 1))),
    Layer("MaxPool2d", (2,), ((64, 16, 32, 32),)),
    Layer("MaxPool2d", (3,), ((64, 16, 32, 32),), (("stride", 2), ("padding", 1))),
    Layer("AvgPool2d", (2,), ((64, 16, 32, 32),)),
    Layer("AdaptiveAvgPool2d", (4,), ((64, 32, 16, 16),)),
    Layer("BatchNorm2d", (32,), ((64, 32, 16, 16),)),
    Layer("LayerNorm", (256,), ((64, 50, 256),)),
    Layer("GroupNorm", (4, 32), ((64, 32, 16, 16),)),
    Layer("RMSNorm", (256,), ((64, 50, 256),)),
    Layer("ReLU", (), ((64, 32, 32, 32),)),
    Layer("Tanh", (), ((64, 16, 32, 32),)),
    Layer("GELU", (), ((64, 50, 256),)),
    Layer("Softmax", (-1,), ((64, 50, 256),)),
    Layer("RNN", (32, 64), ((50, 64, 32),)),
    Layer("LSTM", (32, 64, 2), ((50, 64, 32),)),
    Layer("GRU", (32, 64), ((50, 64, 32),)),
    Layer("MultiheadAttention", (128, 4), ((50, 16, 128),) * 3),
    Layer("TransformerEncoderLayer", (128, 4, 256, 0.0), ((50, 16, 128),)),
    Layer("CrossEntropyLoss", (), ((256, 10), ("i", 10, 256))),
    Layer("BCEWithLogitsLoss", (), ((256, 10), ("p", 256, 10))),
]


def arrays(layer: Layer) -> list[np.ndarray]:
    rng = np.random.RandomState(0)
    made = []
    for shape in layer.shapes:
        if shape[0] == "i":
            made.append(rng.randint(0, shape[1], shape[2:]))
        elif shape[0] == "p":
            made.append(rng.random_sample(shape[1:]).astype(np.float32))
        else:
            made.append(rng.standard_normal(shape).astype(np.float32))
    return made


def ours(layer: Layer) -> dict[str, Callable[[], Any]]:
    kind = getattr(nn, layer.name)
    needs = {"rngs": Generator(0)} if "rngs" in kind.__signature__.parameters else {}
    structure, params, buffers = train.split(kind(*layer.args, **dict(layer.kwargs), **needs))
    inputs = [jnp.asarray(a) for a in arrays(layer)]

    def total(params, first):
        output = train.merge(structure, params, buffers)(first, *inputs[1:])
        output = output[0] if isinstance(output, tuple) else output
        # Weighted by position, since the plain sum of, say, a softmax has no gradient.
        return (output * jnp.linspace(0.5, 1.5, output.shape[-1] if output.ndim else 1)).sum()

    gradient = jax.grad(total, argnums=(0, 1))

    def step(first, _):
        d_params, d_first = gradient(params, first)
        # The gradients are used, or the compiler would remove their computation.
        small = sum(jnp.sum(d) for d in d_params.values()) if d_params else 0.0
        return first - 1e-6 * (d_first + small), None

    call = jax.jit(gradient)
    scan = jax.jit(lambda first: lax.scan(step, first, length=STEPS)[0])
    return {"call": lambda: call(params, inputs[0]), "scan": lambda: scan(inputs[0])}


def theirs(layer: Layer) -> Callable[[], Any]:
    import torch

    module = getattr(torch.nn, layer.name)(*layer.args, **dict(layer.kwargs))
    inputs = [torch.tensor(a) for a in arrays(layer)]
    inputs[0].requires_grad_()
    parameters = list(module.parameters())

    def step():
        output = module(*inputs)
        output = output[0] if isinstance(output, tuple) else output
        weight = torch.linspace(0.5, 1.5, output.shape[-1] if output.ndim else 1)
        torch.autograd.grad((output * weight).sum(), [inputs[0], *parameters], allow_unused=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="only layers of these names")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each")
    options = parser.parse_args()
    rows = []
    for layer in LAYERS:
        if options.names and layer.name not in options.names:
            continue
        mine = ours(layer)
        timings = interleave({"torch": theirs(layer), **mine}, rounds=options.rounds)
        torch, call, scan = (timings[k] for k in ("torch", "call", "scan"))
        rows.append(
            [
                str(layer),
                f"{torch.median * 1e3:.3f}",
                f"{call.median * 1e3:.3f}",
                f"{scan.median / STEPS * 1e3:.3f}",
                f"{torch.median / call.median:.2f}",
                f"{torch.median / (scan.median / STEPS):.2f}",
                f"{(torch.high - torch.low) / torch.median:.0%}, "
                f"{(scan.high - scan.low) / scan.median:.0%}",
                f"{call.first:.2f}",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
    heads = "layer,torch ms,call ms,in scan ms,torch/call,torch/scan,quartiles apart,compile s"
    print(f"\n{machine()}; {options.rounds} samples each\n\n{markdown(heads.split(','), rows)}")


if __name__ == "__main__":
    main()
