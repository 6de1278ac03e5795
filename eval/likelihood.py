"""How probable a masked diffusion language model makes a given text.

Such a model predicts masked tokens from all others, in whatever order. The log-likelihood of a continuation x of L
tokens is estimated by

    E over l uniform on 1 … L and S uniform among the sets of l positions of
        (L / l) · Σ over i in S of log p(x_i | context, the x_j with j not in S)                                 (1)

(LLaDA, arXiv 2502.09992; the same as the mean, over random orders, of the sum of log p of each token given those
that come before it, arXiv 2110.02037). By Jensen's inequality (1) is at most the logarithm of the mean over orders
of the text's probability: a lower bound, so that perplexities made of it are upper bounds.

Where all 2^L − 1 sets are no more than the samples, (1) is computed exactly. Otherwise it is the mean over samples,
with less variance than independent ones have and no bias:

* l is stratified: one uniform number shifts an even grid over 1 … L (arXiv 2107.00630 does so for the times of a
  diffusion), so that each l gets its share of the samples;
* sets of one l are dealt like cards from a shuffled deck of the positions, L // l sets from each deck, so that they
  overlap no more than they have to. Each of them alone is a uniform set.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, in_pieces, refuse_broken
from dllm_env.errors import LogitsError
from dllm_env.random import RowRandom, derive_key

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of its continuation."""


def log_likelihoods(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    seeds: Sequence[int],
    samples: int = 128,
    batch_size: int = 128,
) -> Iterator[tuple[int, float]]:
    """Estimates (1) for each pair, in nats; which of them and its value, as soon as it is there.

    A value depends on its pair, seed and number of samples alone: only sequences of one length are evaluated
    together, so that nothing is padded. With a denoiser that attends in blocks it is the sum over the blocks of a
    continuation, each behind all that stands before it.

    Args:
        denoiser: the model.
        pairs: contexts and continuations, which together have to fit the denoiser's context.
        seeds: one for each pair; equal seeds and lengths L give equal sets S, which makes the estimates of several
            continuations of one context easier to tell apart.
        samples: sets S for each pair.
        batch_size: sequences evaluated at a time.

    Raises:
        ValueError: no samples or batch, not as many seeds as pairs, or a pair that is too long.
    """
    if samples < 1 or batch_size < 1 or len(pairs) != len(seeds):
        raise ValueError(f"{samples} samples, batches of {batch_size}, {len(pairs)} pairs, {len(seeds)} seeds")
    if not denoiser.attention_block:
        yield from _whole(denoiser, pairs, seeds, samples, batch_size)
        return
    size, whole = denoiser.attention_block, denoiser.blocks_from_response
    parts = [list(in_blocks(pair, size, len(pair[0]) if whole else 0)) for pair in pairs]
    owners = [i for i, some in enumerate(parts) for _ in some]
    numbered = [(seed, number) for seed, some in zip(seeds, parts, strict=True) for number in range(len(some))]
    own = [derive_key("block", seed, number) for seed, number in numbered]
    totals, left = [0.0] * len(pairs), Counter(owners)
    for part, value in _whole(denoiser, [part for some in parts for part in some], own, samples, batch_size):
        i = owners[part]
        totals[i] += value
        left[i] -= 1
        if not left[i]:
            yield i, totals[i]


def in_blocks(pair: Pair, size: int, origin: int = 0) -> Iterator[Pair]:
    """A pair's continuation block by block, each behind what stands before it; one begins at token ``origin``."""
    context, continuation = pair
    tokens, begin = [*context, *continuation], len(context)
    while True:
        end = min(begin + size - (begin - origin) % size, len(tokens))
        yield tokens[:begin], tokens[begin:end]
        begin = end
        if begin >= len(tokens):
            return


