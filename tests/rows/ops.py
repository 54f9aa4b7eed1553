"""Calls of torch's functions: each row is the same program for `torch` and for `jaxnet.ops`.

`t` is the library, whose tensor methods are functions of the array. The other names are the
arrays of `INPUTS`, of which lower-case x, y, z, v, w, m, a, s, p, u are floats.
"""

import numpy as np

RNG = np.random.RandomState(0)


def _floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32).astype(np.float64)


def words(text):
    return text.split()


_S = _floats(3, 3)
_S = (_S @ _S.T + 3 * np.eye(3)).astype(np.float32).astype(np.float64)
INPUTS = {
    "x": _floats(2, 3),
    "y": _floats(2, 3),
    "z": _floats(2, 3, 4),
    "v": _floats(5),
    "w": _floats(5),
    "m": _floats(3, 3),
    "a": _floats(2, 4, 3),
    "s": _S,
    "p": (np.abs(_floats(2, 3)) + 0.25).astype(np.float32).astype(np.float64),
    "u": np.linspace(-0.875, 0.75, 6).reshape(2, 3),
    "o": np.array(0.5),
    "ties": np.array([[1.0, 3, 3, 2], [2, 2, 2, 2], [0, 1, 1, 0]]),
    "nans": np.array([[1.0, np.nan, 3, -1], [4, 2, np.inf, 0.5]]),
    "k": np.array([[1, -2, 3], [0, 5, -7]]),
    "l": np.array([[2, 3, 2], [4, 3, 2]]),
    "i": np.array([[0, 1, 1], [1, 0, 1]]),
    "j": np.array([2, 0]),
    "b": np.array([[True, False, True], [False, False, True]]),
    "c": np.array([[True, True, False], [False, True, False]]),
}

UNARY = words(
    "abs neg positive sign floor ceil trunc frac square real exp exp2 expm1 sin cos tan "
    "atan sinh cosh asinh sinc erf erfc deg2rad rad2deg angle relu sigmoid tanh isnan "
    "isinf isfinite signbit logical_not round isposinf isneginf isreal"
)
POSITIVE = words("log log2 log10 log1p sqrt rsqrt reciprocal lgamma i0")
UNIT = words("asin acos atanh erfinv")
BINARY = words(
    "add sub mul div maximum minimum fmax fmin atan2 hypot logaddexp logaddexp2 eq ne lt "
    "le gt ge remainder fmod copysign true_divide floor_divide rsub logical_and "
    "logical_or logical_xor"
)
OF_INTEGERS = words(
    "add sub mul div maximum minimum remainder fmod true_divide floor_divide eq lt ge "
    "bitwise_and bitwise_or bitwise_xor gcd lcm atan2"
)
CASTS = words("float half bfloat16 int short int8 bool")

