"""Loads the weights of a run into plain PyTorch modules by name, and computes the logits of every report sample.

    python load_weights.py RUN DATA [LOGITS.npy]

RUN is a run directory, DATA the data set's directory. Needs torch, numpy and safetensors. See docs/python.md.
"""
import json
import math
import sys
import tomllib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F


def read(path):
    """Weights by name, and the architecture that the file's metadata describe."""
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        return weights, json.loads(json.loads(file.metadata()["crmt"])["architecture"])


def polar(w):
    """The nearest matrix with orthonormal rows (or columns, if it has more rows than columns)."""
    u, _, v = torch.linalg.svd(w.double(), full_matrices=False)
    return (u @ v).to(w.dtype)


def empty(shape):
    return nn.Parameter(torch.empty(shape))


def linear(w):
    return nn.Linear(w.shape[1], w.shape[0])


def conv(w, stride, bias=True):
    return nn.Conv2d(w.shape[1], w.shape[0], w.shape[2], stride, w.shape[2] // 2, bias=bias)


class Residual(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, w, stride):
        super().__init__()
        out = w("conv1").shape[0]
        self.conv1, self.bn1 = conv(w("conv1"), stride, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = conv(w("conv2"), 1, bias=False), nn.BatchNorm2d(out)
        shortcut = w("conv1").shape[1] != out
        self.downsample = nn.Sequential(conv(w("downsample.0"), stride, bias=False), nn.BatchNorm2d(out)) if shortcut else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class Clips(nn.Sequential):
    """The frames of a clip share a network; their features are averaged."""

    def forward(self, x):
        if x.dim() == 4:
            return super().forward(x)
        frames = x.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)


class AolConv2d(nn.Module):
    """A convolution that is divided by what makes it 1-Lipschitz."""

    def __init__(self, w):
        super().__init__()
        self.weight, self.bias = empty(w.shape), empty(w.shape[:1])

    def forward(self, x):
        out, inputs, size, _ = self.weight.shape
        n = max(out, inputs)
        angles = torch.outer(torch.arange(out) + 0.5, torch.arange(inputs) + 0.5).double() * math.pi / n
        kernel = self.weight.clone()
        kernel[:, :, size // 2, size // 2] += (math.sqrt(2 / n) * angles.cos()).to(kernel.dtype)
        turned = kernel.transpose(0, 1)
        sums = F.conv2d(turned, turned, padding=size - 1).abs().sum((1, 2, 3))
        return F.conv2d(x, kernel / (sums + 1e-12).sqrt()[None, :, None, None], self.bias, padding=size // 2)


class SllConv2d(nn.Module):
    """A 1-Lipschitz residual block."""

    def __init__(self, w):
        super().__init__()
        self.weight, self.bias, self.log_q = empty(w.shape), empty(w.shape[:1]), empty(w.shape[:1])

    def forward(self, x):
        size, q = self.weight.shape[-1], self.log_q.exp()
        gram = F.conv2d(self.weight, self.weight, padding=size - 1).abs().sum((2, 3))
        scale = 2 / (gram @ q / q + 1e-12)
        hidden = F.relu(F.conv2d(x, self.weight, self.bias, padding=size // 2))
        return x - F.conv_transpose2d(hidden * scale[:, None, None], self.weight, padding=size // 2)


class OrthonormalLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, polar(self.weight), self.bias)


class MaxMin(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)


def encoder(config, shape, w):
    """`w(name)` is the weight of the layer of that name."""
    kind, layers = config["kind"], OrderedDict()

    def add(name, layer):
        layers[name] = layer

    if kind in ("linear", "mlp"):
        add("flatten", nn.Flatten())
        for i in range(1, config.get("depth", 0) + 1):
            add(f"fc{i}", linear(w(f"fc{i}")))
            add(f"relu{i}", nn.ReLU())
        add("fc", linear(w("fc")))
    elif kind == "cnn":
        for i in range(1, config["depth"] + 1):
            add(f"conv{i}", conv(w(f"conv{i}"), 2))
            if config["batch_norm"]:
                add(f"bn{i}", nn.BatchNorm2d(w(f"conv{i}").shape[0]))
            add(f"relu{i}", nn.ReLU())
        add("flatten", nn.Flatten())
        add("fc", linear(w("fc")))
    elif kind == "resnet18":
        add("conv1", conv(w("conv1"), 2, bias=False))
        add("bn1", nn.BatchNorm2d(64))
        add("relu", nn.ReLU())
        add("maxpool", nn.MaxPool2d(3, 2, 1))
        for i in range(1, 5):
            block = lambda j, stride: Residual(lambda name: w(f"layer{i}.{j}.{name}"), stride)
            add(f"layer{i}", nn.Sequential(block(0, 1 if i == 1 else 2), block(1, 1)))
        add("mean", nn.AdaptiveAvgPool2d(1))
        add("flatten", nn.Flatten())
        return Clips(layers)
    elif kind == "lipschitz":
        blocks = lambda name: nn.Sequential(*(SllConv2d(w(f"{name}.{i}")) for i in range(config["blocks"])))
        if len(shape) == 3:
            missing = [-n % 8 for n in shape[1:]]
            top, left = (n // 2 for n in missing)
            add("pad", nn.ZeroPad2d((left, missing[1] - left, top, missing[0] - top)))
            for i in (1, 2):
                add(f"depth{i}", nn.PixelUnshuffle(2))
                add(f"aol{i}", AolConv2d(w(f"aol{i}")))
                add(f"maxmin{i}", MaxMin())
                add(f"sll{i}", blocks(f"sll{i}"))
            add("depth3", nn.PixelUnshuffle(2))
        else:
            add("in", OrthonormalLinear(*w("in").T.shape))
            add("maxmin", MaxMin())
            add("unflatten", nn.Unflatten(1, (-1, 1, 1)))
            add("sll", blocks("sll"))
        add("flatten", nn.Flatten())
        for i in range(1, len(config["hidden"]) + 2):
            add(f"fc{i}", OrthonormalLinear(*w(f"fc{i}").T.shape))
            add(f"pairs{i}", MaxMin())
    else:
        raise SystemExit(f"encoder `{kind}` is not known here")
    return nn.Sequential(layers)


class Head(nn.Module):
    """h = sum over modalities of a * (W features), and the bias."""

    def __init__(self, config, names, weights):
        super().__init__()
        self.kind, self.rows = config["kind"], config.get("rows")
        for name in names:
            own = {key: value for key, value in weights.items() if key.startswith(f"head.{name}.")}
            parameters = {key.rsplit(".", 1)[1]: empty(value.shape) for key, value in own.items()}
            self.add_module(name, nn.ParameterDict(parameters))
        self.names, self.bias = names, empty(weights["head.bias"].shape)

    def constrained(self, w):
        if self.kind == "concat":
            return w
        if self.rows == "orthonormal":
            return polar(w)
        w = w - w.mean(1, keepdim=True)
        return w / w.norm(dim=1, keepdim=True)

    def integration(self):
        heads = [getattr(self, name) for name in self.names]
        if self.kind == "concat":
            return [torch.ones_like(self.bias) for _ in heads]
        if self.kind == "orthonormal":
            return [head["a"] for head in heads]
        positive = torch.stack([F.softplus(head["raw_a"], threshold=1e9) for head in heads])
        return positive / positive.square().mean().sqrt()

    def forward(self, features):
        rows = [self.constrained(getattr(self, name)["weight"]) for name in self.names]
        return self.bias + sum(a * F.linear(x, w) for a, x, w in zip(self.integration(), features, rows))


class Model(nn.Module):
    def __init__(self, weights, architecture):
        super().__init__()
        modalities = architecture["modalities"]
        self.names = [m["name"] for m in modalities]

        def build(m):
            return encoder(m["encoder"], m["shape"], lambda layer: weights[f"encoders.{m['name']}.{layer}.weight"])

        self.encoders = nn.ModuleDict({m["name"]: build(m) for m in modalities})
        self.head = Head(architecture["head"], self.names, weights)

    def forward(self, inputs):
        return self.head([self.encoders[name](x) for name, x in zip(self.names, inputs)])


def load(run):
    """The model of a run, as attacks and certificates see it."""
    weights, architecture = read(Path(run) / "model.safetensors")
    model = Model(weights, architecture)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # PyTorch counts batches; nothing here depends on it.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise SystemExit(f"{run}: missing {missing}, unexpected {unexpected}")
    return model.eval()


def report_split(data, names):
    """Inputs of every report sample, one array for each modality, and labels."""
    data = Path(data)
    specs = tomllib.loads((data / "dataset.toml").read_text())["modalities"]
    index = data / "report.index.npy"
    inputs = []
    for name in names:
        place = [spec["name"] for spec in specs].index(name)
        x = np.load(data / f"report.{name}.npy")
        if index.exists():
            x = x[np.load(index)[:, place]]
        inputs.append(torch.from_numpy((x / specs[place].get("divide", 1)).astype(np.float32)))
    return inputs, torch.from_numpy(np.load(data / "report.labels.npy").astype(np.int64))


def main(run, data, out=None):
    model = load(run)
    inputs, labels = report_split(data, model.names)
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in zip(*(x.split(250) for x in inputs))])
    print(f"{(logits.argmax(1) == labels).double().mean():.4f} of {len(labels)} report samples are right")
    if out:
        np.save(out, logits.numpy())


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
