"""Train a small language model on Python's own source twice, and see that every weight has the same bits.

    python examples/training/train.py [--steps 150] [--width 64] [--layers 2] [--out out]

A decoder that reads bytes, with ALiBi attention written as a plain PyTorch function. Its slopes are learned: they are a
captured tensor, and get their gradient from the compiled kernel like q, k and v. Writes loss.json and, with matplotlib
(pip install 'tilewright[plot]'), loss.svg.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tilewright as tw

TEXTS = ("argparse.py", "ast.py", "collections/__init__.py", "dataclasses.py", "heapq.py", "inspect.py", "random.py")
BYTES = 256
HEAD_DIM = 32
SEED = 1


@dataclass(frozen=True)
class Sizes:
    """What is trained, and for how long."""

    steps: int = 150
    width: int = 64
    layers: int = 2
    length: int = 256
    batch: int = 4

    @property
    def heads(self) -> int:
        """Of every layer."""
        return self.width // HEAD_DIM


def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    """Causal attention with a penalty on distance. q, k, v [B, H, N, D], slopes [H] -> o [B, H, N, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)
    scores = q @ k.mT * q.shape[-1] ** -0.5 + slopes[:, None, None] * (j - i)
    return scores.masked_fill(j > i, float("-inf")).softmax(-1) @ v


attend = tw.compile(alibi, backward=True, deterministic=True)


class Block(nn.Module):
    """Attention and a small network, each added to what comes in [B, N, width]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.width) for _ in range(2))
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width, bias=False)
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)
        self.up, self.down = nn.Linear(sizes.width, 4 * sizes.width), nn.Linear(4 * sizes.width, sizes.width)
        self.slopes = nn.Parameter(2.0 ** (-8.0 / self.heads * torch.arange(1, self.heads + 1)))

    def forward(self, x: Tensor) -> Tensor:
        """One layer."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, HEAD_DIM)
        o = attend(*qkv.permute(2, 0, 3, 1, 4), self.slopes)
        x = x + self.out(o.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Model(nn.Module):
    """Bytes [B, N] -> logits of the next ones [B, N, 256]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, sizes.width)
        self.blocks = nn.Sequential(*(Block(sizes) for _ in range(sizes.layers)))
        self.norm, self.head = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, BYTES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.norm(self.blocks(self.embedding(tokens))))


def text() -> Tensor:
    """Some of the standard library's source, as bytes."""
    folder = Path(os.__file__).parent
    joined = b"".join((folder / name).read_bytes() for name in TEXTS)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()


def train(sizes: Sizes, data: Tensor) -> tuple[Model, list[float]]:
    """A model from the same seed and the same batches every time, and its loss at every step."""
    torch.manual_seed(SEED)
    model = Model(sizes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(sizes.steps):
        starts = torch.randint(len(data) - sizes.length - 1, (sizes.batch,))
        batch = torch.stack([data[start : start + sizes.length + 1] for start in starts])
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model, losses


def digest(model: Model) -> str:
    """The sha256 of all weights, in the order of their names."""
    found = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(weight.contiguous().numpy().tobytes())
    return found.hexdigest()


def gradients(threads: int, sizes: Sizes) -> tuple[Tensor, ...]:
    """o and the gradients of q, k, v and the slopes, of the same drawn tensors, on so many threads."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (sizes.batch, sizes.heads, sizes.length, HEAD_DIM)
    q, k, v, d_o = (torch.randn(shape, generator=generator) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v, torch.rand(sizes.heads, generator=generator))]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        o = attend(*leaves)
        return o.detach(), *torch.autograd.grad(o, leaves, d_o)
    finally:
        torch.set_num_threads(before)


def plot(losses: list[float], path: Path) -> None:
    """The loss at every step."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot: pip install 'tilewright[plot]'")
        return
    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "loss"
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(range(1, len(losses) + 1), losses, color="#c2410c", linewidth=1.2)
    axes.set(xlabel="step", ylabel="loss, nats a byte", title="Two runs, one curve: every weight has the same bits")
    axes.grid(color="#e7ecf1")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def sizes_and_folder(arguments: list[str] | None) -> tuple[Sizes, Path]:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=Path("out"))
    asked = vars(parser.parse_args(arguments))
    folder = asked.pop("out")
    return Sizes(**asked), folder


def main(arguments: list[str] | None = None) -> int:
    """Train twice, compare, write; 1 where anything differs."""
    sizes, folder = sizes_and_folder(arguments)
    torch.use_deterministic_algorithms(True)  # of torch's own layers
    (first, losses), (second, again) = (train(sizes, text()) for _ in range(2))
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    is_same = all(torch.equal(a, b) for a, b in pairs) and losses == again
    one, *others = (gradients(threads, sizes) for threads in (1, 2, 3, 4))
    is_kept = all(torch.equal(a, b) for other in others for a, b in zip(one, other, strict=True))
    digests = [digest(first), digest(second)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {sizes.steps} steps")
    print(f"weights of the first run   {digests[0]}\nweights of the second run  {digests[1]}")
    print("identical" if is_same else "DIFFERENT", "weights and losses")
    print("identical" if is_kept else "DIFFERENT", "attention and its gradients on 1, 2, 3 and 4 threads")
    folder.mkdir(parents=True, exist_ok=True)
    told = {"sizes": vars(sizes), "sha256": digests, "is_same": is_same, "is_same_on_threads": is_kept}
    told["losses"] = [round(loss, 4) for loss in losses]
    (folder / "loss.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    plot(losses, folder / "loss.svg")
    return 0 if is_same and is_kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
