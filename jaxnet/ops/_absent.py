"""What torch has and `jaxnet.ops` has not, and what to write instead."""

from collections.abc import Iterable

from jaxnet.nn import functional

_SHAPE = (
    "the shape of the result would depend on values, which a compiled program cannot have; write "
)
_LAYOUT = "there are no strides: XLA chooses how an array lies in memory; write"
_DEVICE = "leave it out; jax.device_put(x, device) moves an array"
_SPARSE = "sparse arrays are not there; see jax.experimental.sparse"
_QUANTIZED = "quantized arrays are not there"
_GRADIENT = "gradients are values that jax.grad(f)(x) returns"
_SELF = "leave it out; there is nothing to do for arrays of JAX"
_LINALG = "write ops.linalg.{}"
_SCIPY = "write jax.scipy.linalg.{}"

ABSENT: dict[str, str] = {
    "nonzero": _SHAPE + "jnp.where(x != 0, a, b), or jnp.nonzero(x, size=n, fill_value=k)",
    "nonzero_static": "write jnp.stack(jnp.nonzero(x, size=n, fill_value=k), axis=-1)",
    "argwhere": _SHAPE + "jnp.argwhere(x, size=n, fill_value=k)",
    "masked_select": _SHAPE + "jnp.where(mask, x, 0), or x[mask] outside of compiled functions",
    "unique": _SHAPE + "jnp.unique(x, size=n, fill_value=k)",
    "unique_consecutive": _SHAPE + "jnp.unique(x, size=n, fill_value=k) for sorted numbers",
    "as_strided": f"{_LAYOUT} ops.unfold, or x[indices] with an array of indices",
    "as_strided_scatter": f"{_LAYOUT} x.at[indices].set(values)",
    "empty_strided": f"{_LAYOUT} ops.empty",
    "empty_permuted": f"{_LAYOUT} ops.empty",
    "new_empty_strided": f"{_LAYOUT} ops.new_empty",
    "stride": "there are no strides: XLA chooses how an array lies in memory",
    "dim_order": "there are no strides: XLA chooses how an array lies in memory",
    "storage_offset": "there are no strides: XLA chooses how an array lies in memory",
    "item": "write x.item(), outside of compiled functions",
    "tolist": "write x.tolist(), outside of compiled functions",
    "numpy": "write numpy.asarray(x), outside of compiled functions",
    "is_nonzero": "write bool(x), outside of compiled functions",
    "nelement": "write ops.numel(x)",
    "ndimension": "write x.ndim",
    "element_size": "write x.dtype.itemsize",
    "byte": "write ops.uint8(x)",
    "char": "write ops.int8(x)",
    "chalf": "write ops.complex64(x)",
    "type": "write ops.to(x, dtype)",
    "sum_to_size": "write ops.sum(x, dim=(0, 1), keepdim=True) with the axes that were expanded",
    "backward": _GRADIENT,
    "register_hook": f"{_GRADIENT}; look at them there",
    "register_post_accumulate_grad_hook": f"{_GRADIENT}; look at them there",
    "retain_grad": _GRADIENT,
    "requires_grad_": _GRADIENT,
    "cpu": _DEVICE,
    "cuda": _DEVICE,
    "xpu": _DEVICE,
    "mtia": _DEVICE,
    "ipu": _DEVICE,
    "get_device": "write x.devices()",
    "asarray": "write ops.tensor(data)",
    "frombuffer": "write jnp.asarray(numpy.frombuffer(buffer, dtype))",
    "from_file": "write jnp.asarray(numpy.fromfile(path, dtype))",
    "range": "torch deprecates it; write ops.arange(start, end + step, step)",
    "can_cast": "write numpy.can_cast(from_, to)",
    "cumulative_trapezoid": "write ops.cumsum((y[..., 1:] + y[..., :-1]) / 2, -1)",
    "diagonal_scatter": "write x.at[rows, columns].set(values)",
    "slice_scatter": "write x.at[:, start:end].set(values)",
    "index_put": "write x.at[indices].set(values), or .add(values)",
    "put": "write x.ravel().at[index].set(values).reshape(x.shape)",
    "index_reduce": "write x.at[index].max(values), .min, .multiply or .add",
    "fill_diagonal_": "write jnp.fill_diagonal(x, value, inplace=False)",
    "fill_": "write ops.full_like(x, value)",
    "zero_": "write ops.zeros_like(x)",
    "copy_": "use the other array itself; arrays of JAX never change",
    "set_": "use the other array itself; arrays of JAX never change",
    "resize_": "write ops.reshape, or jnp.resize for another number of entries",
    "resize_as_": "write ops.reshape_as, or jnp.resize for another number of entries",
    "apply_": "write jax.vmap(f)(x)",
    "map_": "write jax.vmap(f)(x, y)",
    "random_": "write ops.randint_like(x, low, high)",
    "cauchy_": "write jax.random.cauchy(nn.next_key(), x.shape, x.dtype)",
    "geometric_": "write jax.random.geometric(nn.next_key(), p, x.shape)",
    "log_normal_": "write ops.exp(ops.normal(mean, std, x.shape))",
    "poisson": "write jax.random.poisson(nn.next_key(), rates).astype(rates.dtype)",
    "manual_seed": "write jaxnet.random.Generator(seed), and give it as generator= or rngs=",
    "seed": "write jaxnet.random.Generator(seed), and give it as generator= or rngs=",
    "initial_seed": "write Generator.initial_seed() of the generator that you have",
    "get_rng_state": "write Generator.get_state() of the generator that you have",
    "set_rng_state": "write Generator.set_state(state) of the generator that you have",
    "save": "write weights.save(path, state_dict)",
    "load": "write weights.load(path)",
    "no_grad": "leave it out; nothing is recorded unless a gradient is asked for",
    "enable_grad": "leave it out; jax.grad asks for a gradient",
    "inference_mode": "leave it out; nothing is recorded unless a gradient is asked for",
    "set_grad_enabled": "leave it out; jax.grad asks for a gradient",
    "is_grad_enabled": "leave it out; jax.grad asks for a gradient",
    "compile": "write jax.jit(f)",
    "vmap": "write jax.vmap(f)",
    "cond": "write jax.lax.cond(predicate, f, g, *operands)",
    "while_loop": "write jax.lax.while_loop(condition, body, value)",
    "set_default_dtype": "give dtype=; the default is float32",
    "get_default_dtype": "it is float32",
    "set_default_device": 'write jax.config.update("jax_default_device", device)',
    "set_float32_matmul_precision": "write jaxnet.precision.set_float32_matmul_precision",
    "device": "write jax.devices()[0]",
    "autocast": "write train.make_train_step(..., compute_dtype=jnp.bfloat16)",
    "Tensor": "the type of arrays is jax.Array",
    "Size": "a shape is a tuple",
    "Generator": "write jaxnet.random.Generator",
    "nn": "write `from jaxnet import nn`",
    "optim": "write `from jaxnet import optim`",
    "utils": "the loader is jaxnet.data.DataLoader",
    "igamma": "write ops.special.gammainc",
    "igammac": "write ops.special.gammaincc",
    "mvlgamma": "write ops.special.multigammaln",
    "polygamma": "write ops.special.polygamma",
    "frexp": "write jnp.frexp(x)",
    "gradient": "write jnp.gradient(x)",
    "histogram": "write jnp.histogram(x, bins, range), or ops.histc",
    "histogramdd": "write jnp.histogramdd(x, bins, range)",
    "bartlett_window": "write jnp.bartlett(n + 1)[:-1], which is torch's periodic window",
    "blackman_window": "write jnp.blackman(n + 1)[:-1], which is torch's periodic window",
    "hamming_window": "write jnp.hamming(n + 1)[:-1], which is torch's periodic window",
    "hann_window": "write jnp.hanning(n + 1)[:-1], which is torch's periodic window",
    "kaiser_window": "write jnp.kaiser(n + 1, 12.0)[:-1], which is torch's periodic window",
    "stft": "write jax.scipy.signal.stft, whose scaling is SciPy's",
    "istft": "write jax.scipy.signal.istft, whose scaling is SciPy's",
    "renorm": "write x * ops.clamp(maxnorm / (norms + 1e-7), max=1.0) with the norms of the rows",
    "segment_reduce": "write jax.ops.segment_sum and its kin",
    "hash_tensor": "there is nothing for it",
    "svd": "write ops.linalg.svd(x, full_matrices=False), which gives V transposed",
    "inverse": "write ops.linalg.inv",
    "pinverse": "write ops.linalg.pinv",
    "logdet": "write ops.linalg.slogdet(x).logabsdet",
    "svd_lowrank": "write ops.linalg.svd, and take the first singular values",
    "pca_lowrank": "write ops.linalg.svd of the centred rows, and take the first",
    "triangular_solve": "write ops.linalg.solve_triangular",
    "cholesky_solve": "write jax.scipy.linalg.cho_solve((L, True), b)",
    "cholesky_inverse": "write jax.scipy.linalg.cho_solve((L, True), ops.eye(n))",
    "lu_unpack": "write jax.scipy.linalg.lu, which gives P, L and U",
    "geqrf": "write ops.linalg.qr",
    "orgqr": "write ops.linalg.qr",
    "ormqr": "write ops.linalg.qr, and multiply",
    "index": "write x[indices]",
    "quantize_per_tensor": _QUANTIZED,
    "native_channel_shuffle": "write nn.functional.channel_shuffle",
    **dict.fromkeys(
        ("det", "slogdet", "cholesky", "qr", "matrix_power", "matrix_exp"),
        "write the function of this name in ops.linalg",
    ),
    "lu": _SCIPY.format("lu"),
    "lu_solve": _SCIPY.format("lu_solve"),
    **dict.fromkeys(("unsafe_chunk", "unsafe_split"), "write ops.chunk or ops.split"),
    "conj_physical": "write ops.conj",
    "narrow_copy": "write ops.narrow",
    **dict.fromkeys(("resolve_conj", "resolve_neg"), "leave it out; arrays of JAX are never views"),
    **dict.fromkeys(
        (
            "is_conj", "is_neg", "is_inference", "is_contiguous", "is_pinned", "is_shared",
            "is_signed", "is_set_to", "share_memory_", "pin_memory", "record_stream", "as_subclass",
            "const_data_ptr", "data_ptr", "storage", "storage_type", "untyped_storage",
            "module_load",
        ),
        _SELF,
    ),
    **dict.fromkeys(
        (
            "coalesce", "is_coalesced", "crow_indices", "col_indices", "dense_dim", "sparse_dim",
            "sparse_mask", "sparse_resize_", "sparse_resize_and_clear_", "indices", "values",
            "to_dense", "to_mkldnn", "to_padded_tensor", "to_sparse", "to_sparse_bsc",
            "to_sparse_bsr", "to_sparse_coo", "to_sparse_csc", "to_sparse_csr", "hspmm", "smm",
            "sspaddmm", "sparse_bsc_tensor", "sparse_bsr_tensor", "sparse_compressed_tensor",
            "sparse_coo_tensor", "sparse_csc_tensor", "sparse_csr_tensor",
        ),
        _SPARSE,
    ),
    **dict.fromkeys(
        (
            "dequantize", "fake_quantize_per_channel_affine", "fake_quantize_per_tensor_affine",
            "int_repr", "q_per_channel_axis", "q_per_channel_scales", "q_per_channel_zero_points",
            "q_scale", "q_zero_point", "qscheme", "quantize_per_channel",
            "quantize_per_tensor_dynamic", "quantized_batch_norm", "quantized_max_pool1d",
            "quantized_max_pool2d",
        ),
        _QUANTIZED,
    ),
}  # fmt: skip
"""What to write instead of a name, by torch's names of functions and methods."""


