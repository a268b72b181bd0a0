#!/usr/bin/env python3
"""A training step of certified (1-Lipschitz) two-modality digits in plain PyTorch, for side-by-side timings with ours.

The network, per modality (--width c): zero-pad the image to 32x32; space-to-depth 2 -> AOL 3x3 4->c -> MaxMin -> SLL 3x3 c ->
space-to-depth 2 -> AOL 3x3 4c->2c -> MaxMin -> SLL 3x3 2c -> space-to-depth 2 -> flatten -> orthonormal 256 -> MaxMin -> orthonormal 128 -> MaxMin,
an orthonormal 10x128 head and weights softplus/rms. A step is forward + certified loss (pairwise bound inside the cross-entropy, plus the margin
term) + backward + Adam + one-cycle rate. Orthonormal matrices come from a fixed number of coupled Newton-Schulz steps on the small Gram matrix.
Prints one JSON line: median/min milliseconds over --iters after --warmup, and peak memory. Inputs are random; correctness is not its job.
Install: python3 -m venv v && v/bin/pip install torch numpy.   Threads: --threads. Layout: --channels-last.
"""
import argparse, json, math, resource, statistics, time
import torch, torch.nn as nn, torch.nn.functional as F

class Aol(nn.Module):
    """Convolution divided by the root of the absolute row sums of its Gram kernel."""
    def __init__(self, i, o, k=3):
        super().__init__()
        self.weight, self.bias = nn.Parameter(0.05 * torch.randn(o, i, k, k)), nn.Parameter(torch.zeros(o))
        with torch.no_grad(): self.weight[:, :, k // 2, k // 2] += nn.init.orthogonal_(torch.empty(o, i))
    def forward(self, x):
        t, k = self.weight.transpose(0, 1), self.weight.shape[-1]
        sums = F.conv2d(t, t, padding=k - 1).abs().sum((1, 2, 3))
        return F.conv2d(x, self.weight / (sums + 1e-12).sqrt()[None, :, None, None], self.bias, padding=k // 2)

class Sll(nn.Module):
    """x - 2 C' T^-1 relu(C x + b), T_i = sum_j |C C'|_ij q_j / q_i."""
    def __init__(self, c, k=3):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c, c, k, k) / (k * math.sqrt(c)))
        self.bias, self.log_q = nn.Parameter(torch.zeros(c)), nn.Parameter(torch.zeros(c))
    def forward(self, x):
        k, q = self.weight.shape[-1], self.log_q.exp()
        t = (F.conv2d(self.weight, self.weight, padding=k - 1).abs().sum((2, 3)) * q).sum(1) / q + 1e-12
        hidden = F.relu(F.conv2d(x, self.weight, self.bias, padding=k // 2)) / t[None, :, None, None]
        return x - 2 * F.conv_transpose2d(hidden, self.weight, padding=k // 2)

class MaxMin(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)

def polar(w, steps):
    gram = w @ w.t()
    scale = gram.abs().sum(1).max().detach()
    eye = torch.eye(len(w), dtype=w.dtype)
    y, z = gram / scale, eye
    for _ in range(steps):
        t = 1.5 * eye - 0.5 * (z @ y)
        y, z = y @ t, t @ z
    return (z @ w) / scale.sqrt()

class Orthonormal(nn.Module):
    def __init__(self, i, o, steps):
        super().__init__()
        self.weight, self.bias, self.steps = nn.Parameter(nn.init.orthogonal_(torch.empty(o, i))), nn.Parameter(torch.zeros(o)), steps
    def forward(self, x):
        return F.linear(x, polar(self.weight, self.steps), self.bias)

def encoder(padding, c, features, steps):
    return nn.Sequential(nn.ZeroPad2d(padding), nn.PixelUnshuffle(2), Aol(4, c), MaxMin(), Sll(c), nn.PixelUnshuffle(2), Aol(4 * c, 2 * c), MaxMin(),
                         Sll(2 * c), nn.PixelUnshuffle(2), nn.Flatten(), Orthonormal(128 * c, 256, steps), MaxMin(), Orthonormal(256, features, steps), MaxMin())

class Certified(nn.Module):
    def __init__(self, c, classes, steps, head_steps, features=128):
        super().__init__()
        self.encoders, self.head_steps = nn.ModuleList([encoder(2, c, features, steps), encoder(0, c, features, steps)]), head_steps
        self.rows = nn.ParameterList([nn.Parameter(nn.init.orthogonal_(torch.empty(classes, features))) for _ in range(2)])
        self.raw = nn.ParameterList([nn.Parameter(torch.full((classes,), math.log(math.e - 1))) for _ in range(2)])
        self.bias = nn.Parameter(torch.zeros(classes))
    def forward(self, xs):
        a = [F.softplus(r) for r in self.raw]
        rms = torch.sqrt(sum((v * v).sum() for v in a) / sum(map(len, a)))
        rows = [polar(w, self.head_steps) for w in self.rows]
        return [e(x) @ w.t() for e, x, w in zip(self.encoders, xs, rows)], [v / rms for v in a], rows

def loss(net, xs, y, eps, kappa, lam):
    scores, a, rows = net(xs)
    own = F.one_hot(y, len(net.bias)).bool()
    squares = 0.0
    for v, w in zip(a, rows):
        v = v[:, None] * w
        gram = v @ v.t()
        squares = squares + (gram.diag()[:, None] + gram.diag()[None] - 2 * gram).clamp_min(1e-12)
    reach = squares.sqrt()[y] * ~own
    logits = sum(v * s for v, s in zip(a, scores)) + net.bias
    margins = torch.cat([(kappa * (s - s.gather(1, y[:, None]))).masked_fill(own, float("-inf")) for s in scores], 1)
    return F.cross_entropy(kappa * (logits + eps * reach), y) + lam * torch.logsumexp(margins, 1).mean()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--batch", type=int, default=128); p.add_argument("--width", type=int, default=16); p.add_argument("--classes", type=int, default=10)
    p.add_argument("--steps", type=int, default=6, help="Newton-Schulz steps of a layer"); p.add_argument("--head-steps", type=int, default=8)
    p.add_argument("--eps", type=float, default=0.79); p.add_argument("--kappa", type=float, default=4.0); p.add_argument("--lam", type=float, default=0.1)
    p.add_argument("--iters", type=int, default=20); p.add_argument("--warmup", type=int, default=3); p.add_argument("--threads", type=int, default=2)
    p.add_argument("--channels-last", action="store_true")
    o = p.parse_args(); torch.manual_seed(0); torch.set_num_threads(o.threads)
    net, xs = Certified(o.width, o.classes, o.steps, o.head_steps), [torch.rand(o.batch, 1, 28, 28), torch.rand(o.batch, 1, 32, 32)]
    y = torch.arange(o.batch) % o.classes
    if o.channels_last:
        net, xs = net.to(memory_format=torch.channels_last), [x.to(memory_format=torch.channels_last) for x in xs]
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=1000, pct_start=0.15)
    def once():
        total = loss(net, xs, y, o.eps, o.kappa, o.lam)
        opt.zero_grad(); total.backward(); opt.step(); rate.step()
    for _ in range(o.warmup): once()
    t = []
    for _ in range(o.iters):
        s = time.perf_counter(); once(); t.append((time.perf_counter() - s) * 1e3)
    print(json.dumps({"peer": "torch " + torch.__version__, "work": "step-certified", **{k: v for k, v in vars(o).items() if k != "warmup"},
                      "median_ms": round(statistics.median(t), 3), "min_ms": round(min(t), 3), "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
main()
