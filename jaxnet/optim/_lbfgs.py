"""L-BFGS by the algorithm of torch.

>>> import optax
>>> loss = lambda p: ((p["w"] - 3.0) ** 2).sum()
>>> params, optimizer = {"w": jnp.zeros(2)}, LBFGS(line_search_fn="strong_wolfe")
>>> state = optimizer.init(params)
>>> grads = jax.grad(loss)(params)
>>> updates, state = optimizer.update(grads, state, params, value_fn=loss)
>>> optax.apply_updates(params, updates)["w"].tolist()
[3.0, 3.0]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxnet._checks import check_choice, check_integer
from jaxnet.optim._hyperparams import check
from jaxnet.optim._optimizer import Optimizer, OptimizerState, without_parameters
from jaxnet.optim._wolfe import strong_wolfe
from jaxnet.precision import amax, full_float32


class _Loop(NamedTuple):
    """The variables of torch's loop: the current point, and the state after the update."""

    x: jax.Array
    loss: jax.Array
    grad: jax.Array
    d: jax.Array
    t: jax.Array
    prev_grad: jax.Array
    old_dirs: jax.Array
    old_stps: jax.Array
    ro: jax.Array
    stored: jax.Array
    H_diag: jax.Array
    n_iter: jax.Array
    iterations: jax.Array
    evals: jax.Array
    stop: jax.Array


@without_parameters
def LBFGS(
    lr: float = 1,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history_size: int = 100,
    line_search_fn: str | None = None,
) -> Optimizer:
    """L-BFGS: torch.optim.LBFGS.

    d = -H g;  p <- p + t d

    H is the approximation of the inverse Hessian by the two-loop recursion over the last
    history_size differences of points and gradients. The step length t is lr (at the very
    first iteration lr min(1, 1 / |g|_1)), or comes from a line search. One update is one
    `step(closure)` of torch: up to max_iter iterations, which end early by torch's
    conditions.

    Args:
        lr: The learning rate, finite and at least 0.
        max_iter: The largest number of iterations in an update, at least 1.
        max_eval: The largest number of loss evaluations in an update, at least 1. None is
            5/4 of max_iter.
        tolerance_grad: The absolute value of the gradient's largest element at or below
            which an update ends.
        tolerance_change: The change of the parameters or of the loss below which an update
            ends.
        history_size: The number of differences in the state, at least 1.
        line_search_fn: The line search, None or "strong_wolfe".

    Torch's closure is the argument `value_fn` in `update(grads, state, params,
    value_fn=loss)`, a function of the parameters, as in optax.lbfgs. The optional argument
    `value`, the loss at params, saves one evaluation. With max_iter=1 and no line search
    neither argument is needed, and the optimizer works in `train.make_train_step`.

    The results are torch's and differ from those of optax.lbfgs: in the length of the first
    step, in the differences that are stored (only those with y s > 1e-10), in the scale of
    H, in the line search, and in the several iterations of an update.

    Raises:
        ValueError: An argument is out of range, or (in update) value_fn is missing.
        TypeError: (In init) The parameters are not real floating-point numbers.
    """
    check("LBFGS", lr=lr, tolerance_grad=tolerance_grad, tolerance_change=tolerance_change)
    max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
    for name, count in (
        ("max_iter", max_iter),
        ("max_eval", max_eval),
        ("history_size", history_size),
    ):
        check_integer(f"LBFGS: {name}", count, least=1)
    check_choice("LBFGS: line_search_fn", line_search_fn, (None, "strong_wolfe"))
    defaults = {
        "lr": lr,
        "max_iter": max_iter,
        "max_eval": max_eval,
        "tolerance_grad": tolerance_grad,
        "tolerance_change": tolerance_change,
        "history_size": history_size,
        "line_search_fn": line_search_fn,
    }

    def init(params: Any) -> OptimizerState:
        x, _ = ravel_pytree(params)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"LBFGS: parameters of dtype {x.dtype}; only real ones can be trained")
        # The history has its full size from the start: compiled arrays cannot grow.
        memory = jnp.zeros((history_size, x.size), x.dtype)
        count, number = jnp.zeros((), jnp.int32), jnp.zeros((), x.dtype)
        hyperparams = {
            "lr": lr,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
        }
        return OptimizerState(
            step=count,
            missed=jnp.zeros(0, jnp.int32),  # as in torch, the gradient is then zero
            hyperparams={
                key: jnp.asarray(value, jnp.result_type(float))
                for key, value in hyperparams.items()
            },
            shared={
                "n_iter": count,
                "func_evals": count,
                "stored": count,
                "t": number,
                "H_diag": number + 1,
            },
            slots={
                "d": jnp.zeros_like(x),
                "prev_flat_grad": jnp.zeros_like(x),
                "old_dirs": memory,
                "old_stps": memory,
                "ro": jnp.zeros(history_size, x.dtype),
            },
        )

    @full_float32()
    def update(
        grads: Any,
        state: OptimizerState,
        params: Any = None,
        *,
        value: jax.Array | None = None,
        value_fn: Callable[[Any], jax.Array] | None = None,
        **extra: Any,
    ) -> tuple[Any, OptimizerState]:
        del extra
        if params is None:
            raise ValueError("LBFGS: update(grads, state, params) needs the parameters")
        evaluates = max_iter > 1 or line_search_fn is not None
        if evaluates and value_fn is None:
            raise ValueError(
                "LBFGS: value_fn is missing; give update(..., value_fn=loss), a function of the "
                "parameters, as a step of make_train_step does, or build it with max_iter=1 and "
                "line_search_fn=None"
            )
        start, unravel = ravel_pytree(params)
        dtype = start.dtype
        grad = ravel_pytree(grads)[0].astype(dtype)

        def evaluate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            closure: Any = value_fn
            loss, gradient = jax.value_and_grad(lambda x: closure(unravel(x)))(x)
            return loss.astype(dtype), gradient

        if value is None:
            value = value_fn(params) if evaluates and value_fn is not None else jnp.zeros(())
        h = {key: number.astype(dtype) for key, number in state.hyperparams.items()}
        old, memory = state.shared, state.slots
        loop = _Loop(
            x=start,
            loss=jnp.asarray(value, dtype),
            grad=grad,
            d=memory["d"],
            t=old["t"],
            prev_grad=memory["prev_flat_grad"],
            old_dirs=memory["old_dirs"],
            old_stps=memory["old_stps"],
            ro=memory["ro"],
            stored=old["stored"],
            H_diag=old["H_diag"],
            n_iter=old["n_iter"],
            iterations=jnp.zeros((), jnp.int32),
            evals=jnp.ones((), jnp.int32),
            stop=amax(jnp.abs(grad), initial=0) <= h["tolerance_grad"],
        )

        def iterate(c: _Loop) -> _Loop:
            c = _direction(c)
            # n_iter counts over the whole run: the short step is only that of its first iteration.
            size = jnp.minimum(1, 1 / jnp.sum(jnp.abs(c.grad)))
            t = jnp.where(c.n_iter == 1, size * h["lr"], h["lr"])
            c = c._replace(t=t, prev_grad=c.grad)
            slope = c.grad @ c.d
            moves = ~(slope > -h["tolerance_change"])
            return lax.cond(moves, move, lambda c, _: c._replace(stop=~moves), c, slope)

        def move(c: _Loop, slope: jax.Array) -> _Loop:
            last = c.iterations == max_iter
            before, evals = c.loss, jnp.zeros((), jnp.int32)
            if line_search_fn is not None:
                room = max_eval - c.evals
                loss, grad, t, evals = strong_wolfe(
                    evaluate, c.x, c.t, c.d, c.loss, c.grad, slope, room
                )
                c = c._replace(x=c.x + t * c.d, loss=loss, grad=grad, t=t)
            else:
                c = c._replace(x=c.x + c.t * c.d)
                if evaluates:
                    # Torch leaves out the evaluation after the last step.
                    loss, grad = lax.cond(
                        last, lambda x, c: (c.loss, c.grad), lambda x, c: evaluate(x), c.x, c
                    )
                    evals = jnp.where(last, 0, 1)
                    c = c._replace(loss=loss, grad=grad)
            total = c.evals + evals
            change = h["tolerance_change"]
            stop = (
                last
                | (total >= max_eval)
                | (amax(jnp.abs(c.grad), initial=0) <= h["tolerance_grad"])
                | (amax(jnp.abs(c.t * c.d), initial=0) <= change)
                | (jnp.abs(c.loss - before) < change)
            )
            return c._replace(evals=total, stop=stop)

        if evaluates:
            loop = lax.while_loop(lambda c: ~c.stop, iterate, loop)
        else:
            loop = lax.cond(loop.stop, lambda c: c, iterate, loop)
        updates = unravel(loop.x - start)
        return updates, OptimizerState(
            step=state.step + 1,
            missed=state.missed,
            hyperparams=state.hyperparams,
            shared={
                "n_iter": loop.n_iter,
                "func_evals": old["func_evals"] + loop.evals,
                "stored": loop.stored,
                "t": loop.t,
                "H_diag": loop.H_diag,
            },
            slots={
                "d": loop.d,
                "prev_flat_grad": loop.prev_grad,
                "old_dirs": loop.old_dirs,
                "old_stps": loop.old_stps,
                "ro": loop.ro,
            },
        )

    return Optimizer(init, update, "LBFGS", defaults)