def _whole(
    denoiser: Denoiser, pairs: Sequence[Pair], seeds: Sequence[int], samples: int, batch_size: int
) -> Iterator[tuple[int, float]]:
    """Of continuations in one piece."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, (context, continuation) in enumerate(pairs):
        shapes.setdefault((len(context), len(continuation)), []).append(i)
    for (before, length), members in sorted(shapes.items(), key=lambda item: -sum(item[0])):  # the largest first
        if before + length > denoiser.max_length:
            raise ValueError(f"{before + length} tokens exceed the denoiser's context ({denoiser.max_length})")
        if not length:
            yield from ((i, 0.0) for i in members)
            continue
        at_once = max(batch_size // min(samples, 2**length - 1), 1)
        for first in range(0, len(members), at_once):
            some = members[first : first + at_once]
            tokens = [[*pairs[i][0], *pairs[i][1]] for i in some]
            plans = [masks_for(length, samples, seeds[i]) for i in some]
            yield from zip(some, _estimates(denoiser, tokens, plans, batch_size, some), strict=True)


def _estimates(
    denoiser: Denoiser,
    tokens: Sequence[Sequence[int]],
    plans: Sequence[tuple[Tensor, Tensor]],
    batch_size: int,
    names: Sequence[int],
) -> list[float]:
    """The weighted sums of log-probabilities of n sequences of one length, which errors call by these names."""
    counts = [len(masks) for masks, _ in plans]
    rows = torch.tensor(tokens, dtype=torch.int64).repeat_interleave(torch.tensor(counts), 0)
    masks = torch.cat([masks for masks, _ in plans])
    owners = torch.tensor(names).repeat_interleave(torch.tensor(counts))
    found = []
    for some, where, own in zip(*(values.split(batch_size) for values in (rows, masks, owners)), strict=True):
        try:
            found.append(
                masked_log_probability(denoiser, some.to(denoiser.device), where.to(denoiser.device)).cpu()
            )
        except LogitsError as error:
            raise error.at(own[error.rows].unique().tolist(), kind="text") from None
    parts = torch.cat(found).split(counts)
    return [float((weights * part).sum()) for (_, weights), part in zip(plans, parts, strict=True)]


@torch.no_grad()
def masked_log_probability(denoiser: Denoiser, tokens: Tensor, masks: Tensor) -> Tensor:
    """Log-probability of the tokens that are masked, given the others, each on its own, summed.

    Args:
        denoiser: the model.
        tokens: (B, S) int64, the whole text.
        masks: (B, L) bool, which of the last L tokens are hidden.

    Returns:
        (B,) float64 in nats; −inf where a mask token is to be predicted, which is never written.
    """
    length = masks.shape[1]
    shown = tokens.clone()
    shown[:, -length:][masks] = denoiser.mask_id
    # Continuations of one context look alike where they are masked; one token long, always.
    distinct, which = shown.unique(dim=0, return_inverse=True)
    hidden = denoiser.features(distinct, length)
    row, position = masks.nonzero(as_tuple=True)
    written = tokens[:, -length:][row, position]
    out = torch.zeros(masks.shape, dtype=torch.float64, device=masks.device)

    def log_probability(piece: Tensor) -> tuple[Tensor, Tensor]:
        return denoiser.log_probability_at(hidden[which[row[piece]], position[piece]], written[piece])

    found, log_total = in_pieces(log_probability, len(row), denoiser.vocabulary, denoiser, "likelihood", row.device)
    refuse_broken(log_total, row)
    out[row, position] = found.double()
    return out.sum(-1)


def masks_for(length: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sets of positions, and weights so that Σ weight · Σ over the set of log p estimates (1).

    Returns:
        (n, L) bool, n ≤ samples different sets, and (n,) float64.
    """
    if 2**length - 1 <= samples:
        numbers = torch.arange(1, 2**length)
        masks = (numbers[:, None] >> torch.arange(length)) % 2 == 1
        ways = torch.tensor([float(math.comb(length, size)) for size in range(length + 1)], dtype=torch.float64)
        size = masks.sum(-1)
        return masks, 1 / (size * ways[size])
    masks, size = _deal(length, samples, seed)
    distinct, which = masks.unique(dim=0, return_inverse=True)
    weights = torch.zeros(len(distinct), dtype=torch.float64)
    return distinct, weights.index_add(0, which, length / (samples * size.double()))


def _deal(length: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """(n, L) sets and (n,) their sizes l, stratified as the module says."""
    uniform = RowRandom.from_seeds([seed], "masks").rand(1 + samples * length)[0]
    number = torch.arange(samples)
    size = ((number + uniform[0]) * length / samples).long().clamp(max=length - 1) + 1
    first = torch.searchsorted(size, size)  # of the samples with this l, which are neighbours
    from_a_deck = length // size
    dealt = (number - first) % from_a_deck  # sets that this sample's deck has given before it
    deck = uniform[1:].view(samples, length)[number - dealt].argsort(-1).argsort(-1)
    start = (dealt * size)[:, None]
    return (deck >= start) & (deck < start + size[:, None]), size
