"""Spot notices of EC2: what the metadata service says, and what is done about it; Ray's part is a stand-in here."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
from fake_metadata import Metadata, metadata_service

from raymdm.errors import UserError
from raymdm.orchestrate import spot

ACTION = "spot/instance-action"
NOTICE = '{"action": "terminate", "time": "2017-09-18T08:22:00Z"}'
ENDS = 1505722920  # date --utc --date 2017-09-18T08:22:00Z +%s


@dataclass
class FakeCluster:
    """Stands for Ray's GcsClient."""

    alive: tuple[bytes, ...] = (b"\x0a", b"\x0b")
    refusal: str = ""
    failing: int = 0
    """Drains that fail yet."""
    drained: list[tuple[str, int]] = field(default_factory=list)
    """Node and deadline (ms)."""

    def get_all_node_info(self, **_: object) -> dict[bytes, None]:
        return dict.fromkeys(self.alive)

    def drain_node(self, node: str, reason: int, why: str, deadline: int, timeout: float) -> tuple[bool, str]:
        if self.failing:
            self.failing -= 1
            raise ray.exceptions.RpcError("the head is away")
        if self.refusal:
            return False, self.refusal
        self.drained.append((node, deadline))
        return True, ""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    monkeypatch.setattr(spot, "POLL_S", 0.01)
    with metadata_service(Metadata()) as running:
        yield running


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Nodes 0a and 0b; 0b is on this machine, and so is 0c, another cluster's."""
    made = FakeCluster()
    monkeypatch.setattr(ray._raylet, "GcsClient", lambda address: made)
    monkeypatch.setattr(spot, "find_node_ids", lambda: {"0b", "0c"})
    return made


def _until_the_notice(monkeypatch: pytest.MonkeyPatch, service: Metadata, looks: int) -> None:
    """The notice comes after some looks without it."""

    def sleep(_: float) -> None:
        nonlocal looks
        looks -= 1
        if looks <= 0:
            service.items[ACTION] = NOTICE

    monkeypatch.setattr(spot.time, "sleep", sleep)


def test_notice_s_time_is_read_as_utc() -> None:
    assert spot.deadline(NOTICE) == ENDS


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"time": 5}', '{"time": "soon"}', '{"time": "2017-09-18T08:22:00"}', "<html>"]
)
def test_what_is_no_notice_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="no notice of an interruption"):
        spot.deadline(text)


def test_item_that_is_not_there_is_none(service: Metadata) -> None:
    assert spot.metadata(service.url)(ACTION) is None


def test_one_token_serves_until_it_runs_out(service: Metadata) -> None:
    read = spot.metadata(service.url)
    assert [read("instance-life-cycle") for _ in range(3)] == ["spot"] * 3
    assert service.seconds == [str(spot.TOKEN_S)]
    service.tokens.clear()
    assert read("instance-life-cycle") == "spot"
    assert len(service.seconds) == 2


def test_new_token_that_is_refused_too_is_an_error(service: Metadata) -> None:
    service.failing["instance-life-cycle"] = [401, 401]
    with pytest.raises(OSError, match="401"):
        spot.metadata(service.url)("instance-life-cycle")
    assert len(service.seconds) == 1


def test_proxies_are_not_asked(service: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    assert spot.metadata(service.url)("instance-life-cycle") == "spot"


def test_notice_drains_this_machine_s_node_of_this_cluster_until_its_time(
    service: Metadata, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _until_the_notice(monkeypatch, service, looks=3)
    spot.listen("head:6379", service.url)
    assert cluster.drained == [("0b", 1000 * ENDS)]
    assert service.asked.count(ACTION) == 4


def test_on_demand_machine_is_not_listened_for(service: Metadata, cluster: FakeCluster) -> None:
    service.items = {"instance-life-cycle": "on-demand", ACTION: NOTICE}
    spot.listen("head:6379", service.url)
    assert cluster.drained == []


def test_service_that_fails_is_told_once_and_asked_again(
    service: Metadata, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.failing[ACTION] = [503] * 5
    _until_the_notice(monkeypatch, service, looks=7)
    spot.listen("head:6379", service.url)
    assert cluster.drained == [("0b", 1000 * ENDS)]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "will try again: HTTP Error 503: Service Unavailable"
    ]


def test_cluster_that_is_away_is_told_again(service: Metadata, cluster: FakeCluster) -> None:
    service.items[ACTION], cluster.failing = NOTICE, 3
    spot.listen("head:6379", service.url)
    assert cluster.drained == [("0b", 1000 * ENDS)]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"alive": (b"\x0a",)}, "no node of the Ray cluster"), ({"refusal": "busy"}, "does not drain node 0b: busy")],
    ids=["not here", "refused"],
)
def test_cluster_s_refusal_is_an_error(cluster: FakeCluster, change: dict[str, Any], message: str) -> None:
    for name, value in change.items():
        setattr(cluster, name, value)
    with pytest.raises(RuntimeError, match=message):
        spot.drain("head:6379", ENDS)


def test_what_would_keep_it_from_draining_is_told_before_the_notice(
    service: Metadata, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.alive = (b"\x0a",)

    def end(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(spot.time, "sleep", end)
    with pytest.raises(KeyboardInterrupt):
        spot.listen("head:6379", service.url)
    assert "no node of the Ray cluster runs on this machine" in caplog.text


def test_machine_that_is_not_of_ec2_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(spot, "POLL_S", 0)
    monkeypatch.setattr(sys, "argv", ["spot", "head:6379", "--service", "http://127.0.0.1:1"])
    with pytest.raises(SystemExit) as ended:
        spot.main()
    assert ended.value.code == 2
    assert "this is no machine of EC2" in caplog.records[-1].message


def test_service_of_another_cloud_is_not_ec2_s(service: Metadata) -> None:
    service.failing["api/token"] = [404] * spot.TRIES
    with pytest.raises(UserError, match="no machine of EC2"):
        spot.listen("head:6379", service.url)


def test_service_that_is_slow_to_come_up_is_waited_for(service: Metadata, cluster: FakeCluster) -> None:
    service.failing["api/token"] = [503] * (spot.TRIES - 1)
    service.items[ACTION] = NOTICE
    spot.listen("head:6379", service.url)
    assert cluster.drained == [("0b", 1000 * ENDS)]
