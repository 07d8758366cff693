"""Train one model of the embedded pair, on CPU or CUDA; killed and started again, it goes on from its checkpoint.

python train.py --size target --minutes 90 --out /tmp/pair/target
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import data
import numpy as np
import torch
import torch.nn.functional as F
from model import SIZES, Config, Llama
from muon import Muon
from safetensors.torch import load_file, save_file

MATRIX_RATE, OTHER_RATE = 0.02, 0.004


@dataclass
class Progress:
    """How far a run is; `history` holds (tokens, loss, right) of every report."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])

    def share(self, tokens: int | None, minutes: float | None) -> float:
        """Done over planned, by whichever limit is nearer."""
        return max(self.tokens / tokens if tokens else 0.0, self.seconds / (60 * minutes) if minutes else 0.0)


def rate_factor(share: float, step: int) -> float:
    """Learning rate: a short warm-up, constant to 35 %, then linear to zero."""
    return min(1.0, (step + 1) / 40) * min(1.0, max(0.0, 1 - share) / 0.65)


def make_optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    return [
        Muon(model.matrices(), lr=MATRIX_RATE, decay=0.1),
        torch.optim.AdamW(model.others(), lr=OTHER_RATE, betas=(0.9, 0.97), eps=1e-10, weight_decay=0.0),
    ]


def loss_of(model: Llama, batch: data.Batch, device: str) -> tuple[torch.Tensor, float]:
    """Summed weighted cross-entropy in nats, and the sum of weights. Only positions with a weight get logits."""
    ids = torch.from_numpy(batch.ids).to(device)
    weights = torch.from_numpy(batch.weights).to(device)[:, 1:]
    used = weights > 0
    hidden = model.hidden(ids[:, :-1])[used]
    losses = F.cross_entropy(F.linear(hidden, model.head).float(), ids[:, 1:][used], reduction="none")
    return (losses * weights[used]).sum(), float(batch.weights[:, 1:].sum())


