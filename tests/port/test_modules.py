"""Modules of the kinds that people write, ported and compared with PyTorch's."""

import numpy as np
import pytest

from jaxnet.port import port
from jaxnet.random import Generator
from tests.port.test_changes import outcome

pytestmark = [pytest.mark.libcst, pytest.mark.torch]

_HEAD = """
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from dataclasses import dataclass
from functools import partial
"""

MODULES = {
    "a causal mask that is not saved": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.register_buffer("mask", torch.tril(torch.ones(3, 3)).bool(), persistent=False)
    def forward(self, x):
        q, k, v = self.qkv(x).split(4, dim=-1)
        att = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        att = att.masked_fill(~self.mask[:x.size(0), :x.size(0)], float("-inf"))
        att = att.softmax(-1)
        return att @ v
""",
    "a dataclass of settings, and properties": """
@dataclass
class Config:
    dim: int = 4
    heads: int = 2
    drop: float = 0.0
    bias: bool = True

    @property
    def head_dim(self):
        return self.dim // self.heads

class Net(nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.config = config = config or Config()
        self.fc = nn.Linear(config.dim, config.head_dim * config.heads, bias=config.bias)
        self.drop = nn.Dropout(config.drop)
    @property
    def scale(self):
        return self.config.head_dim ** -0.5
    def forward(self, x):
        h = self.fc(x).view(x.shape[0], self.config.heads, self.config.head_dim)
        return self.drop(h.mean(1) * self.scale).std(0)
""",
    "layers by functools.partial": """
class Net(nn.Module):
    def __init__(self, norm_layer=partial(nn.LayerNorm, eps=1e-6), act=partial(nn.LeakyReLU, 0.2)):
        super().__init__()
        make = partial(nn.Linear, 4, bias=False)
        self.a, self.b = make(4), make(4)
        self.norm = norm_layer(4)
        self.act = act()
    def forward(self, x):
        return self.act(self.norm(self.a(x) + self.b(x)))
""",
    "a ModuleDict, and a dict of functions": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(4, n) for name, n in (("a", 2), ("b", 3))})
        self.acts = {"a": torch.tanh, "b": F.silu}
    def forward(self, x):
        out = {k: self.acts[k](layer(x)) for k, layer in self.heads.items()}
        out["c"] = x.clone()
        out["c"] += 1
        return torch.cat([out[k] for k in sorted(out)], dim=1)
""",
    "tied weights": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(4, 4)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.emb.weight
        self.emb.weight.data.uniform_(-0.1, 0.1)
    def forward(self, x):
        idx = x.abs().long() % 4
        return self.head(self.emb(idx).sum(1)) * x
""",
    "initial weights of its own": """
class Net(nn.Module):
    def __init__(self, scale=0.02):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.gamma = nn.Parameter(scale * torch.ones(4), requires_grad=True)
        self.reset_parameters(scale)
        for n, p in self.named_parameters():
            if n.endswith("net.2.weight"):
                nn.init.normal_(p, mean=0.0, std=scale / math.sqrt(2))
    def reset_parameters(self, std):
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=std)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        with torch.no_grad():
            self.net[0].weight[0] = 0.5
            self.net[0].bias.add_(1)
    def forward(self, x):
        return x + self.gamma * self.net(x)
""",
    "axes that are moved": """
def rearrange(x, p):
    b, c = x.shape
    return x.reshape(b, c // p, p).permute(0, 2, 1).contiguous().view(b, -1)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
    def forward(self, x):
        y = rearrange(x, 2)
        y = y.unsqueeze(1).repeat(1, 3, 1).flatten(1)
        z = y.unfold(1, 4, 4).sum(1)
        return self.fc(z).roll(1, 0).flip(-1)
""",
    "running means": """
class Net(nn.Module):
    def __init__(self, decay=0.9):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.decay = decay
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
    @torch.no_grad()
    def _update(self, x):
        self.steps += 1
        self.mean.mul_(self.decay).add_(x.mean(0), alpha=1 - self.decay)
    def forward(self, x):
        h = self.fc(x)
        if self.training:
            self._update(h)
        debias = 1 - self.decay ** self.steps
        return h - self.mean / debias
""",
    "a codebook": """
class Net(nn.Module):
    def __init__(self, n=5, dim=4):
        super().__init__()
        self.codebook = nn.Embedding(n, dim)
        self.codebook.weight.data.uniform_(-1.0 / n, 1.0 / n)
    def forward(self, x):
        w = self.codebook.weight
        d = x.pow(2).sum(1, keepdim=True) + w.pow(2).sum(1) - 2 * x @ w.t()
        idx = d.argmin(1)
        one = torch.zeros(x.size(0), 5)
        one.scatter_(1, idx.unsqueeze(1), 1)
        q = one @ self.codebook.weight
        loss = F.mse_loss(q.detach(), x) + 0.25 * F.mse_loss(q, x.detach())
        q = x + (q - x).detach()
        return q, loss
""",
    "in-place activations": """
class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.bn1 = nn.Linear(c, c, bias=False), nn.BatchNorm1d(c)
        self.relu = nn.ReLU(inplace=True)
    def forward(self, x):
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out) + x
        return self.relu(out)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(4) for _ in range(2)])
    def forward(self, x):
        feats = []
        for block in self.blocks:
            x = block(x)
            feats.append(x)
        return torch.stack(feats, dim=1).amax(1)
""",
    "standardized weights": """
class WSLinear(nn.Linear):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-5)
        return F.linear(x, w, self.bias)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = WSLinear(4, 4)
        self.alpha = nn.Parameter(torch.tensor(0.5))
    def forward(self, x, mask=None):
        a, b = self.fc(x).chunk(2, dim=-1)
        y = a * torch.sigmoid(b)
        top, idx = y.topk(1, dim=1)
        y = torch.where(y > self.alpha, y, y.new_zeros(()))
        return torch.cat((y, top), 1).max(dim=0)[0] + y.norm(dim=0).sum()
""",
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_computes_the_same(name, tmp_path):
    expected, found = outcome(_HEAD + MODULES[name], tmp_path)
    assert len(found) == len(expected)
    for one, other in zip(expected, found, strict=True):
        rounding = 1e-6 * max(1.0, float(np.abs(one).max()))  # of sums, whose terms cancel
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=rounding)


@pytest.mark.parametrize("name", ["initial weights of its own", "a codebook", "tied weights"])
def test_the_same_seed_gives_the_same_weights(name, tmp_path):
    import torch

    file = tmp_path / "model.py"
    file.write_text(_HEAD + MODULES[name])
    original, made = {"__name__": "original"}, {"__name__": "made"}
    exec(compile(file.read_text(), "model.py", "exec"), original)
    exec(compile(port(str(file)).code, "ported.py", "exec"), made)
    torch.manual_seed(3)
    state = original["Net"]().state_dict()
    twin = made["Net"](rngs=Generator(3)).state_dict()
    assert list(twin) == list(state)
    for key, value in state.items():
        np.testing.assert_allclose(twin[key], value.numpy(), rtol=1e-5, atol=1e-7, err_msg=key)
