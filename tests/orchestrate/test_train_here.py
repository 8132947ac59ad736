"""A process that trains one run after the other."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from raymdm.config.schema import Recipe
from raymdm.orchestrate.train import train_here
from raymdm.training import run

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize("changes", [{"train__activation_checkpointing": True}, {"train__parallel": "fsdp"}])
def test_a_run_leaves_no_weights_behind(
    make_recipe: MakeRecipe, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    layers: list[weakref.ref[nn.Module]] = []
    original = run.load_model

    def load(*arguments: Any) -> Any:
        model = original(*arguments)
        layers.append(weakref.ref(model.get_decoder().layers[0]))
        return model

    monkeypatch.setattr(run, "load_model", load)
    recipe = make_recipe(train__max_steps=2, train__eval_every=2, **changes)
    train_here(recipe, "standard", 1, str(tiny_data), "", str(tmp_path / "run"), lambda metrics: None)
    assert [layer() for layer in layers] == [None]
