"""What all tests share: a quiet, offline, single-threaded environment, and where the data lies."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# Set before torch, Ray or a Hugging Face package is imported, and inherited by every process that a test starts.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray gives its own processes half a minute or a minute to start, a busy machine needs more
        "RAY_gcs_server_port_wait_time_s": "300",
        "RAY_agent_register_timeout_ms": "300000",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "300",
        "RAY_memory_monitor_refresh_ms": "0",  # where memory is short, Ray would kill runs
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        # a proxy of the machine's user knows nothing of the servers that tests start
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without byte code every Ray process would compile torch anew
os.environ.pop("RAY_ADDRESS", None)  # tests never run on somebody's cluster

import pytest
from hypothesis import settings

from raymdm.config.schema import Recipe
from raymdm.data.prepare import prepare

MakeRecipe = Callable[..., Recipe]

# No timed assertions; the same examples on every machine.
settings.register_profile("raymdm", deadline=None, derandomize=True)
settings.load_profile("raymdm")

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The top folder of the checkout."""
    return _ROOT


@pytest.fixture(scope="session")
def mount_disk() -> Callable[[Path, str], AbstractContextManager[Path]]:
    """`with mount_disk(folder, "1m")`: the folder is a disk of that size.

    Only root may, and not in every container: elsewhere the test is skipped, or fails with RAYMDM_REQUIRE_MOUNT=1.
    """

    @contextmanager
    def mount(folder: Path, size: str) -> Iterator[Path]:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            refused = pytest.fail if os.environ.get("RAYMDM_REQUIRE_MOUNT") == "1" else pytest.skip
            refused(f"only root may mount a small disk, and not in every container: {done.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)

    return mount


@pytest.fixture(scope="session")
def gsm8k_dir() -> Path:
    """The folder with GSM8K's official train.jsonl and test.jsonl; skips the test where it is missing."""
    named = os.environ.get("RAYMDM_GSM8K")
    folder = Path(named) if named else _ROOT.parent / "shared" / "data" / "gsm8k"
    missing = [name for name in ("train.jsonl", "test.jsonl") if not (folder / name).is_file()]
    if missing and named:
        pytest.fail(f"RAYMDM_GSM8K={named} has no {' and no '.join(missing)}")
    if missing:
        pytest.skip("GSM8K is not here: set RAYMDM_GSM8K to a folder with its train.jsonl and test.jsonl")
    return folder


def _tiny_recipe(**changes: object) -> Recipe:
    """A recipe that trains in a second: three digits to sort. `changes` are dotted fields, with `__` for the dot."""
    fields: dict[str, Any] = {
        "name": "tiny-test",
        "data": {"task": "sorting", "num_train": 60, "num_test": 12, "sorting": {"digits": 3}},
        "model": {
            "kind": "tiny", "hidden_size": 16, "intermediate_size": 24, "num_layers": 1, "num_heads": 2,
            "tokenizer": {"kind": "chars"},
        },
        "train": {"lr": 3e-3, "max_steps": 12, "global_batch_size": 8, "eval_every": 4, "log_every": 5,
                  "patience": None},
        "calibrate": {"grid": 70, "sequences": 3, "masks": 2, "batch_size": 64, "starts": 4},
        "evaluate": {"generation_length": 4, "steps": 4, "block_length": 4, "batch_size": 5},
        "sweep": {"methods": ["standard"], "seeds": [1]},
        "tracking": {"mlflow": False},
    }  # fmt: skip
    for name, value in changes.items():
        *sections, field = name.split("__")
        target = fields
        for section in sections:
            target = target.setdefault(section, {})
        target[field] = value
    return Recipe.model_validate(fields)


@pytest.fixture(scope="session")
def make_recipe() -> MakeRecipe:
    """Makes a recipe that trains in a second; see `_tiny_recipe`."""
    return _tiny_recipe


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared data of `make_recipe()`."""
    recipe = _tiny_recipe()
    return prepare(recipe.data, recipe.model, tmp_path_factory.mktemp("cache"))
