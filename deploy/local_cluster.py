"""A Ray head and two workers on this machine, to try what a cluster does: `make cluster-local`.

Prints the address for `--cluster`. Ends with Ctrl-C, and takes down what it started.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from types import FrameType

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray.cluster_utils import Cluster

OBJECT_STORE_BYTES = 100 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="nodes besides the head")
    parser.add_argument("--cpus", type=int, default=1, help="processors of each node")
    given = parser.parse_args()

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    node = {"num_cpus": given.cpus, "object_store_memory": OBJECT_STORE_BYTES}
    head = {**node, "include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(given.workers):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        print(
            f"a head and {given.workers} workers are up; use them with --cluster {cluster.address}"
        )
        print(f"dashboard: http://{cluster.head_node.webui_url}; Ctrl-C ends them", flush=True)
        while True:
            signal.pause()
    except KeyboardInterrupt:
        print("taking the nodes down", flush=True)
    finally:
        cluster.shutdown()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
