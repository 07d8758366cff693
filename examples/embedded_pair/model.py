"""A small Llama: RMSNorm, rotary positions, SwiGLU; the exact function that llama.cpp computes for arch `llama`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of a model; `context` is only written into the file, no weight depends on it."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    vocabulary: int = 512
    context: int = 2048
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5


SIZES = {
    "target": Config(layers=4, width=160, heads=5, feed_forward=384),
    "draft": Config(layers=3, width=48, heads=3, feed_forward=144),
    "tiny": Config(layers=2, width=32, heads=2, feed_forward=64),  # for tests
    # With a GPU there is no reason to stay at two million parameters; still under 25 MB in F16.
    "large": Config(layers=6, width=320, heads=10, feed_forward=896),
}


class Block(nn.Module):
    """Attention and feed-forward; matrices that are used together are stacked, so that Muon treats each on its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, config.feed_forward
        self.heads, self.eps = config.heads, config.norm_eps
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.feed_forward_norm = nn.Parameter(torch.ones(width))
        self.attention = nn.Parameter(torch.randn(4, width, width) * width**-0.5)  # query, key, value, output
        self.gate_up = nn.Parameter(torch.randn(2, hidden, width) * width**-0.5)
        self.down = nn.Parameter(torch.zeros(width, hidden))
        with torch.no_grad():
            self.attention[3].zero_()  # each block starts as the identity

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        h = F.rms_norm(x, (width,), self.attention_norm, self.eps)
        qkv = F.linear(h, self.attention[:3].reshape(3 * width, width))
        query, key, value = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotate(query, cos, sin), rotate(key, cos, sin), value, is_causal=True)
        x = x + F.linear(attended.transpose(1, 2).reshape(batch, length, width), self.attention[3])
        h = F.rms_norm(x, (width,), self.feed_forward_norm, self.eps)
        gate, up = F.linear(h, self.gate_up.reshape(-1, width)).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Llama(nn.Module):
    """Ids (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.vocabulary, config.width) * 0.5)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        self.head = nn.Parameter(torch.zeros(config.vocabulary, config.width))

    def hidden(self, ids: Tensor) -> Tensor:
        """The normalised last hidden states; `head` turns them into logits."""
        cos, sin = rotation(self.config, ids.shape[1], ids.device)
        x = F.embedding(ids, self.embedding)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.rms_norm(x, (self.config.width,), self.norm, self.config.norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.hidden(ids), self.head)

    def matrices(self) -> list[nn.Parameter]:
        """What Muon trains: everything inside blocks that is a matrix or a stack of them."""
        return [parameter for parameter in self.blocks.parameters() if parameter.ndim > 1]

    def others(self) -> list[nn.Parameter]:
        """What AdamW trains: embedding, head and norms."""
        matrices = {id(parameter) for parameter in self.matrices()}
        return [parameter for parameter in self.parameters() if id(parameter) not in matrices]


def rotation(config: Config, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, head width / 2) of rotary positions."""
    half = torch.arange(0, config.width // config.heads, 2, dtype=torch.float32, device=device)
    frequencies = config.rope_base ** (-half * config.heads / config.width)
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs: llama.cpp's own order for arch `llama`, so weights need no permutation on export."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
