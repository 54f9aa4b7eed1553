"""What functions of torch are in JAX, as expressions.

A row has the name of jaxnet's function and an expression in which the names of the function's
parameters stand for what is given. An argument of the expression that is a parameter is left out
where the parameter is not given. Of several expressions the first is taken that has a place for
everything that is given. What has no row is copied from the other files of this folder, or marked.
"""

ROWS: dict[str, tuple[str, ...]] = {}


def _rows(prefix: str, text: str) -> None:
    for line in text.strip().splitlines():
        name, _, expressions = line.partition(":")
        ROWS[prefix + name.strip()] = tuple(e.strip() for e in expressions.split("|") if e.strip())


# One argument, and the same name in jnp.
_SAME = (
    "abs", "angle", "ceil", "conj", "copysign", "cos", "cosh", "deg2rad", "exp", "exp2",
    "expm1", "floor", "hypot", "imag", "isfinite", "isinf", "isnan", "log", "log10", "log1p",
    "log2", "logaddexp", "logaddexp2", "rad2deg", "real", "sign", "signbit", "sin", "sinc",
    "sinh", "sqrt", "square", "tan", "tanh", "trunc", "logical_and", "logical_not",
    "logical_or", "logical_xor", "maximum", "minimum", "bitwise_and", "bitwise_not",
    "bitwise_or", "bitwise_xor", "fmax", "fmin", "inner", "kron", "outer", "heaviside",
    "isneginf", "isposinf", "gcd", "lcm", "arctan2", "atleast_1d", "atleast_2d", "atleast_3d",
)  # fmt: skip
for _name in _SAME:
    ROWS[f"ops.{_name}"] = tuple(
        f"jnp.{_name}({given})" for given in ("input", "input, other", "input, vec2")
    )
for _name, _other in {
    "absolute": "abs", "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh",
    "atan": "arctan", "atanh": "arctanh", "arccos": "arccos", "arccosh": "arccosh",
    "arcsin": "arcsin", "arcsinh": "arcsinh", "arctan": "arctan", "arctanh": "arctanh",
    "fix": "trunc", "positive": "positive", "fliplr": "fliplr", "flipud": "flipud",
}.items():  # fmt: skip
    ROWS[f"ops.{_name}"] = (f"jnp.{_other}(input)",)
for _name, _sign in {
    "eq": "==", "ne": "!=", "not_equal": "!=", "lt": "<", "less": "<", "le": "<=",
    "less_equal": "<=", "gt": ">", "greater": ">", "ge": ">=", "greater_equal": ">=",
    "mul": "*", "multiply": "*", "true_divide": "/", "matmul": "@",
}.items():  # fmt: skip
    ROWS[f"ops.{_name}"] = (f"input {_sign} other",)
for _name in ("sum", "prod", "mean", "nansum", "nanmean"):
    ROWS[f"ops.{_name}"] = (f"jnp.{_name}(input, axis=dim, keepdims=keepdim, dtype=dtype)",)
for _name, _other in {"amax": "max", "amin": "min", "all": "all", "any": "any"}.items():
    ROWS[f"ops.{_name}"] = (f"jnp.{_other}(input, axis=dim, keepdims=keepdim)",)
for _name in ("argmax", "argmin"):
    ROWS[f"ops.{_name}"] = (f"jnp.{_name}(input, axis=dim, keepdims=keepdim)",)
for _name, _type in {
    "float": "jnp.float32", "double": "jnp.float64", "half": "jnp.float16", "long": "int",
    "int": "jnp.int32", "short": "jnp.int16", "bool": "bool", "bfloat16": "jnp.bfloat16",
    "uint8": "jnp.uint8", "int8": "jnp.int8",
}.items():  # fmt: skip
    ROWS[f"ops.{_name}"] = (f"input.astype({_type})",)
for _name, _type in {"zeros": "zeros", "ones": "ones", "empty": "zeros"}.items():
    ROWS[f"ops.{_name}"] = (f"jnp.{_type}(size, dtype=dtype)",)
    ROWS[f"ops.{_name}_like"] = (f"jnp.{_type}_like(input, dtype=dtype)",)
    ROWS[f"ops.new_{_name}"] = (
        f"jnp.{_type}(size, input.dtype)",
        f"jnp.{_type}(size, dtype)",
    )
for _name in ("cat", "concat", "concatenate"):
    ROWS[f"ops.{_name}"] = ("jnp.concatenate(tensors, axis=dim)",)
for _name in ("swapaxes", "swapdims", "transpose"):
    ROWS[f"ops.{_name}"] = ("input.swapaxes(dim0, dim1)",)
for _name in ("movedim", "moveaxis"):
    ROWS[f"ops.{_name}"] = ("jnp.moveaxis(input, source, destination)",)
