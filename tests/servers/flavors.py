"""The exact wire formats of SGLang, vLLM and OpenAI-style servers, over one model."""

import base64
import io
import json
import math
import random
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from a1agent.backends.base import Sampling
from tests.servers.model import Model, Sampled
from tests.servers.sockets import Handler, Reply, Request, SocketServer


class Flavor:
    """A server of one kind. `key`: what it wants as a bearer token."""

    def __init__(
        self, path: Path, *, name: str = "tiny", context: int = 1024, key: str | None = None, ssl: Any = None
    ) -> None:
        self.model = Model(path, context)
        self.name = name
        self.key = key
        self.aborts = 0  # how many of the next streams the server gives up in the middle
        self.impossible: int | None = None  # a token that the model gives no probability at all
        self.noise = 0.0  # nats by which a score differs at random from call to call, as on a GPU in half precision
        self.shift = 0  # tokens by which scores are beside their place
        self._chance = random.Random(7)
        self.scored: list[tuple[int, ...]] = []
        self.written: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.socket = SocketServer({path: self._guarded(handler) for path, handler in self.handlers().items()}, ssl)

    @property
    def url(self) -> str:
        return self.socket.url

    def handlers(self) -> dict[str, Handler]:
        return {"/v1/models": self.models, "/health": self.health}

    def close(self) -> None:
        self.socket.run(self.model.backend.aclose())
        self.socket.close()

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Reply:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return Reply({"error": {"message": "invalid key"}}, status=401)
            return await handler(request)

        return guarded

    async def health(self, request: Request) -> Reply:
        return Reply({})

    lists_context = True

    async def models(self, request: Request) -> Reply:
        entry: dict[str, Any] = {"id": self.name, "object": "model", "owned_by": "test"}
        if self.lists_context:
            entry["max_model_len"] = self.model.context
        return Reply({"object": "list", "data": [entry]})

    async def tokenize(self, request: Request) -> Reply:
        body = request.body
        if "messages" in body:
            ids = self.model.prompt(body["messages"], body.get("continue_final_message", False))
        else:
            ids = self.model.ids(body["prompt"])
        return Reply({"tokens": ids, "count": len(ids), "max_model_len": self.model.context})

    async def sampled(self, ids: list[int], limit: int, sampling: Sampling) -> AsyncGenerator[Sampled, None]:
        """Tokens as drawn; what was written is kept for the tests."""
        written: list[int] = []
        try:
            async with aclosing(self.model.sample(ids, limit, sampling)) as tokens:
                async for token in tokens:
                    written.append(token.token)
                    yield token
        finally:
            self.written.append((tuple(ids), tuple(written)))

    def aborted(self, count: int) -> bool:
        """Whether a stream is given up after that many tokens."""
        found = count == 2 and self.aborts > 0
        self.aborts -= found
        return found

    async def scores(self, ids: list[int], start: int) -> tuple[list[float], int]:
        self.scored.append(tuple(ids))
        logprobs, cached = await self.model.score(ids, start)
        logprobs = [min(0.0, value + self._chance.uniform(-self.noise, self.noise)) for value in logprobs]
        logprobs = logprobs[self.shift :] + logprobs[: self.shift]
        pairs = zip(logprobs, ids[start:], strict=True)
        return [-math.inf if token == self.impossible else logprob for logprob, token in pairs], cached

    def too_long(self, ids: list[int], limit: int = 1) -> Reply | None:
        if len(ids) + limit <= self.model.context:
            return None
        message = f"This model's maximum context length is {self.model.context} tokens, you sent {len(ids)}"
        return Reply({"error": {"message": message, "code": 400}}, status=400)


def sampling_of(body: dict[str, Any], seed: str) -> Sampling:
    schema = json.loads(body["json_schema"]) if "json_schema" in body else None
    schema = body.get("guided_json", schema)
    if body.get("response_format"):
        schema = body["response_format"]["json_schema"]["schema"]
    return Sampling(
        schema=schema,
        temperature=body.get("temperature", 1.0),
        top_k=max(0, body.get("top_k", 0)),
        top_p=body.get("top_p", 1.0),
        min_p=body.get("min_p", 0.0),
        seed=body.get(seed) or 0,
    )


