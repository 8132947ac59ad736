"""A snapshot is what the run was at its step, whatever comes after."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from raymdm.config.schema import Recipe
from raymdm.models.load import save_model
from raymdm.storage import Storage
from raymdm.training.loop import Job, Worker, build, train_step
from raymdm.training.optimizer import load_moments, read_moments
from raymdm.training.state import RunState
from raymdm.training.writer import Writer, take

MakeRecipe = Callable[..., Recipe]


def test_later_steps_leave_a_snapshot_alone(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    where = Worker(lambda metrics: None, Storage(str(tmp_path / "run")))
    run = build(Job(make_recipe(), "standard", 42, tiny_data), where, tmp_path)
    train_step(run)
    weights = {name: weight.clone() for name, weight in run.denoiser.model.state_dict().items()}
    moments = str(run.optimizer.state_dict())
    snapshot = take(run.denoiser.model, run.optimizer, run.state)
    train_step(run)
    run.writer.begin(snapshot)
    assert run.writer.ended() is None
    folder = tmp_path / "run" / "step-00000001"
    kept = load_file(folder / "model" / "model.safetensors")
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in weights.items())
    load_moments(run.optimizer, read_moments(folder, None))
    assert str(run.optimizer.state_dict()) == moments


def test_the_type_is_that_of_the_weights_at_their_step(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """A sharded model's weights are bfloat16 for as long as they are whole."""
    where = Worker(lambda metrics: None, Storage(str(tmp_path / "run")))
    run = build(Job(make_recipe(), "standard", 42, tiny_data), where, tmp_path)
    snapshot = take(run.denoiser.model, run.optimizer, run.state)
    run.denoiser.to(torch.bfloat16)
    run.writer.begin(snapshot)
    assert run.writer.ended() is None
    assert json.loads((tmp_path / "run" / "step-00000000" / "model" / "config.json").read_text())["dtype"] == "float32"


def test_a_model_with_tied_weights_is_written_as_transformers_does(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    save_model(model, tmp_path / "plain")
    writer = Writer(Storage(str(tmp_path / "run")), 1, tmp_path, set())
    writer.begin(take(model, torch.optim.AdamW(model.parameters()), RunState(step=3, best_step=3, best_nll=1.0)))
    writer.close()
    assert writer.problem is None
    for which in ("model", "best"):
        written = tmp_path / "run" / "step-00000003" / which / "model.safetensors"
        assert written.read_bytes() == (tmp_path / "plain" / "model.safetensors").read_bytes()


def test_the_best_model_is_kept_where_its_checkpoint_was_there_already(
    tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """Another process of the run wrote the step: nothing is written, but the best model is known from then on."""
    where = Worker(lambda metrics: None, Storage(str(tmp_path / "run")))
    job = Job(make_recipe(), "standard", 42, tiny_data)
    run = build(job, where, tmp_path / "one")
    train_step(run)
    run.state.best_nll, run.state.best_step = 1.0, 1
    other = Writer(where.checkpoints, 2, tmp_path / "other", set())
    for writer in (other, run.writer):
        writer.begin(take(run.denoiser.model, run.optimizer, run.state))
        assert writer.ended() is None
    best = load_file(tmp_path / "run" / "step-00000001" / "best" / "model.safetensors")
    train_step(run)
    run.writer.begin(take(run.denoiser.model, run.optimizer, run.state))
    assert run.writer.ended() is None
    kept = load_file(tmp_path / "run" / "step-00000002" / "best" / "model.safetensors")
    assert all(torch.equal(kept[name], weight) for name, weight in best.items())