def train_step(
    model: Llama, optimizers: list[torch.optim.Optimizer], parts: list[data.Batch], factor: float, device: str
) -> float:
    """One optimizer step over several batches; returns the mean loss."""
    total = sum(float(part.weights[:, 1:].sum()) for part in parts)
    mean = 0.0
    for part in parts:
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            loss, _ = loss_of(model, part, device)
        (loss / total).backward()
        mean += loss.item() / total
    for optimizer, rate in zip(optimizers, (MATRIX_RATE, OTHER_RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad()
    return mean


@torch.no_grad()
def digits_right(model: Llama, batch: data.Batch, digits: list[int], device: str) -> float:
    """Share of held-out solutions whose every digit the model would have picked among digits, given the text before.

    A cheap stand-in for greedy accuracy: wordings are free, numbers are not.
    """
    ids = torch.from_numpy(batch.ids).to(device)
    picks = torch.tensor(digits, device=device)
    right: list[bool] = []
    for row, weights in zip(ids, batch.weights, strict=True):
        end = int(np.nonzero(weights)[0][-1]) + 1
        best = picks[model(row[None, : end - 1])[0][:, picks].argmax(-1)]
        counted = torch.isin(row[1:end], picks) & torch.from_numpy(weights[1:end] > 0).to(device)
        right.append(bool((best == row[1:end])[counted].all()))
    return sum(right) / len(right)


def save(out: Path, model: Llama, optimizers: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Write the whole state; a run killed meanwhile still finds the state before."""
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{index}.{key}.{name}"] = value.contiguous()
    meta = {"config": json.dumps(asdict(model.config)), "progress": json.dumps(asdict(progress))}
    save_file(tensors, out / "checkpoint.tmp", metadata=meta)
    os.replace(out / "checkpoint.tmp", out / "checkpoint.safetensors")


def read_meta(path: Path) -> dict[str, Any]:
    """The `config` and `progress` of a checkpoint."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {key: json.loads(value) for key, value in header["__metadata__"].items()}


def load_model(path: Path) -> Llama:
    """The model of a checkpoint."""
    model = Llama(Config(**read_meta(path)["config"]))
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    return model


def load_optimizers(path: Path, optimizers: list[torch.optim.Optimizer]) -> Progress:
    """Bring optimizers to a checkpoint's state; returns how far it was."""
    tensors = load_file(path)
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            kind, *rest = name.split(".")
            if kind == "optimizer" and int(rest[0]) == index:
                # A copy: what is loaded stays mapped, and Windows replaces no file that is.
                state.setdefault(int(rest[1]), {})[rest[2]] = value.clone()
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    saved = read_meta(path)["progress"]
    return Progress(**{**saved, "history": [tuple(entry) for entry in saved["history"]]})


def plot(out: Path, history: list[tuple[int, float, float]]) -> None:
    """Loss and held-out accuracy over tokens, as `loss.png`; skipped without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    tokens = [entry[0] / 1e6 for entry in history]
    axis.plot(tokens, [entry[1] for entry in history], color="tab:blue")
    axis.set(xlabel="million tokens", ylabel="loss (nats per weighted token)", yscale="log")
    twin = axis.twinx()
    twin.plot(tokens, [entry[2] for entry in history], color="tab:orange")
    twin.set(ylabel="held-out problems with every digit right", ylim=(0, 1))
    figure.savefig(out / "loss.png", dpi=120)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train one model of the embedded pair.")
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--tokens", type=int, help="stop after so many training tokens")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes of training, restarts not counted")
    parser.add_argument("--steps", type=int, help="pause after so many steps of this process")
    parser.add_argument("--rows", type=int, default=64, help="conversations per step")
    parser.add_argument("--report", type=int, default=50, help="steps between progress lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, plot and tokenizer")
    options = parser.parse_args(arguments)
    if options.tokens is None and options.minutes is None:
        parser.error("say --tokens or --minutes: the learning rate is planned by it")
    for name in ("tokens", "minutes", "steps", "rows", "report", "threads"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            parser.error(f"--{name} is {value}: it is more than 0")
    return options


def report(options: argparse.Namespace, progress: Progress, share: float, speed: float) -> None:
    """One line: where the run is, how fast, and how long it will take."""
    tokens, loss, right = progress.history[-1]
    left = progress.seconds / share - progress.seconds if share else 0.0
    print(
        f"{options.size} step {progress.step} tokens {tokens / 1e6:.2f}M loss {loss:.4f} digits right {right:.3f} "
        f"{speed:.0f} tokens/s, {left / 60:.1f} min left",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = data.load_tokenizer(options.out / "tokenizer.json")
    checkpoint = options.out / "checkpoint.safetensors"
    model = (load_model(checkpoint) if checkpoint.exists() else Llama(SIZES[options.size])).to(options.device)
    if model.config != SIZES[options.size]:
        raise SystemExit(f"{options.out} holds a run of another size: give that --size, or another --out")
    optimizers = make_optimizers(model)
    progress = load_optimizers(checkpoint, optimizers) if checkpoint.exists() else Progress()
    held_out = data.held_out_batch(tokenizer, 100)
    digits = [tokenizer.token_to_id(digit) for digit in "0123456789"]
    stop_at = progress.step + options.steps if options.steps else None
    losses: list[float] = []
    began, since = time.monotonic(), progress.tokens
    while (share := progress.share(options.tokens, options.minutes)) < 1 and progress.step != stop_at:
        tick = time.monotonic()
        parts = data.batches(tokenizer, options.seed, progress.step, options.rows)
        factor = rate_factor(share, progress.step)
        losses.append(train_step(model, optimizers, parts, factor, options.device))
        progress.step += 1
        progress.tokens += sum(int((part.weights > 0).sum()) for part in parts)
        progress.seconds += time.monotonic() - tick
        if progress.step % options.report == 0:
            right = digits_right(model, held_out, digits, options.device)
            progress.history.append((progress.tokens, sum(losses) / len(losses), right))
            speed = (progress.tokens - since) / (time.monotonic() - began)
            report(options, progress, progress.share(options.tokens, options.minutes), speed)
            losses, began, since = [], time.monotonic(), progress.tokens
            save(options.out, model, optimizers, progress)
    save(options.out, model, optimizers, progress)
    if progress.history:
        plot(options.out, progress.history)


if __name__ == "__main__":
    main()