ROWS = {
    "elementwise": [
        *(f"t.{f}(x)" for f in UNARY),
        *(f"t.{f}(p)" for f in POSITIVE),
        *(f"t.{f}(u)" for f in UNIT),
        "t.acosh(p + 1)",
        "t.digamma(t.detach(p))",
        *(f"t.{f}(k)" for f in ("abs", "sign", "sin", "exp", "square", "floor", "bitwise_not")),
        *(f"t.{f}(x, y)" for f in BINARY),
        *(f"t.{f}(k, l)" for f in OF_INTEGERS),
        *(f"t.{f}(x)" for f in CASTS),
    ],
    "promotion": [
        "t.add(k, 1.5)", "t.add(k, 2)", "t.mul(b, 3)", "t.mul(b, 1.5)", "t.add(x, k)",
        "t.add(x, o)", "t.add(k, o)", "t.add(b, c)", "t.div(k, 2)", "t.pow(k, 2)", "t.pow(k, 2.0)",
        "t.add(t.half(x), 1.5)", "t.add(t.half(x), t.float(y))", "t.add(t.half(x), o)",
        "t.add(t.bfloat16(x), t.half(y))", "t.add(t.int8(k), t.short(l))", "t.mul(x, b)",
        "t.where(b, k, 1.5)", "t.where(b, x, 0.0)", "t.lt(k, 1.5)",
        "t.mean(k, dtype=t.float32)", "t.sum(b)", "t.sum(t.int8(k))", "t.prod(b)", "t.cumsum(b, 0)",
        "t.argmax(x)", "t.argmax(x, 1)", "t.std(t.half(x))", "t.sum(k, dtype=t.float32)",
        "t.clamp(k, min=1.5)", "t.type_as(x, k)", "t.to(k, t.float16)", "t.isin(k, l)",
        "t.isin(x, 1.0)", "t.logical_and(k, x)",
    ],
    "arithmetic": [
        "t.add(x, y, alpha=2)", "t.sub(x, y, alpha=0.5)", "t.add(x, z[0, :, 0])", "t.rsub(x, 1)",
        "t.div(x, y, rounding_mode='trunc')", "t.div(x, y, rounding_mode='floor')",
        "t.div(k, l, rounding_mode='trunc')", "t.div(k, l, rounding_mode='floor')",
        "t.pow(x, 2)", "t.pow(x, 3.0)", "t.pow(p, 0.5)", "t.pow(2, x)", "t.pow(p, y)",
        "t.pow(ties, 2)", "t.round(x, decimals=1)", "t.round(x * 100, decimals=-1)",
        "t.round(ties + 0.5)", "t.clamp(x, -0.5, 0.5)", "t.clamp(x, min=0.0)", "t.clamp(x, max=y)",
        "t.clamp(ties, 1, 2)", "t.clamp(x, 1.0, -1.0)", "t.clamp(nans, min=0)", "t.clip(x, y, p)",
        "t.clamp_min(x, 0.1)", "t.clamp_max(x, 0.1)", "t.lerp(x, y, 0.3)", "t.lerp(x, y, u)",
        "t.addcmul(x, y, p, value=0.5)", "t.addcdiv(x, y, p, value=2)", "t.logit(u * 0.5 + 0.5)",
        "t.logit(u * 0.5 + 0.5, eps=0.2)", "t.nan_to_num(nans, posinf=1e9)", "t.xlogy(x, p)",
        "t.nan_to_num(nans, nan=1.0, posinf=2.0)", "t.isclose(x, x + 1e-9)", "t.heaviside(x, y)",
        "t.isclose(nans, nans, equal_nan=True)", "t.where(b, x, y)", "t.where(b, x, o)",
        "t.maximum(ties, ties * 1)", "t.isin(k, l, invert=True)", "t.ldexp(x, l)",
        "t.view_as_real(t.complex(x, y))", "t.view_as_real(t.polar(p, y))",
        "t.view_as_real(t.view_as_complex(t.unflatten(v[:4], 0, (2, 2))))",
        "t.abs(t.complex(x, y))", "t.real(t.conj(t.complex(x, y)))", "t.imag(t.complex(x, y))",
        "t.bitwise_left_shift(l, i)", "t.bitwise_right_shift(l, i)",
        "t.nextafter(t.detach(x), t.detach(y))",
        "t.float_power(p, 2)", "t.special.expit(x)", "t.special.entr(p)", "t.special.ndtr(x)",
        "t.special.ndtri(u * 0.5 + 0.5)", "t.special.log_ndtr(x)", "t.special.i0e(x)",
        "t.special.i1(x)", "t.special.i1e(x)", "t.special.xlog1py(x, p)",
        "t.special.gammaln(p)", "t.special.polygamma(2, p)",
        "t.special.multigammaln(p + 2, 2)", "t.special.zeta(p + 1, p)",
    ],
    "reductions": [
        "t.sum(x)", "t.sum(z, 1)", "t.sum(z, dim=(0, -1), keepdim=True)", "t.sum(x, dim=())",
        "t.nansum(nans, 1)", "t.prod(x)", "t.prod(z, 1, keepdim=True)", "t.mean(x)",
        "t.mean(z, (0, 2))", "t.nanmean(nans[:, :2], 1)", "t.var(x)", "t.var(z, 1)",
        "t.var(z, (0, 1), keepdim=True)", "t.var(x, unbiased=False)", "t.var(x, False)",
        "t.var(z, 2, correction=0)", "t.std(x)", "t.std(z, 1, False)", "t.std(z, -1, correction=2)",
        "t.std(ties, 1)", "t.std_mean(z, 1)", "t.var_mean(z, (0, 2), keepdim=True)", "t.amax(x)",
        "t.amax(ties, 1)", "t.amax(t.detach(nans), (0, 1))", "t.amin(ties, (0, 1), keepdim=True)",
        "t.amin(t.detach(nans), 1)", "t.aminmax(x)", "t.aminmax(z, dim=1, keepdim=True)",
        "t.max(ties)",
        "t.max(ties, 1)", "t.max(z, dim=-1, keepdim=True)", "t.max(x, y)", "t.max(nans, 1)",
        "t.min(ties)", "t.min(ties, 0)", "t.min(x, y)", "t.min(nans, 1)", "t.argmax(ties, 1)",
        "t.argmax(nans)", "t.argmin(ties, 1, keepdim=True)", "t.argmin(nans, 1)", "t.all(b)",
        "t.argmax(x, keepdim=True)", "t.all(b, 1)", "t.any(b, 0, keepdim=True)", "t.any(k)",
        "t.count_nonzero(k)", "t.count_nonzero(k, 1)", "t.logsumexp(x, 1)",
        "t.logsumexp(z, (0, 2), keepdim=True)", "t.norm(x)", "t.norm(z, dim=1)", "t.norm(x, 1)",
        "t.norm(x, p=float('inf'), dim=1)", "t.norm(x, 3, dim=1, keepdim=True)", "t.norm(m, 'nuc')",
        "t.norm(x * 0)", "t.norm(x, 0)", "t.norm(x, -float('inf'))", "t.dist(x, y)",
        "t.dist(x, y, 1)", "t.norm(x, 'fro', dim=(0, 1))", "t.norm(x * 0, 3)",
    ],
    "orders": [
        "t.sort(x)", "t.sort(z, 1, True)", "t.sort(nans)", "t.sort(ties, stable=True)",
        "t.sort(nans, descending=True)", "t.argsort(ties, dim=1, stable=True)", "t.msort(x)",
        "t.argsort(x, -1, True)", "t.topk(x, 2)", "t.topk(z, 2, dim=1)", "t.topk(x, 1, 0, False)",
        "t.topk(k, 2)", "t.kthvalue(x, 2)", "t.kthvalue(z, 1, 0, True)", "t.median(x)",
        "t.median(z, 2)", "t.median(z, -1, keepdim=True)", "t.median(nans, 1).values",
        "t.median(k)", "t.nanmedian(nans)", "t.nanmedian(nans, 1)", "t.mode(ties).values",
        "t.mode(i, 0).values", "t.quantile(x, 0.3)", "t.quantile(z, 0.25, dim=1)",
        "t.quantile(z, o, 2, True)", "t.quantile(x, p[0] * 0.2)",
        "t.quantile(t.detach(nans), 0.5, dim=1)",
        "t.quantile(x, 0.4, interpolation='lower')", "t.quantile(x, 0.4, interpolation='nearest')",
        "t.nanquantile(nans[:, :2], 0.5, dim=0)", "t.quantile(x, 0.4, interpolation='midpoint')",
        "t.cumsum(x, 1)", "t.cumsum(k, 0)", "t.cumprod(x, -1)", "t.cumsum(k, 0, dtype=t.float32)",
        "t.logcumsumexp(x, 1)", "t.cummax(ties, 1)", "t.cummin(ties, 0)", "t.cummax(nans, 1)",
        "t.cummin(nans, 1)", "t.cummax(z, 2)", "t.diff(x)", "t.diff(z, n=2, dim=1)",
        "t.diff(x, dim=0, prepend=y)", "t.trapezoid(x)", "t.trapz(z, dx=0.5, dim=1)",
        "t.trapezoid(x, p)", "t.trapezoid(z, v[:3], dim=1)",
    ],
    "shapes": [
        "t.view(z, -1, 4)", "t.view(z, (6, 4))", "t.reshape(z, (3, -1))",
        "t.view_as(z, t.reshape(z, (6, 4)))",
        "t.reshape_as(z, t.reshape(z, (4, 6)))", "t.ravel(z)", "t.flatten(z)", "t.flatten(z, 1)",
        "t.flatten(z, 0, 1)", "t.flatten(o)", "t.unflatten(z, 2, (2, -1))", "t.squeeze(z[:1])",
        "t.squeeze(z[:1, :1], 0)", "t.squeeze(z[:1, :1], (0, 2))", "t.squeeze(z, 1)",
        "t.unsqueeze(x, 0)", "t.unsqueeze(x, -1)", "t.permute(z, (2, 0, 1))",
        "t.permute(z, (-1, 0, 1))", "t.transpose(z, 0, -1)", "t.swapaxes(z, 1, 2)", "t.t(x)",
        "t.t(v)", "t.adjoint(z)", "t.movedim(z, 0, 2)", "t.movedim(z, (0, 1), (-1, 0))",
        "t.expand(x, 4, -1, -1)", "t.expand(x[:, :1], (2, 5))", "t.expand_as(x[:1], x)",
        "t.broadcast_to(v, (2, 5))", "t.broadcast_tensors(x, y[:1])", "t.repeat(x, 2, 1, 3)",
        "t.tile(x, (2,))", "t.repeat_interleave(x, 2)", "t.repeat_interleave(x, 2, dim=1)",
        "t.cat([x, y])", "t.cat((x, y), dim=-1)", "t.cat([x, k], 0)", "t.stack([x, y], 1)",
        "t.stack((x, y), -1)", "t.hstack([x, y])", "t.hstack([v, w])", "t.vstack([v, w])",
        "t.dstack([x, y])", "t.column_stack([v, w])", "t.split(z, 3, 2)", "t.split(v, [1, 4])",
        "t.chunk(v, 3)", "t.chunk(z, 2, dim=-1)", "t.chunk(v, 4)", "t.tensor_split(v, 3)",
        "t.tensor_split(v, (1, 3))", "t.hsplit(z, 3)", "t.vsplit(z, 2)", "t.dsplit(z, [1])",
        "t.unbind(z, 1)", "t.unbind(x)", "t.narrow(z, 2, 1, 2)", "t.narrow(v, 0, -3, 2)",
        "t.select(z, 1, -1)", "t.unfold(v, 0, 3, 1)", "t.unfold(z, 2, 2, 2)", "t.roll(z, 1)",
        "t.roll(z, (1, -2), (0, 2))", "t.roll(z, 1, 1)", "t.flip(z, (0, 2))", "t.flip(v, (0,))",
        "t.fliplr(x)", "t.flipud(x)", "t.rot90(x)", "t.rot90(z, 3, (1, 2))", "t.atleast_2d(v)",
        "t.atleast_1d(o)", "t.atleast_3d(x)", "t.tril(m)", "t.triu(m, 1)", "t.tril(z, -1)",
        "t.diagonal(m)", "t.diagonal(z, 1, 1, 2)", "t.diag(v)", "t.diag(m, -1)", "t.diagflat(x)",
        "t.diag_embed(x)", "t.diag_embed(x, 1, 0, 2)", "t.detach(x) * x", "t.clone(x)",
        "t.contiguous(x)", "t.concat([x, y])", "t.block_diag(x, m, v)",
    ],
    "indices": [
        "t.gather(x, 1, i)", "t.gather(x, 0, i)", "t.gather(z[:, :, 0], 1, i[:1, :2])",
        "t.take_along_dim(x, t.argsort(x, 1), 1)", "t.take_along_dim(x, i[:, :1], dim=1)",
        "t.take_along_dim(x, i)", "t.take(x, i)", "t.take(x, -1 - i)", "t.index_select(x, 1, j)",
        "t.index_select(z, -2, j)", "t.index_add(m, 0, j, x)",
        "t.index_add(m, 1, j, t.t(x), alpha=2)",
        "t.index_add(x, 0, i[0], m)", "t.index_copy(m, 0, j, x)", "t.index_fill(m, 1, j, 9.0)",
        "t.index_fill(m, 0, -1 - i[0], 2)", "t.select_scatter(x, v[:3], 0, 1)",
        "t.scatter(m, 0, i[:, :2] * 2, x[:, :2])", "t.scatter(m, 1, j[:, None], 7.0)",
        "t.scatter(m, 1, j[:, None], x[:, :1], reduce='add')",
        "t.scatter(m, 1, i, 2.0, reduce='multiply')",
        "t.scatter_add(m, 0, i, x)", "t.scatter_add(m, 1, i, x)",
        *(
            f"t.scatter_reduce({f}(m), {d}, i, {f}(x), '{r}', include_self={s})"
            for r, d, f in (
                ("sum", 0, ""), ("prod", 1, "t.detach"), ("mean", 0, ""), ("amax", 1, ""),
                ("amin", 0, ""),
            )
            for s in (True, False)
        ),
        "t.scatter_reduce(l, 0, i, l, 'mean')",
        "t.scatter_reduce(l, 0, i, l, 'amax', include_self=False)",
        "t.masked_fill(x, b, -1e9)", "t.masked_fill(x, b[:, :1], o)", "t.masked_fill(k, b, 3)",
        "t.masked_fill(x, b, float('-inf'))", "t.masked_scatter(x, b, v)",
        "t.searchsorted(t.sort(v).values, x)", "t.searchsorted(t.sort(x).values, y)",
        "t.searchsorted(ties[2].cumsum(0), ties, right=True)", "t.bucketize(x, t.sort(v).values)",
        "t.searchsorted(ties[2].cumsum(0), ties, side='left', out_int32=True)",
        "t.searchsorted(v, x, sorter=t.argsort(v))",
        "t.bucketize(ties, ties[2].cumsum(0), right=True)",
        "t.histc(x, 4, -1, 1)", "t.histc(x, 5)", "t.histc(ties, 4, 0, 3)",
    ],
    "products": [
        "t.matmul(x, m)", "t.matmul(z, v[:4])", "t.matmul(a, m)", "t.matmul(v, w)", "t.mm(x, m)",
        "t.matmul(m, t.swapaxes(a, 1, 2))", "t.bmm(z, a)", "t.mv(x, v[:3])", "t.dot(v, w)",
        "t.vdot(v, w)", "t.inner(x, m)", "t.outer(v, w)", "t.addmm(x, x, m, beta=0.5, alpha=2)",
        "t.addmm(v[:3], x, m)", "t.addmv(v[:2], x, w[:3], alpha=3)", "t.addr(m, v[:3], w[:3])",
        "t.baddbmm(z[:, :, :3], z, a, beta=0.3)", "t.baddbmm(nans[:, None, :3], z, a, beta=0)",
        "t.addbmm(m, z, a)", "t.einsum('ij,jk->ik', x, m)", "t.einsum('bij,bjk', z, a)",
        "t.einsum('...i->...', z)", "t.einsum('ii->i', m)", "t.tensordot(x, m, 1)",
        "t.tensordot(z, a, ([2], [1]))", "t.kron(x, m)",
        "t.cross(x, y)", "t.cross(m, s, 1)", "t.trace(m)", "t.cdist(z, t.swapaxes(a, 1, 2))",
        "t.cdist(x, m, p=1)", "t.cdist(m, m)", "t.cdist(x, m, p=float('inf'))", "t.cov(x)",
        "t.cdist(x, m, 3.0)", "t.corrcoef(m)", "t.cartesian_prod(v, w)", "t.combinations(v, 2)",
        "t.combinations(v, 3, True)", "t.vander(t.detach(v), 3)", "t.meshgrid(v, w, indexing='xy')",
        "t.meshgrid(v, w, indexing='ij')",
    ],
    "linalg": [
        "t.linalg.vector_norm(z)", "t.linalg.vector_norm(z, 3, (0, 2))", "t.linalg.norm(x)",
        "t.linalg.norm(v, 1)", "t.linalg.norm(x, 'fro')", "t.linalg.norm(x, 'nuc')",
        "t.linalg.norm(x, 2)", "t.linalg.norm(z, float('inf'), (1, 2))", "t.linalg.norm(x, dim=1)",
        "t.linalg.matrix_norm(z)", "t.linalg.matrix_norm(z, 1, keepdim=True)",
        "t.linalg.matrix_norm(z, -2)", "t.linalg.matrix_norm(z, -float('inf'), (0, 1))",
        "t.linalg.solve(s, m)", "t.linalg.solve(s, v[:3])", "t.linalg.solve(s, m, left=False)",
        "t.linalg.solve_triangular(t.triu(s), m, upper=True)",
        "t.linalg.solve_triangular(t.tril(s), m, upper=False, left=False)",
        "t.linalg.inv(s)", "t.linalg.det(m)", "t.linalg.slogdet(m)", "t.linalg.cholesky(s)",
        "t.linalg.cholesky(s, upper=True)", "t.linalg.qr(m)", "t.linalg.qr(z)",
        "t.abs(t.linalg.qr(t.detach(t.t(x)), mode='complete')[0][:, :2])",
        "t.linalg.qr(t.detach(m), mode='r')[1]",
        "t.linalg.svd(x, full_matrices=False)[1]", "t.abs(t.linalg.svd(x, full_matrices=False)[2])",
        "t.linalg.svdvals(z)", "t.linalg.eigh(s)[0]", "t.abs(t.linalg.eigh(s)[1])",
        "t.linalg.eigvalsh(s, UPLO='U')", "t.linalg.pinv(x)", "t.linalg.matrix_rank(m)",
        "t.linalg.matrix_power(m, 3)", "t.linalg.matrix_power(s, -2)", "t.linalg.matrix_exp(m)",
        "t.linalg.multi_dot([x, m, s])", "t.linalg.cross(x, y)", "t.linalg.diagonal(z)",
        "t.linalg.vecdot(x, y)", "t.linalg.matmul(x, m)",
        "t.view_as_real(t.fft.fft(x))", "t.view_as_real(t.fft.fft(z, n=6, dim=1, norm='ortho'))",
        "t.real(t.fft.ifft(x)) - 2 * t.imag(t.fft.ifft(x))", "t.view_as_real(t.fft.rfft(x))",
        "t.fft.irfft(t.fft.rfft(z))", "t.fft.irfft(t.fft.rfft(x), n=3)",
        "t.view_as_real(t.fft.fft2(z))", "t.view_as_real(t.fft.fftn(z, dim=(0, 1)))",
        "t.fft.irfftn(t.fft.rfftn(z))", "t.view_as_real(t.fft.rfft2(z, s=(4, 4)))",
        "t.fft.fftfreq(5, 0.5)", "t.fft.rfftfreq(6)", "t.fft.fftshift(v)", "t.fft.ifftshift(z, 1)",
        "t.fft.hfft(t.complex(x, y))", "t.real(t.fft.ihfft(x)) - 2 * t.imag(t.fft.ihfft(x))",
        "t.view_as_real(t.fft.ifft2(z))", "t.view_as_real(t.fft.ifftn(z))",
        "t.fft.irfft2(t.fft.rfft2(z))",
    ],
    "creation": [
        "t.zeros(2, 3)", "t.zeros((2, 3), dtype=t.int64)", "t.ones(2)",
        "t.ones([2], dtype=t.uint8)",
        "t.full((2, 2), 3)", "t.full((2,), 1.5)", "t.full((2,), True)", "t.zeros_like(k)",
        "t.ones_like(x, dtype=t.float32)", "t.full_like(x, 2)", "t.new_zeros(k, 2, 3)",
        "t.new_ones(x, (2,))", "t.new_full(k, (2,), 3)", "t.new_tensor(x, [1, 2])", "t.arange(5)",
        "t.arange(1, 2.5, 0.5)", "t.arange(0.0, 1.0, 0.1)", "t.arange(5, 0, -2)", "t.arange(3.0)",
        "t.arange(0, 10, 3, dtype=t.float32)", "t.arange(-3, 4, 2)", "t.linspace(0, 1, 7)",
        "t.linspace(-3, 10, 5)",
        "t.linspace(0, 10, 4, dtype=t.int64)", "t.linspace(2, 5, 1)", "t.logspace(-1, 2, 7)",
        "t.logspace(0, 3, 4, base=2)", "t.eye(3)", "t.eye(2, 3, dtype=t.int64)",
        "t.tril_indices(3, 3)", "t.triu_indices(3, 4, 1)", "t.tensor([1, 2])", "t.tensor([1.5])",
        "t.tensor(True)", "t.tensor([1, 2.5])", "t.tensor([[1, 2]], dtype=t.float32)", "t.empty(0)",
        "t.as_tensor(3)",
    ],
}  # fmt: skip

# Their results depend on values in ways that a compiled function cannot have.
EAGER = [
    "t.bincount(l.ravel())", "t.bincount(l.ravel(), minlength=7)",
    "t.bincount(l.ravel(), x.ravel())", "t.repeat_interleave(x, t.tensor([1, 2]), 0)",
    "t.unravel_index(t.tensor([3, 5]), (2, 3))", "t.allclose(x, y)", "t.equal(x, x)", "t.numel(z)",
    "t.size(z)", "t.size(z, -1)", "t.dim(z)", "t.is_floating_point(k)", "t.is_complex(x)",
    "t.broadcast_shapes((2, 1), (3,))", "t.view(t.float(v), t.int32)",
    "t.finfo(t.float16).min", "t.finfo(t.float32).eps", "t.iinfo(t.int32).max",
]  # fmt: skip