_UNSTABLE = "torch has it for errors of the check; write ops.linalg.{} and look for nan"

LINALG: dict[str, str] = {
    "cholesky_ex": _UNSTABLE.format("cholesky"),
    "inv_ex": _UNSTABLE.format("inv"),
    "solve_ex": _UNSTABLE.format("solve"),
    "cond": "write jnp.linalg.cond(x)",
    "eig": "write jnp.linalg.eig(x), on a CPU",
    "eigvals": "write jnp.linalg.eigvals(x), on a CPU",
    "householder_product": "write jax.lax.linalg.householder_product",
    **dict.fromkeys(("ldl_factor", "ldl_factor_ex", "ldl_solve"), "write ops.linalg.solve"),
    "lstsq": "write jnp.linalg.lstsq(a, b), which gives the solution first",
    "lu": "write jax.scipy.linalg.lu, which gives P, L and U",
    "lu_factor": "write jax.scipy.linalg.lu_factor",
    "lu_factor_ex": "write jax.scipy.linalg.lu_factor",
    "lu_solve": "write jax.scipy.linalg.lu_solve",
    "tensorinv": "write jnp.linalg.tensorinv(x)",
    "tensorsolve": "write jnp.linalg.tensorsolve(a, b)",
    "vander": "write ops.vander(x, increasing=True)",
    "LinAlgError": "nothing is raised; the result is nan or inf",
}
_HFFTN = "write ops.fft.hfft along the last axis, and ops.fft.fftn along the others"
FFT: dict[str, str] = dict.fromkeys(("hfft2", "hfftn", "ihfft2", "ihfftn"), _HFFTN)
_BESSEL = "write scipy.special.{} outside of compiled functions"
_POLYNOMIALS = [
    *(f"{shifted}chebyshev_polynomial_{kind}" for shifted in ("", "shifted_") for kind in "tuvw"),
    "hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l",
    "legendre_polynomial_p",
]  # fmt: skip
SPECIAL: dict[str, str] = {
    "modified_bessel_i0": "write ops.special.i0",
    "modified_bessel_i1": "write ops.special.i1",
    "erfcx": "write ops.exp(x * x) * ops.erfc(x), which overflows for large x",
    "airy_ai": _BESSEL.format("airy"),
    "bessel_j0": _BESSEL.format("j0"),
    "bessel_j1": _BESSEL.format("j1"),
    "bessel_y0": _BESSEL.format("y0"),
    "bessel_y1": _BESSEL.format("y1"),
    "modified_bessel_k0": _BESSEL.format("k0"),
    "modified_bessel_k1": _BESSEL.format("k1"),
    "scaled_modified_bessel_k0": _BESSEL.format("k0e"),
    "scaled_modified_bessel_k1": _BESSEL.format("k1e"),
    "spherical_bessel_j0": "write ops.sinc(x / math.pi)",
    **dict.fromkeys(_POLYNOMIALS, "write its recurrence"),
}


def answers(known: Iterable[str]) -> dict[str, str]:
    """What to write instead of every name that `jaxnet.ops` has not.

    Args:
        known: The names that it has.
    """
    there = set(known)
    changing = "arrays of JAX do not change; write x = {}(x, ...)"
    layers = [name for name in functional.__all__ if name not in there]
    found = {
        **ABSENT,
        **{name: f"write nn.functional.{name}" for name in layers},
        **{f"{name}_": changing.format(f"nn.functional.{name}") for name in layers},
        **{f"{name}_": changing.format(f"ops.{name}") for name in there},
    }
    in_place = {f"{name}_": words for name, words in ABSENT.items() if f"{name}_" not in found}
    return {name: words for name, words in (found | in_place).items() if name not in there}