for _name in ("hstack", "vstack", "dstack", "column_stack", "row_stack"):
    ROWS[f"ops.{_name}"] = (f"jnp.{_name.replace('row_', 'v')}(tensors)",)

_rows("ops.", """
add: input + other | input + alpha * other
sub: input - other | input - alpha * other
subtract: input - other | input - alpha * other
rsub: other - input
neg: -input
negative: -input
div: input / other
divide: input / other
pow: input**exponent
rsqrt: jax.lax.rsqrt(input)
reciprocal: 1 / input
addmm: input + mat1 @ mat2 | beta * input + alpha * (mat1 @ mat2)
baddbmm: input + batch1 @ batch2 | beta * input + alpha * (batch1 @ batch2)
addmv: input + mat @ vec
addcmul: input + value * tensor1 * tensor2
addcdiv: input + value * tensor1 / tensor2
lerp: input + weight * (end - input)
bmm: input @ mat2
mm: input @ mat2
mv: input @ vec
dot: jnp.dot(input, tensor)
ger: jnp.outer(input, vec2)
einsum: jnp.einsum(equation, *operands)
tensordot: jnp.tensordot(a, b, dims)
stack: jnp.stack(tensors, axis=dim)
permute: jnp.transpose(input, dims)
t: input.T
adjoint: jnp.conj(input.swapaxes(-2, -1))
reshape: input.reshape(shape)
reshape_as: input.reshape(other.shape)
view_as: input.reshape(other.shape)
ravel: input.ravel()
unsqueeze: jnp.expand_dims(input, dim)
expand_as: jnp.broadcast_to(input, other.shape)
broadcast_to: jnp.broadcast_to(input, size)
tile: jnp.tile(input, dims)
repeat: jnp.tile(input, repeats)
repeat_interleave: jnp.repeat(input, repeats, axis=dim)
roll: jnp.roll(input, shifts, axis=dims)
flip: jnp.flip(input, dims)
rot90: jnp.rot90(input, k=k, axes=dims)
tril: jnp.tril(input, k=diagonal)
triu: jnp.triu(input, k=diagonal)
diag: jnp.diag(input, k=diagonal)
diagonal: jnp.diagonal(input, offset=offset, axis1=dim1, axis2=dim2)
trace: jnp.trace(input)
cumsum: jnp.cumsum(input, axis=dim, dtype=dtype)
cumprod: jnp.cumprod(input, axis=dim, dtype=dtype)
diff: jnp.diff(input, n=n, axis=dim, prepend=prepend, append=append)
argsort: jnp.argsort(input, axis=dim, descending=descending, stable=True)
msort: jnp.sort(input, axis=0)
where: jnp.where(condition, input, other)
masked_fill: jnp.where(mask, value, input)
eye: jnp.eye(n, m, dtype=dtype)
full: jnp.full(size, fill_value, dtype=dtype)
full_like: jnp.full_like(input, fill_value, dtype=dtype)
new_full: jnp.full(size, fill_value, input.dtype) | jnp.full(size, fill_value, dtype)
new_tensor: jnp.asarray(data, input.dtype) | jnp.asarray(data, dtype)
arange: jnp.arange(start, end, step, dtype=dtype)
linspace: jnp.linspace(start, end, steps, dtype=dtype)
logspace: jnp.logspace(start, end, steps, base=base, dtype=dtype)
tensor: jnp.array(data, dtype=dtype)
as_tensor: jnp.asarray(data, dtype=dtype)
from_numpy: jnp.asarray(ndarray)
tril_indices: jnp.stack(jnp.tril_indices(row, offset, col))
triu_indices: jnp.stack(jnp.triu_indices(row, offset, col))
meshgrid: jnp.meshgrid(*tensors, indexing="ij") | jnp.meshgrid(*tensors, indexing=indexing)
detach: jax.lax.stop_gradient(input)
clone: input.copy()
to: input.astype(dtype)
type_as: input.astype(other.dtype)
is_tensor: isinstance(obj, jax.Array)
is_floating_point: jnp.issubdtype(input.dtype, jnp.floating)
is_complex: jnp.iscomplexobj(input)
finfo: jnp.finfo(type)
iinfo: jnp.iinfo(type)
numel: input.size
softmax: jax.nn.softmax(input, axis=dim) | jax.nn.softmax(input.astype(dtype), axis=dim)
log_softmax: jax.nn.log_softmax(input, axis=dim)
logsumexp: jax.nn.logsumexp(input, axis=dim, keepdims=keepdim)
sigmoid: jax.nn.sigmoid(input)
relu: jax.nn.relu(input)
erf: jax.lax.erf(input)
erfc: jax.lax.erfc(input)
erfinv: jax.lax.erf_inv(input)
lgamma: jax.lax.lgamma(input)
digamma: jax.lax.digamma(input)
floor_divide: jnp.floor_divide(input, other)
remainder: jnp.remainder(input, other)
fmod: jnp.fmod(input, other)
frac: input - jnp.trunc(input)
round: jnp.round(input, decimals=decimals)
isclose: jnp.isclose(input, other, rtol=rtol, atol=atol, equal_nan=equal_nan)
allclose: jnp.allclose(input, other, rtol=rtol, atol=atol, equal_nan=equal_nan)
isin: jnp.isin(elements, test_elements, invert=invert)
nan_to_num: jnp.nan_to_num(input, nan=nan, posinf=posinf, neginf=neginf)
count_nonzero: jnp.count_nonzero(input, axis=dim)
take_along_dim: jnp.take_along_axis(input, indices, axis=dim)
complex: jax.lax.complex(real, imag)
searchsorted: jnp.searchsorted(sorted_sequence, input, side="left")
bitwise_left_shift: input << other
bitwise_right_shift: input >> other
select: jnp.take(input, index, axis=dim)
index_select: jnp.take(input, index, axis=dim)
""")  # fmt: skip