def _direction(c: _Loop) -> _Loop:
    """The first half of an iteration: the last difference is stored and d = -H g is computed."""
    c = c._replace(n_iter=c.n_iter + 1, iterations=c.iterations + 1)
    size = c.ro.size
    y, s = c.grad - c.prev_grad, c.d * c.t
    ys = y @ s
    first = c.n_iter == 1
    keep = (ys > 1e-10) & ~first
    # The history is a ring buffer: difference number n has the index n % size. Where the new
    # difference is not stored, its entry is written back unchanged.
    at = c.stored % size
    old_dirs = c.old_dirs.at[at].set(jnp.where(keep, y, c.old_dirs[at]))
    old_stps = c.old_stps.at[at].set(jnp.where(keep, s, c.old_stps[at]))
    ro = c.ro.at[at].set(jnp.where(keep, 1 / jnp.where(keep, ys, 1), c.ro[at]))
    stored = c.stored + keep.astype(c.stored.dtype)
    H_diag = jnp.where(keep, ys / jnp.where(keep, y @ y, 1), c.H_diag)
    count = jnp.minimum(stored, size)

    def back(j: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, al = carry
        i = (stored - 1 - j) % size
        a = (old_stps[i] @ q) * ro[i]
        return q - a * old_dirs[i], al.at[i].set(a)

    q, al = lax.fori_loop(0, count, back, (-c.grad, jnp.zeros_like(ro)))

    def forth(j: jax.Array, r: jax.Array) -> jax.Array:
        i = (stored - count + j) % size
        return r + (al[i] - (old_dirs[i] @ r) * ro[i]) * old_stps[i]

    d = lax.fori_loop(0, count, forth, q * H_diag)
    return c._replace(
        d=d, old_dirs=old_dirs, old_stps=old_stps, ro=ro, stored=stored, H_diag=H_diag
    )
