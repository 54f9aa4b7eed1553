"""The PyTorch networks import torch at their top, so no doctests are looked for in them."""

collect_ignore_glob = ["*_torch.py"]
