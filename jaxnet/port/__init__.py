"""PyTorch source in, readable jaxnet source out.

    from jaxnet.port import port

    print(port("model.py").code)

or `jaxnet port model.py -o model_jax.py`; with `to="nnx"` or `--to nnx` the output is plain
flax.nnx. It needs libcst and ruff, and not torch: nothing of the
program is run.

The files, in the order in which they are read best: `_output.py` goes from a target to the text of
the output; `_source.py` reads the files of a program and knows what their names stand for;
`_own_names.py` sets aside the names that jaxnet has too; `_fold.py` takes out what means nothing
in jaxnet, with the parameters that `_parameters.py` finds and the questions about torch that
`_answers.py` answers; `_gather.py` finds what a class needs. `_classes.py` says what is a module,
`_scopes.py` what the names of a function are, and `_rngs.py` who takes `rngs`, and what makes
layers and what computes; `_kinds.py` what an expression holds. `_sharing.py` follows the
statements of a function to find out which names show one array, `_values.py` its expressions, by
what `_shares.py` knows of calls and layers; `_gradients.py` knows which names may have a gradient.
`_rewrite.py` rewrites the expressions, `_calls.py` the calls of functions and layers,
`_tensors.py` the methods of tensors, by the names that `_names.py` looks up in jaxnet itself;
`_changes.py` rewrites the changes in place, and `_statements.py` the other statements. `_nodes.py`
has what all ask of a syntax tree. `_flax/` goes on from there to plain flax.nnx.

A file that is a whole program is made into definitions and one function first, by `_program.py`:
`_words.py` takes out the devices and rewrites what saves and loads; `_updates.py` gives an update
by hand an optimizer; `_roles.py` finds the model, the optimizer and the scheduler in each
function; `_steps.py` divides a loop into a loss function and the rest, by what `_flow.py` knows of
the names that statements read and bind; `_training.py` has the state, the step and the mode of
the model, and `_loops.py` rewrites the functions with them, and their expressions by `_reads.py`.
"""

from jaxnet.port._port import Note, Ported, port

__all__ = ["Note", "Ported", "port"]
