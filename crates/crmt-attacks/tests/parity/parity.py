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
    """name: (tool, its settings, norms, runs, (net, norm, eps, seed) -> (images, labels) -> adversarial images).

    Runs have the seeds 0, 1, ...: more than one where an attack is random, and cheap enough to see by how much.
    """

    def torch_attack(attack, **settings):
        names = {"l2": "L2", "linf": "Linf"}
        return lambda net, norm, eps, seed: attack(net, norm=names[norm], eps=eps, seed=seed, **settings)

    def fool(l2, linf, **settings):
        def build(net, norm, eps, seed):
            torch.manual_seed(seed)
            attack = {"l2": l2, "linf": linf}[norm](**settings)
            model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
            return lambda x, y: attack(model, x, y, epsilons=eps)[1]

        return build

    f, t, both = foolbox.attacks, torchattacks, ["l2", "linf"]
    pgd = fool(f.L2ProjectedGradientDescentAttack, f.LinfProjectedGradientDescentAttack, random_start=False)
    cw = fool(f.L2CarliniWagnerAttack, None, binary_search_steps=9, steps=200, stepsize=0.05)
    # The published settings: torchattacks' own defaults take 10 steps where AutoAttack takes 100.
    ce, targeted = torch_attack(t.APGD, steps=100, loss="ce"), torch_attack(t.APGDT, steps=100, n_classes=10)
    fab = torch_attack(t.FAB, steps=100, multi_targeted=True, n_classes=10)
    return {
        "fgm": ("foolbox", "1 step", both, 1, fool(f.L2FastGradientAttack, f.LinfFastGradientAttack)),
        "pgd": ("foolbox", "from the clean image, l2: 50 steps of eps/40, linf: 40 steps of eps/30", both, 1, pgd),
        "deepfool": ("foolbox", "50 steps, 9 rivals, overshoot 0.02", both, 1,
            fool(f.L2DeepFoolAttack, f.LinfDeepFoolAttack)),
        "cw": ("foolbox", "9 constants from 0.001, 200 steps of 0.05", ["l2"], 1, cw),
        "apgd-ce": ("torchattacks", "100 steps", both, 3, ce),
        "apgd-t": ("torchattacks", "100 steps, 9 targets", both, 1, targeted),
        "square": ("torchattacks", "5000 queries", both, 1, torch_attack(t.Square, n_queries=5000)),
        "fab-t": ("torchattacks", "100 steps, 9 targets", both, 1, fab),
    }


# What AutoAttack's standard version runs one after the other on whoever stands: an image stands against all of it if it
# stands against each.
STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]


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
    for norm, eps in BUDGETS:
        for name, (tool, settings, norms, runs, build) in attacks().items():
            figure = {"attack": name, "norm": norm, "eps": eps, "tool": tool, "settings": settings, "accuracy": []}
            figure = known.setdefault((name, norm, eps), figure)
            for seed in range(len(figure["accuracy"]), runs if norm in norms else 0):
                start = time.time()
                found = stands(net, x, y, build(net, norm, eps, seed)(x, y), norm, eps)
                figure["accuracy"].append(percent(found))
                figure.setdefault("stands", np.packbits(found).tobytes().hex())
                print(name, norm, eps, figure["accuracy"], f"{time.time() - start:.0f} s", flush=True)
                write(path, clean, logits, list(known.values()))


def percent(stands):
    return round(100 * float(stands.mean()), 1)


def write(path, clean, logits, figures):
    rows = []
    for norm, eps in BUDGETS:
        of = {f["attack"]: f for f in figures if (f["norm"], f["eps"]) == (norm, eps) and f["accuracy"]}
        rows += [of[name] for name in attacks() if name in of]
        if of.keys() >= set(STANDARD):
            each = [np.frombuffer(bytes.fromhex(of[name]["stands"]), np.uint8) for name in STANDARD]
            found = np.bitwise_and.reduce(each)
            figure = {"attack": "standard", "norm": norm, "eps": eps, "tool": "torchattacks", "settings": "all four"}
            accuracy = percent(np.unpackbits(found, count=IMAGES))
            rows.append({**figure, "accuracy": [accuracy], "stands": found.tobytes().hex()})
    head = {
        "what": "accuracy: percent of the first images of t10k, for each run; stands: of the first run, one bit an image",
        "date": datetime.date.today().isoformat(),
        "versions": {tool: version(tool) for tool in ["torch", "torchattacks", "foolbox"]},
        "images": IMAGES,
        "clean": clean,
        "logits": logits,
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = [f"  {json.dumps(row)}" for row in rows]
    path.write_text("{\n" + "\n".join(lines) + '\n "attacks": [\n' + ",\n".join(rows) + "\n ]\n}\n")


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    match sys.argv[1:]:
        case ["train"]:
            train()
        case ["measure"]:
            measure()
        case _:
            sys.exit(__doc__)