class Sglang(Flavor):
    """As version 0.5.23 was seen to speak.

    `original`: started so that sampled log-probabilities are those before temperature. `incremental`: streams what
    is new instead of all so far. `tokenizer_path`: what it says it tokenizes with. `older`: as it was before some paths
    were renamed, texts tokenized, and errors in a stream given a code (srt/entrypoints/http_server.py). `routed`: by
    its router as published (0.3.2), which lists models without their length, tells of itself when asked for the
    server, and does not tokenize. `grammars`: whether it can compile one. `pool`: tokens of its cache, where these are
    fewer than those of its context.
    """

    def __init__(
        self,
        path: Path,
        *,
        original: bool = False,
        incremental: bool = False,
        older: bool = False,
        routed: bool = False,
        grammars: bool = True,
        pool: int | None = None,
        **options: Any,
    ) -> None:
        self.pool = pool
        self.routed = routed
        self.original = original
        self.incremental = incremental
        self.older = older
        self.lists_context = not routed
        self.grammars = grammars
        self.tokenizer_path = str(options.pop("tokenizer_path", path))
        super().__init__(path, **options)

    def handlers(self) -> dict[str, Handler]:
        prefix = "/get_" if self.older or self.routed else "/"
        tokenizes = {} if self.older or self.routed else {"/tokenize": self.tokenize}
        return {
            **super().handlers(),
            **tokenizes,
            f"{prefix}model_info": self.model_info,
            f"{prefix}server_info": self.server_info,
            "/generate": self.generate,
        }

    async def tokenize(self, request: Request) -> Reply:
        if request.body.get("continue_final_message") and request.body.get("add_generation_prompt") is False:
            message = "continue_final_message needs add_generation_prompt to open the assistant turn."
            return Reply({"object": "error", "message": message, "code": 400}, status=400)
        return await super().tokenize(request)

    async def model_info(self, request: Request) -> Reply:
        return Reply({"model_path": self.name, "tokenizer_path": self.tokenizer_path, "is_generation": True})

    async def server_info(self, request: Request) -> Reply:
        if self.routed:
            return Reply({"router_manager": True, "routers_count": 1, "workers_count": 1})
        told = {"model_path": self.name, "served_model_name": self.name, "tokenizer_path": self.tokenizer_path}
        return Reply({**told, "context_length": None, "max_req_input_len": self.refused})

    @property
    def refused(self) -> int:
        """The least length of an input that it refuses."""
        return (self.pool or self.model.context) - 6

    async def generate(self, request: Request) -> Reply:
        body, params = request.body, request.body["sampling_params"]
        start = body.get("logprob_start_len", -1)
        ids = self.model.with_bos(self.model.ids(body["text"])) if "text" in body else body["input_ids"]
        refusal = self._refusal(ids, params)
        if body.get("return_logprob") and start > len(ids):
            refusal = "logprob_start_len is higher than the input length"
        if body.get("stream"):
            return Reply(events=self._refused(refusal) if refusal else self._events(ids, params))
        if refusal:
            return Reply({"error": {"message": refusal}}, status=400)
        meta: dict[str, Any] = {
            "prompt_tokens": len(ids),
            "completion_tokens": 0,
            "cached_tokens": 0,
            "finish_reason": {"type": "length", "length": 0},
        }
        if body.get("return_logprob") and start >= 0:
            logprobs, cached = await self.scores(ids, start + 1)
            rows = [[None, ids[start], None]]
            told = [lp if math.isfinite(lp) else None for lp in logprobs]  # what orjson makes of it
            last = self.model.vocabulary.size - 1  # managers/scheduler_components/logprob_result_processor.py
            rows += [[lp, token * (token < last), None] for lp, token in zip(told, ids[start + 1 :], strict=True)]
            meta |= {"input_token_logprobs": rows, "output_token_logprobs": [], "cached_tokens": cached}
        else:
            sequence = await self.model.backend.open_ids(ids)
            meta["cached_tokens"] = sequence.prompt_work.cached_tokens
            await sequence.close()
        return Reply({"text": "", "meta_info": meta})

    def _refusal(self, ids: list[int], params: dict[str, Any]) -> str:
        context, asked = self.model.context, len(ids) + params["max_new_tokens"]
        if len(ids) >= context:
            return f"The input ({len(ids)} tokens) is longer than the model's context length ({context} tokens)."
        if len(ids) >= self.refused:
            return f"Input length ({len(ids)} tokens) exceeds the maximum allowed length ({self.refused} tokens)."
        if asked > context:
            most = f"the model's maximum context length of {context} tokens"
            return f"Requested token count exceeds {most}. You requested a total of {asked} tokens."
        return ""

    async def _refused(self, message: str) -> AsyncGenerator[Any, None]:
        yield {"error": {"message": message} | ({} if self.older else {"type": "invalid_request_error", "code": 400})}

    async def _events(self, ids: list[int], params: dict[str, Any]) -> AsyncGenerator[Any, None]:
        sampling = sampling_of(params, "sampling_seed")
        if sampling.schema is not None and not self.grammars:
            message = "Failed to compile json_schema grammar: unsupported"
            finish = {"type": "abort", "message": message, "status_code": 400, "err_type": "BadRequestError"}
            yield {"text": "", "meta_info": {"prompt_tokens": len(ids), "finish_reason": finish}}
            return
        # The true value after temperature needs every logit; any other than the raw one shows what it has to.
        scale = 1.0 if self.original or sampling.temperature in (0.0, 1.0) else sampling.temperature
        rows: list[Any] = []
        said = ""
        async with aclosing(self.sampled(ids, params["max_new_tokens"], sampling)) as tokens:
            async for token in tokens:
                rows.append([token.logprob / scale, token.token, None])
                said += token.text
                finish = {
                    None: None,
                    "stop": {"type": "stop", "matched": token.token},
                    "length": {"type": "length", "length": len(rows)},
                    "abort": {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None},
                }
                over = "abort" if self.aborted(len(rows)) else token.finish
                yield {
                    "text": token.text if self.incremental else said,
                    "meta_info": {
                        "prompt_tokens": len(ids),
                        "completion_tokens": len(rows),
                        "cached_tokens": token.cached,
                        "finish_reason": finish[over],
                        "output_token_logprobs": rows[-1:] if self.incremental else list(rows),
                    },
                }
                if over == "abort":
                    return


