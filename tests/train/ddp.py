"""One process of PyTorch's DistributedDataParallel, as test_batch_norm_parts.py starts it.

The arguments are a folder, its number, the number of processes, and "SGD" or "Adam". The folder
has the weights and the batches (`weights.npz`, `batches.npz`), and gets the losses and the
state_dict of this process.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

folder, rank, world, rule = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 8, 3, padding=1, bias=False),
    nn.BatchNorm2d(8, momentum=None),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(128, 16, bias=False),
    nn.BatchNorm1d(16),
    nn.ReLU(),
    nn.Linear(16, 2),
)
net.load_state_dict({k: torch.from_numpy(v) for k, v in np.load(folder / "weights.npz").items()})
model = DistributedDataParallel(net)
optimizer = {
    "SGD": lambda: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda: torch.optim.Adam(net.parameters(), lr=1e-3),
}[rule]()
losses = []
batches = np.load(folder / "batches.npz")
for x, y in zip(batches["x"], batches["y"], strict=True):
    rows = len(x) // world
    own = slice(rank * rows, (rank + 1) * rows)
    loss = nn.functional.cross_entropy(
        model(torch.from_numpy(x[own])), torch.from_numpy(y[own]).long()
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
after = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
np.savez(folder / f"after{rank}.npz", losses=losses, **after)
dist.barrier()
dist.destroy_process_group()
