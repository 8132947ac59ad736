"""A sweep whose runs work on an object store, as nodes do that share no folder."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import boto3
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from raymdm.config.schema import Recipe
from raymdm.orchestrate.folder import SweepFolder

MakeRecipe = Callable[..., Recipe]
RunSweep = Callable[..., tuple[SweepFolder, str]]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a folder in a bucket on this machine."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        endpoint = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="sweeps")
        yield f"s3://sweeps/all?region=us-east-1&scheme=http&endpoint_override={quote(f'{host}:{port}')}"
    server.stop()


def _scores(folder: SweepFolder, method: str) -> pd.DataFrame:
    return pd.read_parquet(folder.trial(method, 1) / "scores.parquet")


def test_a_sweep_on_an_object_store_equals_the_local_one_and_goes_on_elsewhere(
    make_recipe: MakeRecipe, run_sweep: RunSweep, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMDM_CACHE", str(tmp_path / "cache"))
    changes = {"sweep__methods": ["standard", "p_pots_mirror"], "train__checkpoint_every": 3}
    local, _ = run_sweep(make_recipe(output=str(tmp_path / "local"), **changes))
    remote, _ = run_sweep(make_recipe(output=str(tmp_path / "here"), storage_path=bucket, **changes))
    for method in ("standard", "p_pots_mirror"):
        pd.testing.assert_frame_equal(_scores(remote, method), _scores(local, method))
    assert not (remote.trial("standard", 1) / "model").exists()
    assert remote.storage.exists("trials/standard-s1/model/model.safetensors")
    assert not remote.storage.exists("train/standard-s1")
    shutil.rmtree(tmp_path / "here")
    grown = make_recipe(output=str(tmp_path / "there"), storage_path=bucket, sweep__seeds=[1, 2], **changes)
    found, text = run_sweep(grown, resume=True)
    assert "2 of 4 runs are done already" in text
    assert found.path.name == remote.path.name
    assert found.state()["status"] == "finished"
    pd.testing.assert_frame_equal(_scores(found, "standard"), _scores(local, "standard"))