class Vllm(Flavor):
    """`step_scoring`: it has the newer scoring endpoint. `old_ids`: it spells ids in the place of tokens only.
    `processed`: its log-probabilities of sampled tokens are not the raw ones. `prompt_logprobs` False: it has none.
    `details`: started so that it tells how much of a prompt was in its cache, as older versions do: not where it is 0.
    `logits`: started with another `--logprobs-mode`. `routed`: by a router that lists models without their length
    (production-stack, routers/main_router.py). `defaults`: what the model's generation_config.json sets, where a
    request leaves it out (openai/completion/protocol.py); `drawn_with`: what each stream came to. `forgets`: it found
    nothing in its cache. `bare`: by a router that passes no more on than it must (vllm-project/router, src/server.rs).
    `version`: what it says it is; before 0.10 its completions know a schema as `guided_json` only, from 0.12 on as
    `response_format` only.
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
        defaults: dict[str, Any] | None = None,
        bare: bool = False,
        **options: Any,
    ) -> None:
        self.bare = bare
        self.logits = logits
        self.lists_context = not routed
        self.defaults = defaults or {}
        self.drawn_with: list[dict[str, Any]] = []
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
        cached = count = 0
        async with aclosing(self.sampled(ids, body["max_tokens"], sampling)) as tokens:
            async for token in tokens:
                cached, count = token.cached, count + 1
                logprobs = {"tokens": [f"token_id:{token.token}"], "token_logprobs": [token.logprob / scale]}
                finish = "abort" if self.aborted(count) else token.finish
                choice = {"index": 0, "text": token.text, "logprobs": logprobs, "finish_reason": finish}
                if not self.old_ids:
                    choice["token_ids"] = [token.token]
                yield {"object": "text_completion", "choices": [choice]}
                if finish == "abort":
                    break
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


class OpenAI(Flavor):
    """Text in, text out. `continues`: how it goes on in the middle of a message (final_message, trailing, prefix), or
    only raw completions (None). `strict`: refuses fields it does not know; `done`: ends streams as OpenAI does. `tgi`:
    as Text Generation Inference does it. `studio`: as LM Studio, which answers paths it does not have with status 200.
    `apart`: the field of a chat's delta into which it puts what it took out of the text.
    """

    known = frozenset(
        (
            *("model", "messages", "prompt", "max_tokens", "stream", "stream_options"),
            *("temperature", "top_p", "top_k", "min_p", "seed"),
        )
    )

    def __init__(
        self,
        path: Path,
        *,
        continues: str | None = None,
        strict: bool = False,
        done: bool = True,
        tgi: bool = False,
        studio: bool = False,
        apart: str | None = None,
        **options: Any,
    ) -> None:
        self.continues = continues
        self.tgi = tgi
        self.studio = studio
        self.apart = apart
        self.strict = strict
        self.done = done
        self.prompts: list[str] = []
        super().__init__(path, **options)

    def handlers(self) -> dict[str, Handler]:
        beside: dict[str, Handler] = {}
        if self.continues == "trailing":
            beside["/api/version"] = self.version
        if self.continues == "final_message":
            beside["/version"] = self.version
        if self.tgi:
            beside["/info"] = self.info
        if self.studio:
            beside |= dict.fromkeys(("/props", "/info", "/api/version", "/version", "/model_info"), self.unexpected)
        return {
            **super().handlers(),
            **beside,
            "/v1/completions": self.completions,
            "/v1/chat/completions": self.chat,
        }

    async def models(self, request: Request) -> Reply:
        return Reply({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def info(self, request: Request) -> Reply:
        return Reply({"model_id": self.name, "max_input_tokens": 100, "max_total_tokens": self.model.context})

    async def version(self, request: Request) -> Reply:
        return Reply({"version": "1"})

    async def unexpected(self, request: Request) -> Reply:
        return Reply({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})

    async def completions(self, request: Request) -> Reply:
        return self._reply(request.body, request.body["prompt"], chat=False)

    async def chat(self, request: Request) -> Reply:
        body = request.body
        last = body["messages"][-1]
        flags = (body.get("continue_final_message"), body.get("add_generation_prompt"))
        started = last["role"] == "assistant" and (
            self.continues == "trailing"
            or (self.continues == "final_message" and flags == (True, False))
            or (self.continues == "prefix" and last.pop("prefix", False))
        )
        return self._reply(body, self.model.render(body["messages"], started), chat=True)

    def _reply(self, body: dict[str, Any], prompt: str, *, chat: bool) -> Reply:
        unknown = set(body) - self.known
        if self.strict and unknown:
            return Reply({"detail": f"Unexpected keys in the request: {unknown}"}, status=422)
        if self.tgi and not 0 < body.get("top_p", 0.5) < 1:
            said = "Input validation error: `top_p` must be > 0.0 and < 1.0"
            return Reply({"error": said, "error_type": "validation"}, status=422)
        self.prompts.append(prompt)
        ids = self.model.with_bos(self.model.ids(prompt))
        return self.too_long(ids, body["max_tokens"]) or Reply(events=self._events(ids, body, chat), done=self.done)

    async def _events(self, ids: list[int], body: dict[str, Any], chat: bool) -> AsyncGenerator[Any, None]:
        cached = count = 0
        async with aclosing(self.sampled(ids, body["max_tokens"], sampling_of(body, "seed"))) as tokens:
            async for token in tokens:
                cached, count = token.cached, count + 1
                said = {"delta": self._delta(token.text)} if chat else {"text": token.text}
                finish = "abort" if self.aborted(count) else token.finish
                yield {"object": "chunk", "choices": [{"index": 0, "finish_reason": finish, **said}]}
                if finish == "abort":
                    break
        if body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": len(ids), "prompt_tokens_details": {"cached_tokens": cached}}
            yield {"object": "chunk", "choices": [], "usage": usage}

    def _delta(self, text: str) -> dict[str, Any]:
        if self.apart == "tool_calls":
            return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return {"content": text} if self.apart is None else {"content": "", self.apart: text}
