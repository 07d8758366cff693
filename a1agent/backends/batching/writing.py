"""What one call writes: tokens as they are sampled, until a stop, the end of the turn, or a limit. No model, no I/O."""

from __future__ import annotations

from a1agent.backends.base import Finish, Generated, StepText, Stop, Work
from a1agent.backends.batching.text import TokenText, find_stop, word_end

__all__ = ["Writing"]


class Writing:
    """A text of at most `limit` tokens. Whoever runs the model adds tokens until `finish` is set.

    A stop may fall inside a token. Its text before the stop is then left in `rest`, to be tokenized anew and scored, so
    that ids, text and log-probabilities of the step agree.
    """

    def __init__(self, limit: int, stop: Stop) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish: Finish | None = None
        self.end: float | None = None
        self.stop_string: str | None = None
        self.trimmed = 0
        self.rest = ""
        self._limit = limit
        self._stop = stop
        self._pieces: list[bytes] = []
        self._text = TokenText()

    @property
    def text(self) -> str:
        """The text of the tokens so far."""
        return self._text.text

    def add(self, token: int, piece: bytes, logprob: float) -> None:
        """Takes a sampled token in: its bytes and its log-probability. May finish the text."""
        self._push(token, piece, logprob)
        cut = find_stop(self._text, self._stop)
        if cut is not None:
            self.stop_string = cut.string
            self._stop_at(cut.length)
        elif len(self.ids) >= self._limit:
            self.end_by_length()

    def add_rest(self, token: int, piece: bytes, logprob: float) -> None:
        """Takes a token of `rest` in, which was tokenized anew."""
        self._push(token, piece, logprob)

    def end_turn(self, logprob: float | None) -> None:
        """The model ended its turn, with this log-probability where it is known."""
        self.end = logprob
        self._finish_at(self._text.tokens_within(len(self.text)), "end")

    def end_by_length(self) -> None:
        """There is no room for more."""
        whole = self._text.tokens_within(len(self.text))
        self._finish_at(word_end(self._text) if self._stop.whole_words else whole, "length")

    def generated(self, fingerprint: str, work: Work) -> Generated:
        """The text as what the call returns. `fingerprint`: of the tokenizer that its ids belong to."""
        return Generated(
            step=StepText(text=self.text, ids=tuple(self.ids), tokenizer_fingerprint=fingerprint),
            logprobs=tuple(self.logprobs),
            finish=self.finish or "length",
            end=self.end,
            stop_string=self.stop_string,
            trimmed_tokens=self.trimmed,
            work=work,
        )

    def _push(self, token: int, piece: bytes, logprob: float) -> None:
        self.ids.append(token)
        self.logprobs.append(logprob)
        self._pieces.append(piece)
        self._text.push(piece)

    def _stop_at(self, length: int) -> None:
        text = self.text
        kept = len(self.ids) if length == len(text) else self._text.tokens_within(length)
        self.rest = text[self._text.before(kept) : length]
        self._finish_at(kept, "stop")

    def _finish_at(self, kept: int, finish: Finish) -> None:
        self.finish = finish
        dropped = len(self.ids) - kept
        if dropped:
            self.trimmed += dropped
            del self.ids[kept:], self.logprobs[kept:], self._pieces[kept:]
            self._text = TokenText()
            for piece in self._pieces:
                self._text.push(piece)
