"""What a token on the wire costs: many chains on a server that writes as fast as a real one.

    python tests/benchmarks/bench_wire.py [--chains 8 64 256]

The server, in a process of its own, speaks vLLM's wire format or SGLang's and has its texts ready: eight steps of 60
tokens and an answer. It gives every stream a token each 5 ms and 0.05 ms a stream, as a 1.5 B model on a GPU does, and
scores at once. All else is A1: engine, HTTP, events, JSON, tokens and text. `alone` is how long the draft's tokens
would take if A1 took no time; CPU is that of A1's process.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from a1agent import A1  # noqa: E402
from a1agent.backends.local_tokenizer import load_tokenizer  # noqa: E402
from tests.benchmarks.tables import head, row  # noqa: E402
from tests.simulated import DRAFT_1B  # noqa: E402

TOKENIZER = ROOT / "a1agent" / "embedded" / "draft.gguf"
STEPS, TOKENS = 8, 60


def logprob(place: int) -> float:
    """Of the token at a place of a text, whatever it is."""
    return -1.2 - place * 2654435761 % 1009 / 500


@dataclass(eq=False)
class Stream:
    """A text on its way: what is left of it, and what was not sent yet. `told`: all that was sent, for SGLang."""

    writer: asyncio.StreamWriter
    left: list[int]
    place: int
    every: int
    unsent: list[int] = field(default_factory=list[int])
    told: list[tuple[float, int, None]] = field(default_factory=list[tuple[float, int, None]])
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Server:
    """Both wire formats, over texts that are ready."""

    def __init__(self) -> None:
        tokenizer = load_tokenizer(str(TOKENIZER))
        self.tokenize, self.piece = tokenizer.tokenize, tokenizer.piece
        self.word, self.blank = self.tokenize("a")[0], self.tokenize("\n\n")
        self.end = min(tokenizer.end_ids)
        self.streams: list[Stream] = []

    async def run(self) -> None:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        due = time.perf_counter()
        while True:
            due = max(due, time.perf_counter() - 0.05) + DRAFT_1B.step + DRAFT_1B.sequence * len(self.streams)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            for stream in self.streams:
                self.step(stream)
            self.streams = [stream for stream in self.streams if not stream.ended.is_set()]

    def step(self, stream: Stream) -> None:
        if not stream.left or stream.writer.is_closing():
            stream.ended.set()
            return
        stream.unsent.append(stream.left.pop(0))
        if len(stream.unsent) >= stream.every or not stream.left:
            self.send(stream)

    def send(self, stream: Stream) -> None:
        raise NotImplementedError

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = request.lower().partition("content-length:")[2].split("\r\n")[0]
                body = json.loads(await reader.readexactly(int(length))) if length else {}
                await self.answer(request.split()[1], body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if body.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            ids, limit, every = self.asked(body)
            stream = Stream(writer, self.text(ids)[:limit], len(ids), every)
            self.streams.append(stream)
            await stream.ended.wait()
            writer.write(b"0\r\n\r\n")
            return
        reply = json.dumps(self.reply(path, body)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(reply))
        writer.write(reply)

    def text(self, ids: list[int]) -> list[int]:
        """What follows: a step and more, or the answer."""
        if ids.count(self.word) // (TOKENS - len(self.blank)) >= STEPS:
            return [*self.tokenize("so it is \\boxed{7}"), self.end]
        return ([self.word] * (TOKENS - len(self.blank)) + self.blank) * 4

    def asked(self, body: dict[str, Any]) -> tuple[list[int], int, int]:
        """The ids of a text, how many may follow, and how many go into an event."""
        raise NotImplementedError

    def reply(self, path: str, body: dict[str, Any]) -> Any:
        """What a path answers without a stream."""
        match path:
            case "/v1/models":
                return {"data": [{"id": "m", "max_model_len": 4096}]}
            case "/tokenize":
                return {"tokens": self.tokenize(body["prompt"]), "max_model_len": 4096}
            case _:
                raise NotImplementedError(path)

    def event(self, stream: Stream, event: dict[str, Any]) -> None:
        data = f"data: {json.dumps(event)}\n\n".encode()
        stream.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def said(self, ids: list[int]) -> str:
        return b"".join(self.piece(token) for token in ids if token != self.end).decode()


class Vllm(Server):
    """vLLM, as of 0.32."""

    def asked(self, body: dict[str, Any]) -> tuple[list[int], int, int]:
        return body["prompt"], body["max_tokens"], body.get("stream_interval") or 1

    def reply(self, path: str, body: dict[str, Any]) -> Any:
        match path:
            case "/version":
                return {"version": "0.32.0"}
            case "/inference/v1/generate":
                start = body["sampling_params"]["prompt_logprob_start"] + 1
                file = io.BytesIO()
                np.save(file, np.array([[logprob(i)] for i in range(start, len(body["token_ids"]))], np.float32))
                return {"choices": [{}], "prompt_token_id_logprobs": base64.b64encode(file.getvalue()).decode()}
            case "/v1/completions":
                ids = body["prompt"]
                told = [None, *({str(token): {"logprob": logprob(i)}} for i, token in enumerate(ids) if i)]
                return {"choices": [{"text": "", "prompt_logprobs": told if "prompt_logprobs" in body else None}]}
            case _:
                return super().reply(path, body)

    def send(self, stream: Stream) -> None:
        ids, stream.unsent = stream.unsent, []
        logprobs = [logprob(stream.place + i) for i in range(len(ids))]
        stream.place += len(ids)
        finish = None if stream.left else "stop" if ids[-1] == self.end else "length"
        names = [f"token_id:{token}" for token in ids]
        choice = {"index": 0, "text": self.said(ids), "token_ids": ids, "finish_reason": finish}
        self.event(stream, {"choices": [{**choice, "logprobs": {"tokens": names, "token_logprobs": logprobs}}]})


class Sglang(Server):
    """SGLang, as of 0.5.23, every event with all before it."""

    def asked(self, body: dict[str, Any]) -> tuple[list[int], int, int]:
        params = body["sampling_params"]
        return body["input_ids"], params["max_new_tokens"], params.get("stream_interval") or 1

    def reply(self, path: str, body: dict[str, Any]) -> Any:
        match path:
            case "/model_info":
                return {"tokenizer_path": ""}
            case "/server_info":
                return {"context_length": 4096}
            case "/generate":
                ids = body["input_ids"] if "input_ids" in body else self.tokenize(body["text"])
                start = body.get("logprob_start_len", 0)
                told = [(logprob(i) if i else None, ids[i], None) for i in range(start, len(ids))]
                meta = {"prompt_tokens": len(ids), "completion_tokens": 0, "cached_tokens": len(ids) - 1}
                return {"text": "", "meta_info": {**meta, "input_token_logprobs": told}}
            case _:
                return super().reply(path, body)

    def send(self, stream: Stream) -> None:
        stream.told += [(logprob(stream.place + i), token, None) for i, token in enumerate(stream.unsent)]
        stream.place += len(stream.unsent)
        last, stream.unsent = stream.unsent[-1], []
        finish = None if stream.left else {"type": "stop" if last == self.end else "length"}
        counts = {"prompt_tokens": stream.place - len(stream.told), "completion_tokens": len(stream.told)}
        meta = {**counts, "cached_tokens": 0, "finish_reason": finish, "output_token_logprobs": stream.told}
        self.event(stream, {"text": self.said([token for _, token, _ in stream.told]), "meta_info": meta})


SERVERS: dict[str, type[Server]] = {"vllm": Vllm, "sglang": Sglang}


@contextmanager
def served(kind: str) -> Iterator[str]:
    """The address of a server in a process of its own."""
    with subprocess.Popen([sys.executable, __file__, "--serve", kind], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"{kind}:http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


async def ask(address: str, chains: int, interval: int) -> tuple[float, float, int]:
    """Seconds and CPU seconds of one question after another that nobody measures, and tokens drafted."""
    options = {"chains": chains, "turns": STEPS + 2, "step_tokens": 200, "min_step_tokens": 0, "early_stop": "off"}
    query = f"?tokenizer={TOKENIZER}&max_connections={2 * chains}&stream_interval={interval}"
    async with A1(address + query, address + query, calibration=None, seed=1, rejection_rate=0.0, **options) as a1:
        await a1.asolve("How much is it?", chains=2)
        began, cpu = time.perf_counter(), time.process_time()
        result = await a1.asolve("How much is it now?")
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert result.answer == "7" and all(len(chain.turns) > STEPS for chain in result.chains), result
    return took, cpu, result.stats.drafted_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(SERVERS[options.serve]().run())
    head("server", "chains", "a chunk", "s a question", "alone, s", "tokens a second", "CPU, us a token")
    for kind in SERVERS:
        for chains in options.chains:
            for interval, label in ((1, "1 token"), (0, "as chosen")):
                with served(kind) as address:
                    took, cpu, tokens = asyncio.run(ask(address, chains, interval))
                alone = tokens / chains * (DRAFT_1B.step + DRAFT_1B.sequence * chains)
                spent = (f"{took:.2f}", f"{alone:.2f}", f"{tokens / took:.0f}", f"{cpu / tokens * 1e6:.0f}")
                row([kind, chains, label, *spent])


if __name__ == "__main__":
    main()
