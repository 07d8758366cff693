"""Drawing tokens for many sequences at once: right chances, right truncations, and nothing that a neighbour changes."""

from collections import Counter

import pytest

pytest.importorskip("torch")

import torch

from a1agent.backends import torch_sampling
from a1agent.backends.base import Sampling
from a1agent.backends.batching.runner import END
from a1agent.backends.torch_sampling import Sampler, draw, log_probabilities

VOCABULARY = 1000


def logits_of(seed: int, spread: float = 2.0, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


def drawn(logits: torch.Tensor, sampling: Sampling, count: int) -> Counter[int]:
    sampler = Sampler(sampling)
    return Counter(token for _ in range(count) for token in draw(logits, [sampler]))


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    logits = logits_of(1, spread=3.0)
    found = drawn(logits, Sampling(temperature=0.7, seed=5), 4000)
    chances = (logits[0] / 0.7).softmax(-1)
    for token, chance in zip(chances.topk(5).indices.tolist(), chances.topk(5).values.tolist(), strict=True):
        error = (chance * (1 - chance) / 4000) ** 0.5
        assert abs(found[token] / 4000 - chance) < 5 * error


@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [(7, 1.0, 0.0), (0, 0.6, 0.0), (0, 0.999, 0.0), (40, 0.5, 0.0), (0, 1.0, 0.2), (900, 0.9, 0.05)],
)
def test_truncations_keep_what_they_name(spread: float, top_k: int, top_p: float, min_p: float) -> None:
    logits = logits_of(2, spread)
    order = logits[0].argsort(descending=True)
    kept = order[: top_k or VOCABULARY]
    chances = logits[0][kept].double().softmax(-1)
    kept = kept[: 1 + int((chances.cumsum(-1) < top_p).sum())]
    if min_p:
        whole = logits[0].softmax(-1)
        kept = kept[whole[kept] >= min_p * whole.max()]
    sampling = Sampling(temperature=1.5, top_k=top_k, top_p=top_p, min_p=min_p, seed=3)
    found = set(drawn(logits, sampling, 600))
    slack = set(order[: len(kept) + 2].tolist())  # rounding may move a border by a token
    assert found <= slack
    if len(kept) <= 40 and spread < 1:
        assert len(found) >= len(kept) - 1


def test_what_a_row_gets_does_not_depend_on_the_other_rows() -> None:
    logits = logits_of(3, rows=6)
    ways = [
        Sampling(seed=1),
        Sampling(seed=2, top_k=5),
        Sampling(seed=3, top_p=0.7, temperature=1.3),
        Sampling(temperature=0),
        Sampling(seed=4, min_p=0.1),
        Sampling(seed=5, top_k=30, top_p=0.8, min_p=0.01),
    ]

    def samplers() -> list[Sampler | None]:
        return [Sampler(way) if way.temperature else None for way in ways]

    together = draw(logits, samplers())
    alone = [draw(logits[i : i + 1], [sampler])[0] for i, sampler in enumerate(samplers())]
    backwards = draw(logits.flip(0), samplers()[::-1])[::-1]
    assert together == alone == backwards
    assert together[3] == int(logits[3].argmax())


def test_a_sampler_draws_anew_each_time_and_again_with_its_seed() -> None:
    logits = logits_of(4, spread=0.1)
    first, again, other = (
        [draw(logits, [sampler])[0] for _ in range(8)]
        for sampler in (Sampler(Sampling(seed=1)), Sampler(Sampling(seed=1)), Sampler(Sampling(seed=2)))
    )
    assert first == again != other
    assert len(set(first)) > 1


@pytest.mark.parametrize("vocabulary", [1, 2, 255, 256, 257, 512, 700])
def test_every_token_can_be_drawn_in_vocabularies_of_any_size(vocabulary: int) -> None:
    weights = torch.zeros(vocabulary, vocabulary).fill_diagonal_(1.0)
    for share in (0.0, 0.5, 1 - 1e-12):
        uniform = torch.full((vocabulary,), share, dtype=torch.float64)
        assert torch_sampling._locate(weights, uniform).tolist() == list(range(vocabulary))


def test_of_logits_that_are_not_finite_the_first_token_is_taken() -> None:
    logits = torch.full((2, VOCABULARY), torch.nan)
    assert draw(logits, [Sampler(Sampling()), Sampler(Sampling(top_k=5))]) == [0, 0]


def test_log_probabilities_are_those_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = logits_of(6, rows=9)
    expected = logits.log_softmax(-1)
    ends = torch.tensor([3, 70])
    targets = [5, END, 999, 0, 12, END, 3, 4, 8]
    ending = expected[:, ends].logsumexp(-1)
    wanted = [ending[i] if t == END else expected[i, t] for i, t in enumerate(targets)]
    for chunk in (1, 4 * VOCABULARY, 1 << 20):
        monkeypatch.setattr(torch_sampling, "_CHUNK", {"cpu": chunk})
        assert log_probabilities(logits, targets, ends) == pytest.approx([float(w) for w in wanted], abs=1e-5)


def test_half_precision_is_summed_up_in_single_precision() -> None:
    logits = logits_of(7, rows=2).bfloat16()
    expected = logits.float().log_softmax(-1)[:, 5].tolist()
    assert log_probabilities(logits, [5, 5], torch.tensor([], dtype=torch.long)) == pytest.approx(expected, abs=1e-5)


def test_without_end_tokens_the_end_is_impossible() -> None:
    assert log_probabilities(logits_of(8), [END], torch.tensor([], dtype=torch.long)) == [-float("inf")]


def test_while_another_model_is_read_nothing_is_rounded_as_that_one_is() -> None:
    logits = logits_of(9, rows=5)
    ends = torch.tensor([3, 70])

    def results() -> tuple[list[float], list[list[int]]]:
        samplers = [Sampler(Sampling(seed=seed, temperature=0.7, top_p=0.9, min_p=0.003)) for seed in range(5)]
        return log_probabilities(logits, [5, END, 999, 0, 12], ends), [draw(logits, samplers) for _ in range(40)]

    expected = results()
    try:
        torch.set_default_dtype(torch.bfloat16)  # as transformers does
        assert results() == expected
    finally:
        torch.set_default_dtype(torch.float32)
