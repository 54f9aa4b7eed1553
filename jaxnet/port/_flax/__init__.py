"""From a program that is ported to jaxnet to one in plain flax.nnx, which does not import it.

`canonical.py` ports a definition to jaxnet with jaxnet's whole names. `convert.py` rewrites its
statements, and `calls.py` its names and calls: by the expressions in `rows.py`, into which
`template.py` puts the arguments, or as calls of copies. What is copied is Python that runs, here:
`layers.py`, `norms.py`, `activations.py`, `pools.py`, `functions.py`, `spaces.py`, `attention.py`,
`recurrent.py`, `losses.py`, `init.py` and `modules.py` import flax, jax and one another alone.
`written.py` reads the text of what an output needs from them, and `whole.py` puts an output
together.
"""
