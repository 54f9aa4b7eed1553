"""torch.special: special functions of floats; integers become float32."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.scipy import special as jsp
from jax.typing import ArrayLike

from jaxnet._checks import check_integer
from jaxnet._hints import module_getattr
from jaxnet.nn.functional import log_softmax, softmax
from jaxnet.ops._absent import SPECIAL
from jaxnet.ops._arguments import floating, op
from jaxnet.ops._arithmetic import logit, round
from jaxnet.ops._elementwise import (
    binary,
    digamma,
    erf,
    erfc,
    erfinv,
    exp2,
    expm1,
    float_unary,
    i0,
    lgamma,
    log1p,
    sinc,
    xlogy,
)
from jaxnet.ops._reduction import logsumexp

__all__ = [
    "digamma",
    "entr",
    "erf",
    "erfc",
    "erfinv",
    "exp2",
    "expit",
    "expm1",
    "gammainc",
    "gammaincc",
    "gammaln",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "log1p",
    "log_ndtr",
    "log_softmax",
    "logit",
    "logsumexp",
    "multigammaln",
    "ndtr",
    "ndtri",
    "polygamma",
    "psi",
    "round",
    "sinc",
    "softmax",
    "xlog1py",
    "xlogy",
    "zeta",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.ops.special", SPECIAL)
del TYPE_CHECKING, SPECIAL, module_getattr

psi = digamma
gammaln = lgamma
expit = float_unary("expit", jsp.expit, "The logistic sigmoid.")
entr = float_unary("entr", jsp.entr, "-x log(x); 0 at 0, and -inf for negative numbers.")
ndtr = float_unary("ndtr", jsp.ndtr, "The distribution function of the standard normal.")
ndtri = float_unary("ndtri", jsp.ndtri, "The inverse of `ndtr`.")
log_ndtr = float_unary("log_ndtr", jsp.log_ndtr, "log(ndtr(x)), exact for small x.")
i0e = float_unary("i0e", jsp.i0e, "exp(-|x|) i0(x).")
i1 = float_unary("i1", jsp.i1, "The modified Bessel function of the first kind, order 1.")
i1e = float_unary("i1e", jsp.i1e, "exp(-|x|) i1(x).")
gammainc = binary(
    "gammainc", jsp.gammainc, "The regularized lower incomplete gamma function.", "float"
)
gammaincc = binary(
    "gammaincc", jsp.gammaincc, "The regularized upper incomplete gamma function.", "float"
)
xlog1py = binary("xlog1py", jsp.xlog1py, "input * log1p(other), and 0 where input is 0.", "float")
zeta = binary("zeta", jsp.zeta, "The Hurwitz zeta function.", "float")


@op
def polygamma(n: int, input: ArrayLike) -> jax.Array:
    """The n-th derivative of digamma."""
    check_integer("n", n, least=0)
    x = floating("input", input)
    return jsp.digamma(x) if n == 0 else jsp.polygamma(jnp.full(x.shape, n), x)


@op
def multigammaln(input: ArrayLike, p: int) -> jax.Array:
    """The logarithm of the multivariate gamma function of dimension p."""
    return jsp.multigammaln(floating("input", input), p)
