"""Hear that EC2 takes this spot machine away, and drain its Ray nodes: runs on them then write a checkpoint in time.

Ray asks no cloud for that. `python -m raymdm.orchestrate.spot HOST:PORT` runs beside Ray on a worker of AWS, with the
cluster's address; cluster.yaml starts it. It ends when it has drained, and with 2 where it can hear nothing.
"""

import argparse
import json
import logging
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

import ray
from ray._private.services import find_node_ids
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import RayError

from raymdm.errors import UserError

SERVICE = "http://169.254.169.254"
"""EC2's instance metadata service, which only the machine itself reaches."""
POLL_S = 5.0
"""Seconds between two looks, as AWS advises; a notice comes two minutes before the end."""
TOKEN_S = 21600
"""Seconds that a token of the service holds; the most there is."""
TIMEOUT_S = 5.0
"""Of a request to the service or to Ray."""
TRIES = 3
"""Looks after which a service that has never answered is not there."""

_log = logging.getLogger("raymdm.spot")


def metadata(service: str) -> Callable[[str], str | None]:
    """A function that reads an item of the metadata service (IMDSv2), None where there is none; it raises OSError or
    HTTPException when the service does not answer, or refuses."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy knows this machine's service
    token: list[str] = []

    def answer(method: str, path: str, **headers: str) -> str:
        named = {f"X-aws-ec2-metadata-{name.replace('_', '-')}": value for name, value in headers.items()}
        request = urllib.request.Request(f"{service}/latest/{path}", headers=named, method=method)  # noqa: S310 (ours)
        with opener.open(request, timeout=TIMEOUT_S) as response:
            return str(response.read().decode())

    def read(item: str) -> str | None:
        if fresh := not token:
            token.append(answer("PUT", "api/token", token_ttl_seconds=str(TOKEN_S)))
        try:
            return answer("GET", f"meta-data/{item}", token=token[0])
        except HTTPError as error:
            if error.code == 404:
                return None
            token.clear()
            if error.code == 401 and not fresh:  # it has run out
                return read(item)
            raise

    return read


def deadline(notice: str) -> float:
    """When the machine goes, in seconds since 1970, from the item `spot/instance-action`; else raises ValueError."""
    try:
        return datetime.strptime(json.loads(notice)["time"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"this is no notice of an interruption: {notice!r}") from error


def own_nodes(cluster: Any) -> list[str]:
    """Ids of the nodes of the cluster (a GcsClient) that are on this machine; RuntimeError where there is none."""
    alive = cluster.get_all_node_info(timeout=TIMEOUT_S, state_filter=GcsNodeInfo.GcsNodeState.ALIVE)
    # by the process table: Ray tells only its own workers which node they are on
    if here := sorted(find_node_ids() & {node.hex() for node in alive}):
        return here
    raise RuntimeError("no node of the Ray cluster runs on this machine")


def drain(address: str, ends: float) -> list[str]:
    """Tell the cluster at `address` that this machine goes at `ends` (seconds since 1970); returns its nodes' ids.

    Raises RayError or RuntimeError when the cluster does not take it.
    """
    cluster = ray._raylet.GcsClient(address=address)
    reason, why = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "EC2 takes this spot machine away"
    for node in (here := own_nodes(cluster)):
        accepted, problem = cluster.drain_node(node, reason, why, int(1000 * ends), timeout=TIMEOUT_S)
        if not accepted:
            raise RuntimeError(f"the Ray cluster does not drain node {node}: {problem}")
    return here


def listen(address: str, service: str = SERVICE) -> None:
    """Return when this machine's nodes are drained; at once where it is on demand, which EC2 does not take away.

    Raises UserError where the service never answers.
    """
    read, life, ready, failed, told = metadata(service), "", False, 0, ""
    while True:
        try:
            life = life or read("instance-life-cycle") or "unknown"
            if life == "on-demand":
                _log.info("this machine is on demand: EC2 does not take it away")
                return
            if (notice := read("spot/instance-action")) is not None:
                _log.info("EC2 says %s: drained %s", notice, drain(address, deadline(notice)))
                return
            if not ready:  # what would keep it from draining is told now, not in the last two minutes
                _log.info("listening for %s", own_nodes(ray._raylet.GcsClient(address=address)))
            ready, told = True, ""
        except (OSError, HTTPException, ValueError, RayError, RuntimeError) as error:
            failed += 1
            if not life and failed == TRIES:
                raise UserError(
                    f"no instance metadata from {service} ({error}): this is no machine of EC2, or its service is off, "
                    "or out of a container's reach (docker's --net=host, or a hop limit of 2)"
                ) from error
            if str(error) != told:  # once, not at every look
                _log.warning("will try again: %s", error)
            told = str(error)
        time.sleep(POLL_S)


def main() -> None:
    """The command: its messages go to stderr, with times."""
    parser = argparse.ArgumentParser(prog="python -m raymdm.orchestrate.spot", description=__doc__.partition("\n")[0])
    parser.add_argument("address", metavar="HOST:PORT", help="The Ray cluster's address.")
    parser.add_argument("--service", default=SERVICE, help="Another address of the metadata service.")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        listen(given.address, given.service)
    except UserError as error:
        _log.error("%s", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
