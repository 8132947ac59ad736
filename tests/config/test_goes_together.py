"""Settings of large models that make no sense together are refused, with what to do."""

import pytest
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train__cpu_offload": True}, "`cpu_offload` needs `parallel: fsdp`"),
        ({"train__parallel": "fsdp", "train__refit_every": 10}, "`refit_every` cannot go with `parallel: fsdp`"),
        ({"train__parallel": "fsdp", "sweep__methods": ["clipped_search"]}, "`train.parallel: fsdp` cannot"),
        ({"train__loss_head": "cut_cross_entropy"}, "runs on GPUs alone: set `gpus_per_worker`"),
        ({"model__adapter": {"kind": "lora"}}, "a 'tiny' model has no weights worth keeping"),
        (
            {
                "model__kind": "pretrained", "model__path": "base", "model__adapter": {"kind": "qlora"},
                "train__parallel": "fsdp",
            },
            "`model.adapter.kind: qlora` cannot go with `train.parallel: fsdp`",
        ),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_refused(make_recipe, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        make_recipe(**changes)
