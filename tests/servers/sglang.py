"""SGLang's wire format, with a tiny model behind it."""

import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from tests.servers.flavors import Flavor, sampling_of
from tests.servers.sockets import Handler, Reply, Request


class Sglang(Flavor):
    """As version 0.5.23 was seen to speak.

    `original`: started so that sampled log-probabilities are those before temperature. `incremental`: streams what
    is new instead of all so far. `tokenizer_path`: what it says it tokenizes with. `older`: as it was before some paths
    were renamed, texts tokenized, and errors in a stream given a code (srt/entrypoints/http_server.py). `routed`: by
    its router as published (0.3.2), which lists models without their length, tells of itself when asked for the
    server, and does not tokenize. `grammars`: whether it can compile one, and
    `refuses`: what stands in one that it cannot. `pool`: tokens of its cache, where these are fewer than those of its
    context. `full`: how many requests more find no room in its queue.
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
        refuses: str | None = None,
        pool: int | None = None,
        **options: Any,
    ) -> None:
        self.pool = pool
        self.full = 0
        self.routed = routed
        self.original = original
        self.incremental = incremental
        self.older = older
        self.lists_context = not routed
        self.grammars = grammars
        self.refuses = refuses
        self.tokenizer_path = str(options.pop("tokenizer_path", path))
        super().__init__(path, **options)

    def handlers(self) -> dict[str, Handler]:
        prefixes = ("/get_",) if self.older or self.routed else ("/get_", "/")
        tokenizes = {} if self.older or self.routed else {"/tokenize": self.tokenize}
        return {
            **super().handlers(),
            **tokenizes,
            **{f"{prefix}model_info": self.model_info for prefix in prefixes},
            **{f"{prefix}server_info": self.server_info for prefix in prefixes},
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
        body = request.body
        params = {**self.defaults, **body["sampling_params"]}  # managers/tokenizer_manager.py
        start = body.get("logprob_start_len", -1)
        ids = self.model.with_bos(self.model.ids(body["text"])) if "text" in body else body["input_ids"]
        if self.full:
            self.full -= 1
            return self._queue_is_full(body)
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

    def _queue_is_full(self, body: dict[str, Any]) -> Reply:
        message = "The request queue is full."

        async def aborted() -> AsyncGenerator[Any, None]:
            finish = {"type": "abort", "message": message, "status_code": 503}
            yield {"text": "", "meta_info": {"id": "0", "finish_reason": finish, "completion_tokens": 0}}

        if body.get("stream"):
            return Reply(events=aborted())
        return Reply({"object": "error", "message": message, "type": "503", "param": None, "code": 503}, status=503)

    def _refusal(self, ids: list[int], params: dict[str, Any]) -> str:
        context, asked = self.model.context, len(ids) + params["max_new_tokens"]
        if len(ids) >= context:
            return f"The input ({len(ids)} tokens) is longer than the model's context length ({context} tokens)."
        if len(ids) >= self.refused:
            return f"Input length ({len(ids)} tokens) exceeds the maximum allowed length ({self.refused} tokens)."
        if params.get("min_new_tokens", 0) > params["max_new_tokens"]:  # sampling/sampling_params.py
            return f"min_new_tokens must be in [0, max_new_tokens({params['max_new_tokens']})]"
        if asked > context:
            most = f"the model's maximum context length of {context} tokens"
            return f"Requested token count exceeds {most}. You requested a total of {asked} tokens."
        return ""

    async def _refused(self, message: str) -> AsyncGenerator[Any, None]:
        yield {"error": {"message": message} | ({} if self.older else {"type": "invalid_request_error", "code": 400})}

    async def _events(self, ids: list[int], params: dict[str, Any]) -> AsyncGenerator[Any, None]:
        sampling = sampling_of(params, "sampling_seed")
        self.drawn_with.append({name: params[name] for name in self.defaults})
        refused = self.refuses is not None and self.refuses in json.dumps(sampling.schema)
        if sampling.schema is not None and (refused or not self.grammars):
            message = "Failed to compile json_schema grammar: unsupported"
            finish = {"type": "abort", "message": message, "status_code": 400, "err_type": "BadRequestError"}
            yield {"text": "", "meta_info": {"prompt_tokens": len(ids), "finish_reason": finish}}
            return
        # The true value after temperature needs every logit; any other than the raw one shows what it has to.
        scale = 1.0 if self.original or sampling.temperature in (0.0, 1.0) else sampling.temperature
        rows: list[Any] = []
        said = ""
        interval = params.get("stream_interval") or 1
        async with aclosing(self.chunked(ids, params["max_new_tokens"], sampling, interval)) as chunks:
            async for chunk in chunks:
                rows += [[token.logprob / scale, token.token, None] for token in chunk]
                new = "".join(token.text for token in chunk)
                said += new
                token = chunk[-1]
                finish = {
                    None: None,
                    "stop": {"type": "stop", "matched": token.token},
                    "length": {"type": "length", "length": len(rows)},
                    "abort": {"type": "abort", "message": "Aborted", "status_code": None, "err_type": None},
                }
                yield {
                    "text": new if self.incremental else said,
                    "meta_info": {
                        "prompt_tokens": len(ids),
                        "completion_tokens": len(rows),
                        "cached_tokens": token.cached,
                        "finish_reason": finish[token.finish],
                        "output_token_logprobs": rows[-len(chunk) :] if self.incremental else list(rows),
                    },
                }
