"""Writes torch.safetensors: inputs, outputs and gradients computed by PyTorch in float64.

    pip install torch numpy safetensors && python make_torch_golden.py

Every loss is sum(y * weight) with a stored weight, so gradients are those of a generic loss.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(20261)
torch.set_default_dtype(torch.float64)
out = {}


def put(name, tensor):
    assert name not in out
    out[name] = tensor.detach().clone().contiguous()


def case(name, inputs, options, f):
    """Stores inputs, integer options, the output, the loss weight and the gradient of each input."""
    inputs = {k: v.clone().requires_grad_() for k, v in inputs.items()}
    y = f(**inputs)
    weight = torch.randn_like(y)
    gradients = torch.autograd.grad((y * weight).sum(), list(inputs.values()))
    put(f"{name}.options", torch.tensor(options, dtype=torch.int64))
    for (key, value), gradient in zip(inputs.items(), gradients):
        put(f"{name}.{key}", value)
        put(f"{name}.d{key}", gradient)
    put(f"{name}.y", y)
    put(f"{name}.weight", weight)


# batch, in, h, w, out, kh, kw, stride, padding: parities of stride 2, 1x1, 7x7, a stride that leaves a rest.
for i, (b, ci, h, w, co, kh, kw, s, p) in enumerate(
    [
        (2, 3, 6, 7, 4, 3, 3, 2, 1),
        (2, 3, 7, 6, 4, 3, 3, 2, 1),
        (3, 2, 5, 5, 3, 3, 3, 1, 1),
        (2, 4, 6, 5, 5, 1, 1, 1, 0),
        (2, 4, 6, 5, 5, 1, 1, 2, 0),
        (1, 3, 11, 10, 2, 7, 7, 2, 3),
        (2, 2, 9, 4, 3, 5, 2, 3, 2),
    ]
):
    case(
        f"conv.{i}",
        {"x": torch.randn(b, ci, h, w), "kernel": torch.randn(co, ci, kh, kw), "bias": torch.randn(co)},
        [s, p],
        lambda x, kernel, bias: F.conv2d(x, kernel, bias, stride=s, padding=p),
    )

for i, (h, w, k, s, p) in enumerate([(7, 6, 3, 2, 1), (6, 8, 2, 2, 0), (5, 5, 3, 1, 1)]):
    # Few distinct values, so that ties occur.
    x = torch.randint(-2, 3, (2, 3, h, w)).double()
    case(f"pool.{i}", {"x": x}, [k, s, p], lambda x: F.max_pool2d(x, k, s, p))

for i, shape in enumerate([(4, 3, 5, 6), (7, 5)]):
    c = shape[1]
    x = torch.randn(shape) * 2 + 3
    mean, var = torch.randn(c), torch.rand(c) + 0.5
    put(f"norm.{i}.mean", mean)
    put(f"norm.{i}.variance", var)
    for mode in ("train", "eval"):
        case(
            f"norm.{i}.{mode}",
            {"x": x, "gamma": torch.randn(c), "beta": torch.randn(c)},
            [],
            lambda x, gamma, beta: F.batch_norm(x, mean, var, gamma, beta, mode == "train", 0.1, 1e-5),
        )
        if mode == "train":  # changed in place
            put(f"norm.{i}.mean_after", mean)
            put(f"norm.{i}.variance_after", var)

case(
    "linear",
    {"x": torch.randn(3, 4), "weight_": torch.randn(5, 4), "bias": torch.randn(5)},
    [],
    lambda x, weight_, bias: F.relu(F.linear(x, weight_, bias)),
)
# Kinks: ReLU at 0, ties of maximum and minimum.
case("relu", {"x": torch.tensor([-1.0, -0.0, 0.0, 2.0])}, [], lambda x: F.relu(x))
case(
    "max_min",
    {"x": torch.randint(-1, 2, (2, 4, 2, 3)).double()},
    [],
    lambda x: torch.cat([torch.maximum(*x.chunk(2, 1)), torch.minimum(*x.chunk(2, 1))], 1),
)

STEPS, LR = 5, 0.05
for name, make in {
    "sgd": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, weight_decay=0.01),
    "sgd_plain": lambda p: torch.optim.SGD(p, lr=LR, weight_decay=0.01),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=LR, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=LR, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
}.items():
    p = torch.randn(3, 2, requires_grad=True)
    target = torch.randn(3, 2)
    put(f"{name}.start", p)
    put(f"{name}.target", target)
    optimizer = make([p])
    for _ in range(STEPS):
        optimizer.zero_grad()
        ((p - target) ** 2).sum().backward()
        # Clipping by global norm on top, as training does.
        norm = torch.nn.utils.clip_grad_norm_([p], 1.5)
        optimizer.step()
    put(f"{name}.end", p)
    put(f"{name}.last_norm", norm)

save_file(
    out, Path(__file__).with_name("torch.safetensors"), metadata={"torch": torch.__version__}
)
