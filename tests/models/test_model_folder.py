"""A model's folder, looked at without its weights' numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raymdm.errors import UserError
from raymdm.models.folder import check_weights, family, require_model
from tests.models.llada_reference import write_llada

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_llada(tmp_path / "model", files=3)
    return tmp_path / "model"


def plain(folder: Path, **fields: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **fields}))
    save_file({"x": torch.zeros(2)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("files", [1, 3])
def test_whole_weights_are_counted(tmp_path: Path, files: int) -> None:
    write_llada(tmp_path, files=files)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert check_weights(tmp_path, "here") == (files, size)


def shorten(folder: Path, size: int) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:size])


def lengthen(folder: Path) -> None:
    with (folder / "model-00002-of-00003.safetensors").open("ab") as file:
        file.write(b"more")


def misplace(folder: Path) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"]["model.transformer.wte.weight"] = "model-00002-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: shorten(folder, -1), r"model-00002-of-00003\.safetensors has \d+ bytes, but its header says"),
        (lambda folder: shorten(folder, 40), r"model-00002-of-00003\.safetensors is broken: it was cut short"),
        (lambda folder: shorten(folder, 0), r"model-00002-of-00003\.safetensors is broken"),
        (lengthen, r"model-00002-of-00003\.safetensors has \d+ bytes, but its header says"),
        (lambda folder: (folder / "model-00003-of-00003.safetensors").unlink(), r"model-00003.*, of 3 .* is missing"),
        (misplace, r"model-00002-of-00003\.safetensors lacks the tensor model\.transformer\.wte\.weight"),
        (lambda folder: (folder / INDEX).unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / INDEX).write_text("{"), r"index\.json is broken"),
    ],
    ids=["cut short", "cut in its header", "empty", "too long", "missing", "misplaced", "no index", "broken index"],
)
def test_weights_that_are_not_whole_are_refused(sharded: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(sharded)
    with pytest.raises(UserError, match=rf"^here: .*{said}"):
        check_weights(sharded, "here")


def test_a_header_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="is broken"):
        check_weights(tmp_path, "here")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, "arm"), ({"is_causal": True}, "arm"), ({"is_causal": False}, "mdm")],
    ids=["silent", "causal", "bidirectional"],
)
def test_the_family_of_a_model_of_transformers(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    assert family(plain(tmp_path / "model", **fields), "here") == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "illada", "architectures": ["ILLaDAForCausalLM"]},
        {"model_type": "Dream", "architectures": ["DreamModel"]},
    ],
    ids=["illada", "dream"],
)
def test_masked_checkpoints_are_mdms_by_their_type(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert family(plain(tmp_path / "model", **fields), "here") == "mdm"


def test_llada_is_an_mdm(sharded: Path) -> None:
    assert family(sharded, "here") == "mdm"


def test_updates_without_a_configuration_do_not_say(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    require_model(tmp_path, "--model")
    assert family(tmp_path, "here") is None


def test_a_model_in_several_files_is_one(sharded: Path) -> None:
    require_model(sharded, "--model")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "--model: .*model is no folder"),
        (["config.json"], r"--model: .* holds no model\.safetensors, model\.safetensors\.index\.json or adapter_model"),
        (["model.safetensors"], r"--model: .* holds no config\.json"),
    ],
    ids=["nothing", "no weights", "no config"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, files: list[str] | None, said: str) -> None:
    folder = tmp_path / "model"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=said):
        require_model(folder, "--model")
