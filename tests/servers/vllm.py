"""vLLM's wire format, with a tiny model behind it."""

import base64
import io
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from tests.servers.flavors import Flavor, sampling_of
from tests.servers.sockets import Handler, Reply, Request


class Vllm(Flavor):
    """`step_scoring`: it has the newer scoring endpoint. `old_ids`: it spells ids in the place of tokens only.
    `processed`: its log-probabilities of sampled tokens are not the raw ones. `prompt_logprobs` False: it has none.
    `details`: started so that it tells how much of a prompt was in its cache, as older versions do: not where it is 0.
    `logits`: started with another `--logprobs-mode`. `routed`: by a router that lists models without their length
    (production-stack, routers/main_router.py). `forgets`: it found nothing in its cache. `bare`: by a router that
    passes no more on than it must (vllm-project/router, src/server.rs).
    `version`: what it says it is; before 0.10 its completions know a schema as `guided_json` only, from 0.12 on as
    `response_format` only; from 0.27 on it can be asked to send several tokens at a time.
    """

    def __init__(
        self,
        path: Path,
        *,
        step_scoring: bool = False,
        old_ids: bool = False,
        processed: bool = False,
        prompt_logprobs: bool = True,
        details: bool = False,
        version: str = "0.12.0",
        logits: bool = False,
        routed: bool = False,
        bare: bool = False,
        **options: Any,
    ) -> None:
        self.bare = bare
        self.logits = logits
        self.lists_context = not routed
        self.forgets = False
        self.details = details
        self.step_scoring = step_scoring
        self.old_ids = old_ids
        self.processed = processed
        self.prompt_logprobs = prompt_logprobs
        self.version = version
        super().__init__(path, **options)

    def handlers(self) -> dict[str, Handler]:
        newer = {"/inference/v1/generate": self.inference} if self.step_scoring else {}
        own = {"/version": self.say_version, "/tokenize": self.tokenize, "/v1/completions": self.completions}
        if self.bare:
            own, newer = {"/v1/completions": self.completions}, {}
        return {**super().handlers(), **own, **newer}

    async def say_version(self, request: Request) -> Reply:
        return Reply({"version": self.version})

    async def completions(self, request: Request) -> Reply:
        body = request.body
        if body["model"] != self.name:
            return Reply(
                {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}, status=404
            )
        asked = body["prompt"]
        ids = asked if isinstance(asked, list) else self.model.with_bos(self.model.ids(asked))
        too_long = self.too_long(ids, body["max_tokens"])
        if too_long is not None:
            return too_long
        if body.get("stream"):
            if "prompt_logprobs" in body and body["prompt_logprobs"] > 0:
                return Reply({"error": {"message": "prompt_logprobs are not available when streaming"}}, status=400)
            return Reply(events=self._events(ids, body))
        choice: dict[str, Any] = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": None}
        if "prompt_logprobs" in body and self.prompt_logprobs:
            logprobs, _ = await self.scores(ids, 1)
            pairs = zip(ids[1:], [max(-9999.0, lp + 30 * self.logits) for lp in logprobs], strict=True)
            choice["prompt_logprobs"] = [None, *({str(t): {"logprob": lp, "rank": 1}} for t, lp in pairs)]
            cached = 0
        else:
            cached = await self._read(ids)
        return Reply({"object": "text_completion", "choices": [choice], "usage": self._usage(ids, cached)})

    async def _read(self, ids: list[int]) -> int:
        sequence = await self.model.backend.open_ids(ids)
        await sequence.close()
        return sequence.prompt_work.cached_tokens

    def _usage(self, ids: list[int], cached: int) -> dict[str, Any]:
        details = {"cached_tokens": cached} if self.details and cached and not self.forgets else None
        return {"prompt_tokens": len(ids), "completion_tokens": 1, "prompt_tokens_details": details}

    async def _events(self, ids: list[int], body: dict[str, Any]) -> AsyncGenerator[Any, None]:
        found = re.match(r"v?(\d+)\.(\d+)", self.version)
        numbers = (int(found[1]), int(found[2])) if found else (1, 0)
        unread = "response_format" if numbers < (0, 10) else "guided_json" if numbers >= (0, 12) else ""
        sampling = sampling_of({name: value for name, value in body.items() if name != unread}, "seed")
        self.drawn_with.append({**self.defaults, **{name: body[name] for name in self.defaults if name in body}})
        scale = sampling.temperature if self.processed and sampling.temperature else 1.0
        cached = 0
        interval = body.get("stream_interval") or 1 if numbers >= (0, 27) else 1
        async with aclosing(self.chunked(ids, body["max_tokens"], sampling, interval)) as chunks:
            async for chunk in chunks:
                cached = chunk[-1].cached
                logprobs = {
                    "tokens": [f"token_id:{token.token}" for token in chunk],
                    "token_logprobs": [token.logprob / scale for token in chunk],
                }
                text = "".join(token.text for token in chunk)
                choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": chunk[-1].finish}
                if not self.old_ids:
                    choice["token_ids"] = [token.token for token in chunk]
                yield {"object": "text_completion", "choices": [choice]}
        yield {"object": "text_completion", "choices": [], "usage": self._usage(ids, cached)}

    async def inference(self, request: Request) -> Reply:
        ids, params = request.body["token_ids"], request.body["sampling_params"]
        too_long = self.too_long(ids)
        if too_long is not None:
            return too_long
        start = params["prompt_logprob_start"]
        wanted = params["prompt_logprob_token_ids"]
        assert len(wanted) == len(ids) - 1 - start
        assert [row[0] for row in wanted] == ids[start + 1 :]
        logprobs, cached = await self.scores(ids, start + 1)
        reply: dict[str, Any] = {"choices": [{"index": 0, "token_ids": [0]}], "prompt_token_id_logprobs": None}
        in_cache = cached > start and not params["skip_reading_prefix_cache"]
        if self.details:
            reply["usage"] = self._usage(ids, min(cached, start))
        if not in_cache:
            file = io.BytesIO()
            np.save(file, np.array(logprobs, np.float32).reshape(-1, 1))
            reply["prompt_token_id_logprobs"] = base64.b64encode(file.getvalue()).decode()
        return Reply(reply)
