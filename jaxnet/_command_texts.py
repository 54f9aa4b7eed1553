"""What `jaxnet --help` and `jaxnet COMMAND --help` say, beside the arguments."""

ABOUT = """Whether a JAX training program computes what a PyTorch program computes.

    jaxnet record trace/ --steps 5 -- python main.py    # 1. record the PyTorch program, unchanged
    jaxnet check trace/ port.py:make                    # 2. check the JAX program, without torch
    jaxnet explain trace/ port.py:make --at fc1         # 3. of a layer that differs, every array
    jaxnet check trace/ port.py:make --save report/     # 4. when it says SAME, a certificate
    jaxnet certificate report/ --verify                 # 5. later: is it still true?

make() in port.py returns (model, loss, optimizer), or (step, state) of a step of your own.
`jaxnet COMMAND --help` says more of each. Exit status: 0 the same, 1 different, 2 not comparable,
undecided, or an error. That of `record` is 1 where the program has other bits when it runs without
the recording.
"""

RECORD = """The program is run as it is; nothing in it has to change:

    jaxnet record trace/ --steps 5 -- python main.py --epochs 1

It is ended after the last recorded update. The trace holds batches, weights, random draws,
activations, gradients and optimizer states as safetensors and JSON, and is checked without torch.
Batches of 8 to 32 rows are enough, and keep the trace small.

Then it is run again without the recording. If its bits are others the exit status is 1: the
recording changed them, or they are others in each run, which what is printed says. The trace stays
and can be checked, but the report will have a note of it."""

CHECK = """    jaxnet check trace/ port.py:make --save report/

make() is a function without arguments that returns (model, loss, optimizer), where
loss(model, batch) is what the JAX program minimises, or (step, state) of a step of your own. The
model has torch's names of parameters, or is one of plain flax.nnx, whose layers are paired with
torch's. A fourth part, the batches of your own loader, is compared with torch's batches too.

    jaxnet check trace/ model_jax.py
    jaxnet check trace/ "model_jax.py:Net(hidden=32)"

A file that has the classes of the recorded model, as `jaxnet port` writes it, needs no make(): the
model is built with the arguments of torch's, and loss and optimizer are those of the trace. What of
the file the recorded steps do not reach is listed.

What it prints, in this order:
  SAME, DIFFERENT or NOT COMPARABLE. Every layer, gradient and update was compared in float32 and
    float64, so there is no tolerance to choose.
  setting, warning: an argument that both programs have, and in which they differ. A warning is one
    that makes no difference in the recorded steps, as a schedule that acts later.
  1. 2. 3.: the differences, each with its place, its cause and what to write. Mend the first, and
    run the command again. "or:" lists causes that these steps cannot tell apart.
  not compared, not reached: what the verdict says nothing about.
  note: what a reader has to know, as of a part that is compared in float32 alone.

How much a SAME is worth:
    jaxnet check trace/ port.py:make --generic generic/ --plant 10 --save report/
compares with a second trace too, of `jaxnet record generic/ --weights generic -- python main.py`,
beside whose weights no mistake hides, and makes ten known mistakes in your program, one at a time,
to see that each would be found."""

COMPARE = """    jaxnet compare reference.py:make port.py:make --steps 20

make() of the reference returns (model, loss, optimizer, batches) of PyTorch, where optimizer is a
function of the parameters, such as lambda p: torch.optim.SGD(p, 0.1); that of the port returns
(model, loss, optimizer). So nothing has to be recorded, and torch is needed. A loss is a criterion
of outputs and targets, or a function of the model and a batch. The port begins with torch's
weights. What is printed is what `check` prints."""

DIFF = """    jaxnet diff trace_a/ trace_b/

Both are recorded PyTorch programs: of two versions of torch, two devices, or two commits. The first
is called torch and the second jax in what is printed. Nothing is run, and torch is not needed:
record both with the same steps first."""

EXPLAIN = """    jaxnet explain trace/ port.py:make --at blocks.3.norm1

Prints every array of this layer, each at the step with the largest difference, and the differences
in which it has a part with their causes. `loss` and the name of a parameter will do too.

Of each array: "torch" is torch's float32 to its float64, "jax" the same of the JAX program, which
are rounding; "float64" is torch's float64 to JAX's, which is no rounding where it is large. The
level says what it was computed from: "layer" from torch's inputs of the layer, "step" from torch's
weights before the step, "chain" from what the program itself computed. What is "downstream" differs
only because something before it does."""

PORT = """    jaxnet port model.py -o model_jax.py                     # a file
    jaxnet port timm.models.resnet:ResNet -o resnet_jax.py   # a class, with what it calls
    jaxnet port model.py -o model_nnx.py --to nnx            # flax.nnx, without jaxnet
    jaxnet port model.py -o model_jax.py --check trace/      # and is it the recorded model?

Classes, functions, names, order, comments and docstrings stay. Nothing is run, and torch is not
needed; libcst and ruff are (pip install libcst ruff). Exit status 0 if everything was ported, 1
if the output raises NotImplementedError somewhere: each such line is printed.

With --check the output is run in the training that `jaxnet record trace/ -- python main.py` wrote
down: its model is built as torch's was, and has torch's loss and optimizer. The certificate stands
beside the output, and the exit status is that of `jaxnet check`: 0 the same, 1 different, 2 not
comparable, as where the recorded steps come to a line that is not supported. After a change by
hand: jaxnet check trace/ model_jax.py"""

VERIFY = """    jaxnet certificate report/             # what it says
    jaxnet certificate report/ --verify    # exit status 2 if something has changed since
    jaxnet certificate report/ --line      # one line, for a README

A certificate is stale when a class or function of either program, the trace, or an installed
version is another than when it was made; what is printed then has the command that makes it again.
certificate.html in the folder is the same to read, with plots and all arrays."""

LAUNCH = """    jaxnet launch --processes 2 -- python train.py
    jaxnet launch --processes 2 -- python -m experiments cifar2_net --mesh data=2

Runs the program in several processes of this machine, as torchrun does. The program calls

    from jaxnet import train
    train.init_processes()                        # before anything that JAX computes
    train.fit(..., mesh="data=2")                 # over the devices of all processes

and needs no other change: each process places its own rows of every batch, and one of them prints
and writes files. On a machine with GPUs each process gets one; to use all GPUs of one machine from
one process, no launch is needed. Under SLURM, Open MPI and Kubernetes start the program with srun,
mpirun or a JobSet instead: init_processes finds the others by itself.

If one process fails, the others are stopped, and its last lines are shown. The exit status is that
of the first that failed. Ctrl-C and SIGTERM reach all, and a run that train.fit computes saves and
stops; a second one kills all at once."""
