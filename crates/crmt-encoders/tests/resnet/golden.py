#!/usr/bin/env python3
"""Writes golden.json: what PyTorch computes with a ResNet-18 whose parameters and inputs are given by a formula (below), in
float64. Written from the architecture's description (He et al., 2016), with torchvision's names.
Install: python3 -m venv v && v/bin/pip install torch numpy. Run: v/bin/python golden.py > golden.json
"""
import json
import math

import torch
import torch.nn as nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for i, (outputs, stride) in enumerate([(64, 1), (128, 2), (256, 2), (512, 2)], 1):
            setattr(self, f"layer{i}", nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1)))
            inputs = outputs

    def forward(self, x):
        frames = None
        if x.dim() == 5:
            batch, channels, frames, height, width = x.shape
            x = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
        y = self.pool(torch.relu(self.bn1(self.conv1(x))))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y)))).mean((2, 3))
        return y if frames is None else y.view(-1, frames, 512).mean(1)


def formula(shape, seed, scale, shift=0.0):
    """shift + scale * u, u in [-1, 1) from the element's number and the seed, exact in integers."""
    i = torch.arange(math.prod(shape), dtype=torch.int64)
    u = ((i * 7919 + seed * 104729) % 10007).double() / 10007 * 2 - 1
    return (shift + scale * u).reshape(shape)


def fill(model):
    for seed, (name, t) in enumerate(sorted((n, t) for n, t in model.state_dict().items() if "num_batches" not in n)):
        if name.endswith("running_var"):
            value = formula(t.shape, seed, 0.3, 1.0)
        elif t.dim() == 4:
            value = formula(t.shape, seed, math.sqrt(3 * 2 / (t.shape[1] * t.shape[2] * t.shape[3])))
        elif name.endswith("weight"):
            value = formula(t.shape, seed, 0.3, 1.0)
        else:
            value = formula(t.shape, seed, 0.2)
        t.copy_(value)


out = {}
for case, shape in {"image": [2, 3, 40, 36], "clip": [2, 1, 2, 33, 32]}.items():
    for mode in ("eval", "train"):
        model = ResNet18(shape[1]).double()
        with torch.no_grad():
            fill(model)
        model.train(mode == "train")
        x = formula(shape, 1000, 1.0).requires_grad_(True)
        y = model(x)
        (y * formula(y.shape, 2000, 1.0)).sum().backward()
        sums = {n: [p.grad.sum().item(), p.grad.square().sum().item()] for n, p in model.named_parameters()}
        stats = {n: t.sum().item() for n, t in model.state_dict().items() if "running" in n}
        out[f"{case}.{mode}"] = {
            "shape": shape,
            "features": y.flatten()[::37].tolist(),
            "input_gradient": x.grad.flatten()[::97].tolist(),
            "parameter_gradients": sums,
            "running": stats,
        }
print(json.dumps(out, indent=1))
