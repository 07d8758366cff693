"""A batched backend that makes prompts of questions through a chat template."""

from __future__ import annotations

import asyncio

from a1agent.backends.base import ModelInfo
from a1agent.backends.batching.sequence import BatchedBackend, BatchedSequence
from a1agent.backends.batching.worker import Engine
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.vocabulary import Prompt, TextVocabulary
from a1agent.types import Question

__all__ = ["PromptedBackend"]


class PromptedBackend(BatchedBackend):
    """A model whose sequences share one KV cache and one worker."""

    def __init__(self, engine: Engine, info: ModelInfo, vocabulary: TextVocabulary, template: ChatTemplate) -> None:
        super().__init__(engine, info, vocabulary)
        self._words = vocabulary
        self._template = template

    async def open(self, question: Question) -> BatchedSequence:
        """A sequence that holds the prompt of `question`, through the model's chat template.

        Raises `ContextOverflow` when the prompt does not fit, `UsageError` when the template cannot take it.
        """
        prompt = await asyncio.to_thread(self.encode, question)
        return await self.open_ids(prompt.ids, thinking=prompt.thinking)

    async def open_text(self, text: str) -> BatchedSequence:
        """A sequence that holds a text of the chat template's kind: control tokens in it are control tokens."""
        return await self.open_ids(self._words.tokenize_pieces(list(self._template.split(text))))

    def encode(self, question: Question) -> Prompt:
        """The prompt of a question in token ids."""
        return self._words.encode(question, self._template)