_rows("nn.functional.", """
relu: jax.nn.relu(input)
sigmoid: jax.nn.sigmoid(input)
tanh: jnp.tanh(input)
silu: jax.nn.silu(input)
selu: jax.nn.selu(input)
celu: jax.nn.celu(input, alpha=alpha)
elu: jax.nn.elu(input, alpha=alpha)
mish: jax.nn.mish(input)
softsign: jax.nn.soft_sign(input)
logsigmoid: jax.nn.log_sigmoid(input)
tanhshrink: input - jnp.tanh(input)
gelu: jax.nn.gelu(input, approximate=False) | jax.nn.gelu(input, approximate=approximate == "tanh")
softmax: jax.nn.softmax(input, axis=dim) | jax.nn.softmax(input.astype(dtype), axis=dim)
log_softmax: jax.nn.log_softmax(input, axis=dim)
softmin: jax.nn.softmax(-input, axis=dim)
glu: jax.nn.glu(input, axis=dim)
one_hot: jax.nn.one_hot(tensor, num_classes, dtype=int)
embedding: weight[input]
linear: input @ weight.T | input @ weight.T + bias
""")  # fmt: skip

for _name in ("inv", "pinv", "det", "slogdet", "cholesky", "solve", "eigh", "qr", "matrix_power"):
    ROWS[f"ops.linalg.{_name}"] = (
        (f"jnp.linalg.{_name}(A)", f"jnp.linalg.{_name}(A, B)", f"jnp.linalg.{_name}(A, n)",
         f"jnp.linalg.{_name}(input)", f"jnp.linalg.{_name}(input, n)"))  # fmt: skip

REQUIRED = {
    "ops.softmax": "dim", "ops.log_softmax": "dim", "nn.functional.softmax": "dim",
    "nn.functional.log_softmax": "dim", "nn.functional.softmin": "dim", "ops.where": "input",
    "nn.functional.one_hot": "num_classes", "ops.take_along_dim": "dim",
}  # fmt: skip
"""Parameters that have a default in torch, without which there is nothing to write."""

TYPES = {
    "float": "jnp.float32", "float32": "jnp.float32", "float64": "jnp.float64",
    "double": "jnp.float64", "float16": "jnp.float16", "half": "jnp.float16",
    "bfloat16": "jnp.bfloat16", "int64": "int", "long": "int", "int": "jnp.int32",
    "int32": "jnp.int32", "int16": "jnp.int16", "short": "jnp.int16", "int8": "jnp.int8",
    "uint8": "jnp.uint8", "bool": "bool", "complex64": "jnp.complex64", "cfloat": "jnp.complex64",
    "complex128": "jnp.complex128", "DType": "jnp.dtype",
}  # fmt: skip
"""The dtypes; int is that of the integers of 64 bits where JAX has them."""

DRAWS = {
    "ops.randn": "jax.random.normal(KEY, size, dtype=dtype)",
    "ops.rand": "jax.random.uniform(KEY, size, dtype=dtype)",
    "ops.randn_like": "jax.random.normal(KEY, input.shape, input.dtype)",
    "ops.rand_like": "jax.random.uniform(KEY, input.shape, input.dtype)",
    "ops.randint": "jax.random.randint(KEY, size, low, high)",
    "ops.randperm": "jax.random.permutation(KEY, n)",
    "ops.bernoulli": "jax.random.bernoulli(KEY, input).astype(input.dtype)"
    " | jax.random.bernoulli(KEY, p, input.shape).astype(input.dtype)",
}
"""Functions that draw, with a key; expressions as in the rows."""
