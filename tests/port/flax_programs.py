"""Programs of the kinds that people write, and the shapes of their inputs."""

HEAD = """
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
"""

PROGRAMS = {
    "a small ResNet": (
        """
class Block(nn.Module):
    def __init__(self, i, o, stride=1, norm_layer=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm_layer(o)
        self.conv2 = nn.Conv2d(o, o, 3, padding=1, bias=False)
        self.bn2 = norm_layer(o)
        self.down = None
        if stride != 1 or i != o:
            self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), norm_layer(o))
    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.down is not None:
            x = self.down(x)
        return F.relu(x + y)

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList([Block(width, width), Block(width, 2 * width, 2)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(2 * width, 4)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                nn.init.constant_(m.weight, 1)
    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        for layer in self.layers:
            x = layer(x)
        x = torch.flatten(self.pool(x), 1)
        return self.fc(self.drop(x))
""",
        [(2, 3, 8, 8)],
    ),
    "a small GPT with tied weights": (
        """
class Attention(nn.Module):
    def __init__(self, dim, heads, length):
        super().__init__()
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.heads = heads
        self.register_buffer("mask", torch.tril(torch.ones(length, length)).bool())
    def forward(self, x):
        b, t, c = x.size()
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.mask[:t, :t] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.out(y.transpose(1, 2).contiguous().view(b, t, c))

class Block(nn.Module):
    def __init__(self, dim, heads, length):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, length)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

class Net(nn.Module):
    def __init__(self, vocab=7, dim=8, length=6):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, dim), nn.Embedding(length, dim)
        self.blocks = nn.ModuleList([Block(dim, 2, length) for _ in range(2)])
        self.ln_f = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.wte.weight
        self.apply(self._init_weights)
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    def forward(self, idx):
        pos = torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device)
        x = self.wte(idx) + self.wpe(pos)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))
""",
        [("int", 2, 5)],
    ),
    "an LSTM classifier": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, 4, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.fc = nn.Linear(8, 3)
    def forward(self, tokens):
        out, (h, c) = self.lstm(self.embed(tokens))
        return self.fc(out[:, -1]) + self.fc(torch.cat((h[-2], h[-1]), dim=1)) + c.mean()
""",
        [("int", 3, 6)],
    ),
    "a GRU and an RNN": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 4, batch_first=True)
        self.rnn = nn.RNN(4, 3, nonlinearity="relu")
        self.cell = nn.LSTMCell(3, 2)
    def forward(self, x):
        y, h = self.gru(x, torch.ones(1, x.size(0), 4))
        z, _ = self.rnn(y.transpose(0, 1))
        state = None
        for t in range(z.size(0)):
            state = self.cell(z[t], state)
        return state[0], h
""",
        [(3, 6, 5)],
    ),
    "a VAE with transposed convolutions": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2),
                                 nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.Flatten())
        self.mu, self.logvar = nn.Linear(24, 3), nn.Linear(24, 3)
        self.up = nn.Linear(3, 24)
        self.dec = nn.Sequential(
            nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
            nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1, groups=2), nn.Sigmoid())
    def reparameterize(self, mu, logvar):
        if not self.training:
            return mu
        std = torch.exp(0.5 * logvar)
        return mu + torch.zeros_like(std) * torch.randn_like(std) * std
    def forward(self, x):
        h = self.enc(x)
        mu, logvar = self.mu(h), self.logvar(h).clamp(-3, 3)
        z = self.reparameterize(mu, logvar)
        return self.dec(self.up(z).view(-1, 6, 2, 2)), mu, logvar
""",
        [(2, 1, 8, 8)],
    ),
    "attention layers of torch": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        self.scale = nn.Parameter(torch.full((8,), 0.5))
        nn.init.trunc_normal_(self.cls, std=0.02)
    def forward(self, x):
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        mask = torch.triu(torch.ones(x.size(1), x.size(1)), diagonal=1).bool()
        y, w = self.mha(x, x, x, attn_mask=mask)
        z = F.scaled_dot_product_attention(y, x, x, is_causal=True)
        return self.layer(y + z * self.scale), w
""",
        [(2, 4, 8)],
    ),
    "running means, and a module that asks whether it is trained": (
        """
class Net(nn.Module):
    def __init__(self, decay=0.9):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.decay = decay
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("steps", torch.zeros(()))
    def forward(self, x):
        h = self.fc(x)
        if self.training:
            with torch.no_grad():
                self.steps += 1
                self.mean.mul_(self.decay).add_(h.mean(0), alpha=1 - self.decay)
        return h - self.mean, F.dropout(h, 0.5, training=False)
""",
        [(3, 4)],
    ),
    "norms of all kinds": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gn = nn.GroupNorm(2, 4)
        self.ln = nn.LayerNorm([6, 6])
        self.bn = nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)
        self.bn1 = nn.BatchNorm1d(4, affine=False)
        self.inorm = nn.InstanceNorm2d(4, affine=True)
        self.rms = nn.RMSNorm(6)
        self.w = nn.Parameter(torch.ones(6))
        self.prelu = nn.PReLU(4)
    def forward(self, x):
        y = self.rms(self.inorm(self.bn(self.ln(self.gn(x)))))
        z = self.bn1(x.mean((2, 3)))
        z = self.bn1(x.flatten(2)).sum(-1) + z
        g = F.group_norm(x, 2, self.gn.weight, self.gn.bias)
        return self.prelu(y) + F.layer_norm(x, (6,), self.w, None, 1e-6) + g, F.normalize(z, dim=-1)
