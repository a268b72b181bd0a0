"""Trains the stored model, and measures it with torchattacks and foolbox: the other side of the comparison.

Knows nothing of this workspace but the folder it writes to; main.rs reads what it wrote.

    pip install torch torchattacks==3.5.1 foolbox==3.3.4 safetensors
    python parity.py train      # model.safetensors: minutes
    python parity.py measure    # figures.json: an hour on one core; measures what is not yet there

MNIST is read from $CRMT_DATA/mnist (default ../shared/data beside the repository).
"""

import datetime
import gzip
import json
import os
import pathlib
import sys
import time
from importlib.metadata import version

import foolbox
import numpy as np
import torch
import torchattacks
from safetensors.torch import load_file, save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
# CRMT_DATA; its default is beside the repository.
DATA = pathlib.Path(os.environ.get("CRMT_DATA", HERE / "../../../../../shared/data")) / "mnist"
IMAGES = 1000
# Chosen so that the model stands in 30 to 80 % of the images.
BUDGETS = [("l2", 2.0), ("linf", 0.12)]
# Counted from 0; all but the first only to see how far the same attack differs from itself.
SEEDS = range(3)


class Net(nn.Sequential):
    """Tiles of 4x4 pixels as channels, twice conv 3x3 and ReLU, linear: 12,490 parameters, small so that attacks are
    cheap, and without strides, whose gradients PyTorch computes slowly."""

    def __init__(self):
        super().__init__()
        self.tiles = nn.PixelUnshuffle(4)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(16 * 7 * 7, 10)


def mnist(split):
    def idx(name, header):
        raw = gzip.decompress((DATA / f"{split}-{name}-ubyte.gz").read_bytes())
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).copy())

    return idx("images-idx3", 16).reshape(-1, 1, 28, 28).float() / 255, idx("labels-idx1", 8).long()


def train():
    """Adversarial training (Madry et al. 2018) in l2: 5 steps of 0.25 eps, eps growing to 2 over two of five epochs."""
    torch.manual_seed(0)
    net, (x, y) = Net(), mnist("train")
    epochs, batch, eps = 5, 128, 2.0
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step % (len(x) // batch) == 0:
            order = torch.randperm(len(x))
        rows = order[step % (len(x) // batch) * batch :][:batch]
        radius = eps * min(1.0, step / steps * 2.5)
        adversarial = ascend(net, x[rows], y[rows], radius)
        loss = nn.functional.cross_entropy(net(adversarial), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f} at radius {radius:.2f}", flush=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, HERE / "model.safetensors")


def ascend(net, x, y, eps):
    delta = torch.zeros_like(x)
    for _ in range(5):
        delta.requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(x + delta), y, reduction="sum"), delta)
        norm = lambda v: v.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
        delta = delta.detach() + 0.25 * eps * gradient / norm(gradient)
        delta = (x + delta * (eps / norm(delta)).clamp_max(1)).clamp(0, 1) - x
    return x + delta


def attacks():
    """name: (tool, its settings, norms, random, (net, norm, eps, seed) -> (images, labels) -> adversarial images)."""

    def one(attack, **settings):
        return lambda net, norm, eps, seed: attack(
            net, norm={"l2": "L2", "linf": "Linf"}[norm], eps=eps, seed=seed, **settings
        )

    def fool(l2, linf, **settings):
        def build(net, norm, eps, seed):
            torch.manual_seed(seed)
            attack = {"l2": l2, "linf": linf}[norm](**settings)
            model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
            return lambda x, y: attack(model, x, y, epsilons=eps)[1]

        return build

    f = foolbox.attacks
    # The published settings: torchattacks' own defaults take 10 steps where AutoAttack takes 100.
    standard = {
        "apgd-ce": (one(torchattacks.APGD, steps=100, loss="ce"), "100 steps"),
        "apgd-t": (one(torchattacks.APGDT, steps=100, n_classes=10), "100 steps, 9 targets"),
        "fab-t": (one(torchattacks.FAB, steps=100, multi_targeted=True, n_classes=10), "100 steps, 9 targets"),
        "square": (one(torchattacks.Square, n_queries=5000), "5000 queries"),
    }
    both, every = ["l2", "linf"], {}
    every["fgm"] = ("foolbox", "1 step", both, False, fool(f.L2FastGradientAttack, f.LinfFastGradientAttack))
    every["pgd"] = ("foolbox", "l2: 50 steps of eps/40, linf: 40 steps of eps/30", both, True,
        fool(f.L2ProjectedGradientDescentAttack, f.LinfProjectedGradientDescentAttack))
    every["deepfool"] = ("foolbox", "50 steps, 10 candidates, overshoot 0.02", both, False,
        fool(f.L2DeepFoolAttack, f.LinfDeepFoolAttack))
    every["cw"] = ("foolbox", "9 constants from 0.001, 200 steps of 0.05", ["l2"], False,
        fool(f.L2CarliniWagnerAttack, None, binary_search_steps=9, steps=200, stepsize=0.05))
    for name, (build, settings) in standard.items():
        every[name] = ("torchattacks", settings, both, name != "fab-t", build)
    every["standard"] = ("torchattacks", "MultiAttack of the four above", both, True, lambda *problem:
        torchattacks.MultiAttack([build(*problem) for build, _ in standard.values()]))
    return every


def stands(net, x, y, adversarial, norm, eps):
    """Judged here, not by the tool: the label is still predicted, at a point within budget and domain."""
    delta = (adversarial - x).flatten(1)
    size = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)
    # Rounding in f32.
    assert size.max() <= eps * (1 + 1e-5) and adversarial.min() >= 0 and adversarial.max() <= 1, (norm, eps, size.max())
    with torch.no_grad():
        return (net(adversarial).argmax(1) == y).numpy()


