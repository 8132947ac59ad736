"""What all tests share: a quiet, offline, single-threaded environment, and where the data lies."""

import os
from pathlib import Path

# Set before torch, Ray or a Hugging Face package is imported, and inherited by every process that a test starts.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without byte code every Ray process would compile torch anew
os.environ.pop("RAY_ADDRESS", None)  # tests never run on somebody's cluster

import pytest
from hypothesis import settings

# No timed assertions; the same examples on every machine.
settings.register_profile("raymdm", deadline=None, derandomize=True)
settings.load_profile("raymdm")

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The top folder of the checkout."""
    return _ROOT


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
