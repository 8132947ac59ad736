"""From token ids to the logits or cross-entropies of the target positions, and of no other.

Shape legend: R rows, L tokens a row, M targets in the batch, H hidden size, V vocabulary.
"""

from typing import TYPE_CHECKING, Literal, cast

from torch import Tensor, nn

from raymdm.errors import UserError
from raymdm.models.loss_head import LossHead, token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def right_shifted(model: "PreTrainedModel") -> bool:
    """Whether an MDM's hidden state i - 1 predicts token i, as Dream's does; `raymdm.models.load` has set it."""
    return bool(getattr(model.config, "right_shift_logits", False))


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
    """A causal LM that predicts target positions only: with 126,464 tokens most of the memory is logits.

    `family`: an `mdm`'s hidden state i predicts token i, or token i + 1 where the model is `right_shifted` (then state
    0 predicts token 0 as well); an `arm`'s predicts token i + 1. `raymdm.models.load` has checked that the head alone
    gives the model's logits.
    """

    def __init__(self, model: "PreTrainedModel", family: Literal["mdm", "arm"]) -> None:
        super().__init__()
        self.model = model
        self.family = family

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        targets: Tensor,
        labels: Tensor | None = None,
        loss_head: LossHead = "chunked",
    ) -> Tensor:
        """Cross-entropies (M,) of the targets in row-major order, float32; without labels their logits (M, V).

        Without a target the result, (0,) or (0, V), is still part of the graph.

        Args:
            input_ids: (R, L) long.
            attention_mask: (R, L) bool, True at real tokens; None when nothing is padded.
            targets: (R, L) bool, the M positions to predict.
            labels: (M,) long, the targets' tokens.
            loss_head: what computes cross-entropies, see `token_losses`.

        Raises:
            UserError: a row's first position is a target of an `arm`: there is no token before it; or `loss_head`
                cannot do its work here.
        """
        hidden = hidden_states(self.model, input_ids, attention_mask)
        chosen = self._before(hidden, targets) if self._shift else hidden[targets]
        head = cast(nn.Module, self.model.get_output_embeddings())
        return cast(Tensor, head(chosen)) if labels is None else token_losses(chosen, head, labels, loss_head)

    @property
    def _shift(self) -> bool:
        return self.family == "arm" or right_shifted(self.model)

    def _before(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The states (M, H) one position before the targets."""
        if self.family == "arm" and targets[:, 0].any():
            raise UserError(
                "a training row has an empty prompt: an autoregressive model predicts each token from the one "
                "before it. Give every row a prompt of at least one token"
            )
        rows, positions = targets.nonzero(as_tuple=True)
        return hidden[rows, (positions - 1).clamp(min=0)]
