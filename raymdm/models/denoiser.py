"""From token ids to the logits of the target positions, and of no other.

Shape legend: R rows, L tokens a row, M targets in the batch, H hidden size, V vocabulary.
"""

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from raymdm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def hidden_states(model: "PreTrainedModel", input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Last hidden states (R, L, H) of a causal LM's decoder; those of padding positions mean nothing.

    Args:
        input_ids: (R, L) long.
        attention_mask: (R, L) bool, True at real tokens; None when nothing is padded. Positions count real tokens
            from 0, so that padding on either side gives what the unpadded row gives.
    """
    padding = {}
    if attention_mask is not None:
        position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        padding = {"attention_mask": attention_mask, "position_ids": position_ids}
    return cast(Tensor, model.get_decoder()(input_ids=input_ids, use_cache=False, **padding).last_hidden_state)


class Denoiser(nn.Module):
    """A causal LM that returns logits at target positions only: with 126,464 tokens most of the memory is logits.

    `shift`: True for next-token prediction (hidden state i - 1 predicts token i), False for a masked diffusion model
    (hidden state i predicts token i). `raymdm.models.load` has checked that the head alone gives the model's logits.
    """

    def __init__(self, model: "PreTrainedModel", shift: bool) -> None:
        super().__init__()
        self.model = model
        self.shift = shift

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, targets: Tensor) -> Tensor:
        """Logits (M, V) of the targets in row-major order; (0, V), still part of the graph, when there is none.

        Args:
            input_ids: (R, L) long.
            attention_mask: (R, L) bool, True at real tokens; None when nothing is padded.
            targets: (R, L) bool, the M positions to predict.

        Raises:
            UserError: `shift` and a row's first position is a target: there is no token before it.
        """
        hidden = hidden_states(self.model, input_ids, attention_mask)
        if self.shift:
            if targets[:, 0].any():
                raise UserError(
                    "a training row has an empty prompt: an autoregressive model predicts each token from the one "
                    "before it. Give every row a prompt of at least one token"
                )
            hidden, targets = hidden[:, :-1], targets[:, 1:]
        return cast(Tensor, self.model.get_output_embeddings()(hidden[targets]))
