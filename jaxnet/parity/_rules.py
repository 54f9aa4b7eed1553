"""One step of an optimizer on one parameter, in float64, by torch's rule or with a fault.

The arithmetic is written out in numpy, because the faults of optimizers lie inside of it (where
epsilon stands, what the buffer holds) and hundreds of them are tried in the time in which JAX
compiles one. A test compares it with jaxnet.optim, and no fault is looked for before it has given
torch's own numbers.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

State = dict[str, np.ndarray]
KINDS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")


def rule(
    kind: str,
    h: Mapping[str, Any],
    p: np.ndarray,
    g: np.ndarray,
    state: Mapping[str, np.ndarray],
    t: int,
    first_lr: float,
) -> tuple[np.ndarray, State]:
    """One step of an optimizer on one parameter.

    Args:
        kind: The class of torch's optimizer, one of `KINDS`.
        h: Its hyperparameters by torch's names. Beside them may stand what torch has not:
            "coupled": whether the weight decay is added to the gradient;
            "decay_by": what decoupled decay is scaled by, "lr" (torch), "one", or "relative", the
            learning rate over the first one;
            "decay_late": whether decoupled decay comes after the step;
            "gradient_factor": a factor of the gradient, after clipping;
            "frozen": whether nothing is done;
            "lr_inside": whether the buffer holds the gradient times the learning rate;
            "first": the factor of the first gradient in an empty buffer;
            "eps_at": "outside" the root and its correction (torch), "uncorrected", outside of the
            root and inside of the correction, or "inside" the root;
            "eps_root": a further epsilon inside the root;
            "correct1", "correct2": whether the moments are corrected for their start at 0;
            "t_shift": what is added to the number of the update;
            "amsgrad": also "corrected", the largest of the corrected moments;
            "initial": the first value of the accumulator.
        p, g: The parameter and its gradient.
        state: The optimizer's state by torch's names; empty before the first update.
        t: The number of the update, from 1.
        first_lr: The first learning rate.

    Returns:
        The parameter and the state after the step.
    """
    if h.get("frozen"):
        return p, dict(state)
    g = g * h.get("gradient_factor", 1.0)
    if h.get("maximize"):
        g = -g
    lr, decay = h["lr"], h.get("weight_decay", 0.0)
    coupled = h.get("coupled", not (kind == "AdamW" or h.get("decoupled_weight_decay", False)))
    late = h.get("decay_late", False)
    keep = 1.0
    if decay and coupled:
        g = g + decay * p
    elif decay:
        scale = {"lr": lr, "one": 1.0, "relative": lr / first_lr if first_lr else 0.0}
        keep = 1 - decay * scale[h.get("decay_by", "lr")]
    start = p if late else p * keep
    with np.errstate(all="ignore"):  # a fault that is tried may divide by 0
        step, state = _FORMULAS[kind](h, g, state, t, lr)
    after = start + step
    return (after * keep if late else after), state


def _sgd(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    del t
    momentum, nesterov = h.get("momentum", 0.0), h.get("nesterov", False)
    inside = h.get("lr_inside", False)
    if inside:
        g = g * lr
    size = 1.0 if inside else lr
    if not momentum:
        return -size * g, {}
    old = state.get("momentum_buffer")
    share = 1 - h.get("dampening", 0.0)
    if old is None:
        first = h.get("first", 1.0)
        buffer = (share if first == "damped" else first) * g
    else:
        buffer = momentum * old + share * g
    ahead = g + momentum * buffer if nesterov else buffer
    return -size * ahead, {"momentum_buffer": buffer}


def _adam(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    b1, b2 = h["betas"]
    b1, b2 = h.get("beta1", b1), h.get("beta2", b2)
    if not (0 <= b1 < 1 and 0 <= b2 < 1):
        raise ValueError("betas")
    eps, at = h["eps"], h.get("eps_at", "outside")
    zero = np.zeros_like(g)
    m = state.get("exp_avg", zero)
    m = m + (1 - b1) * (g - m)
    v = b2 * state.get("exp_avg_sq", zero) + (1 - b2) * g * g
    new = {"exp_avg": m, "exp_avg_sq": v}
    t = max(t + h.get("t_shift", 0), 1)
    c1 = 1 - b1**t if h.get("correct1", True) else 1.0
    c2 = 1 - b2**t if h.get("correct2", True) else 1.0
    amsgrad = h.get("amsgrad", False)
    if amsgrad:
        largest = np.maximum(
            state.get("max_exp_avg_sq", zero), v / c2 if amsgrad == "corrected" else v
        )
        new["max_exp_avg_sq"] = largest
        v = largest * c2 if amsgrad == "corrected" else largest
    ahead = m / c1
    if h.get("nesterov"):  # Dozat's form, as optax has it
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / c1
    if at == "inside":
        root = np.sqrt(v / c2 + eps)
    elif at == "uncorrected":
        root = (np.sqrt(v) + eps) / math.sqrt(c2)
    else:
        root = np.sqrt(v / c2 + h.get("eps_root", 0.0)) + eps
    return -lr * ahead / root, new


def _rmsprop(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    alpha, eps, momentum = h["alpha"], h["eps"], h.get("momentum", 0.0)
    zero = np.zeros_like(g)
    v = state.get("square_avg", zero + h.get("initial", 0.0))
    v = alpha * v + (1 - alpha) * g * g
    new, mean = {"square_avg": v}, v
    if h.get("centered"):
        a = state.get("grad_avg", zero)
        new["grad_avg"] = a = a + (1 - alpha) * (g - a)
        mean = v - a * a
    if h.get("correct2", False):
        mean = mean / (1 - alpha**t)
    inside = h.get("eps_at", "outside") == "inside"
    step = g / (np.sqrt(mean + eps) if inside else np.sqrt(mean) + eps)
    if not momentum:
        return -lr * step, new
    if h.get("lr_inside", False):
        step, lr = lr * step, 1.0
    buffer = momentum * state.get("momentum_buffer", zero) + step
    new["momentum_buffer"] = buffer
    ahead = step + momentum * buffer if h.get("nesterov") else buffer
    return -lr * ahead, new


def _adagrad(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    first = h.get("initial_accumulator_value", 0.0)
    total = state.get("sum", np.zeros_like(g) + first)
    if t == 1 and "initial" in h:  # torch has its accumulator before the first update
        total = np.zeros_like(g) + h["initial"]
    total = total + g * g
    rate = lr / (1 + (t - 1) * h.get("lr_decay", 0.0))
    eps = h["eps"]
    inside = h.get("eps_at", "outside") == "inside"
    root = np.sqrt(total + eps) if inside else np.sqrt(total) + eps
    return -rate * g / root, {"sum": total}


_FORMULAS = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adam,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
}
