"""Programs of the kinds of pytorch/examples, each in PyTorch and in jaxnet, side by side.

NAME.py is the jaxnet program and NAME_torch.py the PyTorch one. Each has a function `main` that
yields the loss of every step and returns the trained weights. Its argument `cast` is given every
model and array that the program makes and returns what the program shall use, so that the
comparison can run it in float64, from other weights, or with recorded dropout; by default it
changes nothing.
"""
