"""The parts of `jaxnet port --to nnx`: what becomes of jaxnet's names in plain flax.nnx.

`convert.py` rewrites a ported definition, by the expressions in `rows.py`. What flax and jax have
not with PyTorch's numbers is in the other files, as Python that runs: `written.py` copies of them
what an output needs.
"""
