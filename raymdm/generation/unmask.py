"""Text from a masked diffusion model: LLaDA's sampler at temperature 0, for a batch of prompts.

Sources: Nie et al., "Large Language Diffusion Models" (2025), algorithm 5 and its public `generate.py`: blocks from
left to right, low-confidence remasking. Wu et al., "Fast-dLLM" (2025): the threshold and the prefix cache.
Shape legend: B prompts, A of them still at work, L tokens (prompt and generation), b tokens of a block, M masked tokens
of the current block in all A rows, H hidden size, V vocabulary.
"""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from raymdm.errors import UserError
from raymdm.generation.padding import Prompts, left_pad

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

_LOGITS = 2**25
"""Logits at once, in float64 256 MiB: with 126,464 tokens those of a whole batch would need more than the model."""


class Generation(NamedTuple):
    """What a batch of prompts led to."""

    tokens: Tensor
    """(B, generation_length) long, on the model's device: what follows the prompts, without [MASK]. A row's first stop
    token is repeated to its end."""
    forward_passes: Tensor
    """(B,) long: forward passes that the row took part in."""


@torch.no_grad()  # under inference_mode autocast would cast all weights again in each forward pass
def generate_mdm(
    model: "PreTrainedModel",
    prompts: Prompts,
    *,
    mask_id: int,
    pad_id: int,
    generation_length: int,
    steps: int,
    block_length: int,
    stop_ids: Collection[int] = (),
    forbidden_ids: Sequence[int] = (),
    shift: bool = False,
    confidence_threshold: float | None = None,
    prefix_cache: bool = False,
) -> Generation:
    """Generate `generation_length` tokens after each prompt.

    Blocks are finished from left to right. Each of a block's denoising steps predicts all its masked tokens and keeps
    an equal share: those whose most probable token has the highest probability (in float64), the leftmost first where
    equal; of equally probable tokens the one with the smallest id. A row whose text has ended, by a stop token with no
    masked token before it, leaves the batch: nothing that comes later changes what stands before the stop.

    Args:
        model: bidirectional, in evaluation mode, as `raymdm.models.load` returns it.
        prompts: B arrays of token ids; lengths may differ.
        mask_id: the [MASK] token. It is never generated: a model can assign it a probability, and a token unmasked to
            [MASK] would be a gap in the text that later steps read as still unknown.
        pad_id: fills short prompts on the left; the model does not see it.
        generation_length: tokens to generate, a multiple of `block_length`.
        steps: denoising steps in all, a multiple of the number of blocks.
        block_length: tokens a block.
        stop_ids: tokens that end a text; with none, every row is generated to its end.
        forbidden_ids: more tokens that are never generated.
        shift: whether hidden state i - 1 predicts token i, as in Dream; state 0 then predicts token 0 as well.
        confidence_threshold: keep in each step every token of a higher probability too, and so spend fewer steps. With
            as many steps as tokens this is Fast-dLLM's rule: one token at least.
        prefix_cache: compute keys and values before the block in its first step alone (Fast-dLLM): an approximation,
            as they change with each token that is unmasked.

    Raises:
        UserError: `prefix_cache` and the model keeps no keys and values.
    """
    blocks = generation_length // block_length
    if blocks * block_length != generation_length or steps % blocks:
        raise ValueError("generation_length must be a multiple of block_length, and steps of the number of blocks")
    if model.training:
        raise ValueError("generation needs model.eval()")
    if prefix_cache:
        _require_cache(model)
    tokens, real = _canvas(prompts, pad_id, mask_id, generation_length, model.device)
    never = torch.tensor(sorted({mask_id, *forbidden_ids}), device=model.device)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=model.device)
    reader = _Reader(model, real, padded=not bool(real.all()), never=never, shift=shift, caching=prefix_cache)
    rows, start = torch.arange(len(prompts), device=model.device), tokens.shape[1] - generation_length
    passes = torch.zeros_like(rows)
    for left in range(start, start + generation_length, block_length):
        block, active = slice(left, left + block_length), rows
        reader.begin()
        for steps_left in range(steps // blocks, 0, -1):
            masked = tokens[active, block] == mask_id
            confidence, predicted = reader.predict(tokens, active, block, masked)
            chosen = _chosen(confidence, masked, steps_left, confidence_threshold)
            tokens[active, block] = torch.where(chosen, predicted, tokens[active, block])
            passes[active] += 1
            active = active[(masked & ~chosen).any(dim=1) & ~_ended(tokens[active, start:], mask_id, stops)]
            if not len(active):
                break
        rows = rows[~_ended(tokens[rows, start:], mask_id, stops)]
        if not len(rows):
            break
    return Generation(_closed(tokens[:, start:], stops), passes)


def _canvas(prompts: Prompts, pad_id: int, mask_id: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Padded prompts and `length` masks, (B, L) long, and which of them is no padding, (B, L) bool."""
    ids, real = left_pad(prompts, pad_id, device)
    new = ids.new_full((len(prompts), length), mask_id)
    return torch.cat([ids, new], dim=1), torch.cat([real, torch.ones_like(new, dtype=torch.bool)], dim=1)


def _require_cache(model: "PreTrainedModel") -> None:
    """Raise UserError unless the decoder keeps the keys and values of what it has read, and reads on from there."""
    from transformers import DynamicCache

    if "past_key_values" in inspect.signature(model.get_decoder().forward).parameters:
        cache = DynamicCache()
        model.get_decoder()(
            input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True
        )
        if cache.get_seq_length() == 2:
            return
    raise UserError(f"evaluate.prefix_cache: {type(model).__name__} keeps no keys and values. Set it to false")


def _chosen(confidence: Tensor, masked: Tensor, steps_left: int, threshold: float | None) -> Tensor:
    """Which tokens a step keeps, (A, b) bool: the most confident, an equal share of those masked for each step left.

    confidence: (A, b), -inf where not `masked`.
    """
    share = -(-masked.sum(dim=1, keepdim=True) // steps_left)
    rank = confidence.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
    chosen = rank < share
    return chosen if threshold is None else chosen | (confidence > threshold)


def _ended(text: Tensor, mask_id: int, stops: Tensor) -> Tensor:
    """Whether each row (A, *) of generated text has a stop token and no masked token before it, (A,) bool."""
    settled = (text != mask_id).cumprod(dim=1).bool()
    return (settled & torch.isin(text, stops)).any(dim=1)


def _closed(text: Tensor, stops: Tensor) -> Tensor:
    """The rows of `text` with their first stop token repeated to the end."""
    stop = torch.isin(text, stops)
    first = stop.int().argmax(dim=1, keepdim=True)
    return torch.where(stop.cumsum(dim=1) > 0, text.gather(1, first), text)


@dataclass
class _Reader:
    """A model that predicts the masked tokens of a block, and what it keeps of the block's prefix."""

    model: "PreTrainedModel"
    real: Tensor
    """(B, L) bool: no padding."""
    padded: bool
    never: Tensor
    """Tokens that are not predicted."""
    shift: bool
    caching: bool
    _cache: "DynamicCache | None" = None
    _cached: Tensor | None = None
    """The rows (A,) that the cache holds."""

    def begin(self) -> None:
        """Another block follows: its prefix is not known yet."""
        self._cache = self._cached = None

    def predict(self, tokens: Tensor, rows: Tensor, block: slice, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Probability and id of the most probable token, (A, b), at the `masked` positions of a block, else -inf and 0.

        tokens: (B, L); rows: (A,); masked: (A, b) bool.
        """
        positions = torch.arange(block.start, block.stop, device=tokens.device)
        sources = positions.expand_as(masked)
        if self.shift:
            before = (positions - 1).clamp(min=0)
            sources = torch.where(self.real[rows][:, before], before, positions)  # the first token has none before it
        offset, hidden = self._hidden(tokens, rows, max(block.start - self.shift, 0))
        row = torch.arange(len(rows), device=rows.device)[:, None].expand_as(masked)
        probability, best = self._most_probable(hidden[row[masked], sources[masked] - offset])
        confidence = torch.full(masked.shape, -torch.inf, dtype=torch.float64, device=tokens.device)
        predicted = torch.zeros_like(sources)
        confidence[masked], predicted[masked] = probability, best
        return confidence, predicted

    def _most_probable(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Probability (M,) float64 and id (M,) of each hidden state's (M, H) most probable token."""
        head, found = self.model.get_output_embeddings(), []
        positions = max(1, _LOGITS // cast(nn.Embedding, self.model.get_input_embeddings()).num_embeddings)
        for part in hidden.split(positions):
            logits: Tensor = head(part)
            logits[:, self.never] = -torch.inf
            best = logits.argmax(dim=-1, keepdim=True)
            # float64: in float32 probabilities near 1 are all equal
            distance = logits.double()
            distance -= distance.gather(1, best)
            found.append((1 / distance.exp_().sum(dim=-1), best[:, 0]))
        probability, ids = zip(*found, strict=True)
        return torch.cat(probability), torch.cat(ids)

    def _hidden(self, tokens: Tensor, rows: Tensor, first: int) -> tuple[int, Tensor]:
        """Last hidden states (A, L - offset, H), and offset: `first` where the prefix is cached, else 0."""
        if not self.caching:
            return 0, self._forward(tokens, rows, 0)
        from transformers import DynamicCache

        offset = 0
        if self._cache is None or self._cached is None:
            self._cache = DynamicCache()
        else:
            offset = first
            if len(self._cached) != len(rows):
                self._cache.batch_select_indices(torch.isin(self._cached, rows).nonzero()[:, 0])
        self._cached = rows
        hidden = self._forward(tokens, rows, offset)
        self._cache.crop(first - tokens.shape[1])
        if not first:
            self._cache = None  # it holds nothing, of rows that may leave
        return offset, hidden

    def _forward(self, tokens: Tensor, rows: Tensor, offset: int) -> Tensor:
        padding = {}
        if self.padded:
            real = self.real[rows]
            position_ids = (real.long().cumsum(dim=1) - 1).clamp(min=0)
            padding = {"attention_mask": real, "position_ids": position_ids[:, offset:]}
        cache = {"past_key_values": self._cache} if self.caching else {}
        output = self.model.get_decoder()(input_ids=tokens[rows, offset:], use_cache=self.caching, **cache, **padding)
        return cast(Tensor, output.last_hidden_state)