def measure():
    net = Net()
    net.load_state_dict(load_file(HERE / "model.safetensors"))
    net.eval().requires_grad_(False)
    x, y = (part[:IMAGES] for part in mnist("t10k"))
    with torch.no_grad():
        logits = net(x[:3]).double().tolist()
    clean = percent(stands(net, x, y, x, "l2", 0))
    path = HERE / "figures.json"
    figures = json.loads(path.read_text())["attacks"] if path.exists() else []
    known = {(f["attack"], f["norm"], f["eps"]): f for f in figures}
    every = [(name, norm, eps) for norm, eps in BUDGETS for name, row in attacks().items() if norm in row[2]]
    for seed in SEEDS:
        for name, norm, eps in every:
            tool, settings, _, random, build = attacks()[name]
            default = {"attack": name, "norm": norm, "eps": eps, "tool": tool, "settings": settings, "accuracy": []}
            figure = known.setdefault((name, norm, eps), default)
            if len(figure["accuracy"]) > seed or (seed > 0 and not random):
                continue
            start = time.time()
            found = stands(net, x, y, build(net, norm, eps, seed)(x, y), norm, eps)
            figure["accuracy"].append(percent(found))
            figure.setdefault("stands", np.packbits(found).tobytes().hex())
            print(name, norm, eps, figure["accuracy"], f"{time.time() - start:.0f} s", flush=True)
            write(path, clean, logits, [known[key] for key in every if key in known])


def percent(stands):
    return round(100 * float(stands.mean()), 1)


def write(path, clean, logits, figures):
    head = {
        "what": "accuracy in percent on the first images of t10k, one per seed; stands: one bit an image, first seed",
        "date": datetime.date.today().isoformat(),
        "versions": {tool: version(tool) for tool in ["torch", "torchattacks", "foolbox"]},
        "images": IMAGES,
        "clean": clean,
        "logits": logits,
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(figure)}" for figure in figures)
    path.write_text("{\n" + "\n".join(lines) + '\n "attacks": [\n' + rows + "\n ]\n}\n")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    match sys.argv[1:]:
        case ["train"]:
            train()
        case ["measure"]:
            measure()
        case _:
            sys.exit(__doc__)