""",
        [(3, 4, 6, 6)],
    ),
    "pooling": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.AvgPool2d(3, 2, padding=1)
        self.b = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False, ceil_mode=True)
        self.c = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.d = nn.MaxPool2d(2, dilation=2, stride=1)
        self.e = nn.AdaptiveAvgPool2d((3, None))
        self.conv = nn.Conv2d(2, 4, 3, dilation=2, groups=2, padding="same",
                              padding_mode="reflect")
    def forward(self, x):
        x = self.conv(x)
        y = F.avg_pool2d(x, 2, ceil_mode=True, divisor_override=3)
        z = F.adaptive_max_pool2d(x, 4)
        return self.a(x), self.b(x), self.c(x), self.d(x), self.e(x), y, z, F.max_pool1d(x[0], 2)
""",
        [(2, 2, 8, 8)],
    ),
    "functions of tensors": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
    def forward(self, x):
        h = self.fc(x)
        a, b, c = h.chunk(3, dim=-1)
        top, idx = h.topk(2, dim=1)
        best, where = h.max(dim=1)
        v = h.var(dim=0) + h.std(0, unbiased=False, keepdim=True)
        s = torch.einsum("ij,kj->ik", a, b).softmax(dim=-1)
        m = h.masked_fill(h > 0.5, 0.0).clamp(min=-1, max=0.4).sum((0, 1))
        st = torch.stack([a, b], dim=1).permute(1, 0, 2).reshape(2, -1)
        g = h.gather(1, idx)
        u = h.unsqueeze(1).repeat(1, 2, 1).squeeze(0).roll(1, -1).flip(-1)
        w = torch.where(h > 0, h, h.new_zeros(()))
        n = h.norm(dim=1) + torch.linalg.norm(h, dim=-1)
        p = F.pad(h, (1, 2, 0, 1), value=0.3)
        t = torch.tril(torch.ones(3, 3))
        o = F.one_hot(where, 6).to(h.dtype)
        parts = [y.sum() for y in h.split([1, 2, 3], dim=1)]
        lin = torch.linspace(0, 1, 6) * h + torch.arange(6).type_as(h)
        return (c, top, best, v, s, m, st, g, u, w, n, p, t, o, torch.stack(parts), lin,
                torch.cat((a, b), 1).mean(1, keepdim=True), h.median(dim=1)[0], h.min(),
                torch.logsumexp(h, 1), h.cumsum(1), h.sort(descending=True)[0], h.abs().pow(1.5),
                torch.bmm(h[None], h.t()[None]), h.view(-1).unfold(0, 3, 2), torch.max(a, b),
                F.gelu(h), F.softplus(h), F.elu(h), F.hardtanh(h), F.silu(h), F.glu(h), F.relu6(h),
                F.cosine_similarity(a, b), h.index_select(1, torch.tensor([0, 2])),
                torch.cdist(a, b), F.relu(h * 1, inplace=True), F.leaky_relu(h * 1, 0.1, True))
""",
        [(3, 6)],
    ),
    "images that are resized": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2) if False else None
    def forward(self, x):
        y = F.pixel_shuffle(self.conv(x), 2)
        a = F.interpolate(y, scale_factor=2, mode="nearest")
        b = F.interpolate(y, size=(5, 7), mode="bilinear", align_corners=False)
        c = F.interpolate(y, scale_factor=1.5, mode="bilinear", align_corners=True)
        return a, b, c, F.pad(x, (1, 1, 2, 0), mode="reflect")
""",
        [(2, 4, 4, 4)],
    ),
    "standardized weights of a convolution": (
        """
class WSConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)
class Net(nn.Module):
    def __init__(self, act_layer=nn.SiLU):
        super().__init__()
        self.conv = WSConv(2, 4, 3, stride=2, padding=1)
        self.act = act_layer()
        self.fc = nn.Linear(4, 2)
    def forward(self, x):
        pad = 1
        x = self.act(self.conv(F.pad(x, (pad, pad))))
        return F.linear(x.mean((2, 3)), self.fc.weight, self.fc.bias)
""",
        [(2, 2, 7, 7)],
    ),
    "losses": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 7)
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    def forward(self, x, t):
        y = self.fc(x)
        logs = F.log_softmax(y, dim=1)
        return (self.loss(y, t), F.cross_entropy(y, t, ignore_index=2, reduction="sum"),
                F.nll_loss(logs, t), F.mse_loss(y, torch.zeros_like(y)), F.smooth_l1_loss(y, y * 2),
                F.binary_cross_entropy_with_logits(y, torch.sigmoid(y.detach())),
                F.kl_div(logs, torch.softmax(x @ self.fc.weight.t(), 1), reduction="batchmean"))
""",
        [(4, 5), ("int", 4)],
    ),
}
