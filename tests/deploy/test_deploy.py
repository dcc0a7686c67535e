"""What is deployed: files that their tools accept, and clusters that really start and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.soak.flaky import command_of, descendants

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for shard in range(3):
        rows = [{"text": f"document {n} of shard {shard}"} for n in range(20)]
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        (tmp_path / "in" / f"{shard}.jsonl").write_bytes(data)
    (tmp_path / "mine.yaml").write_text("steps: [exact_dedup]\n")
    return tmp_path


def test_ray_s_autoscaler_accepts_the_cluster_on_aws() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((DEPLOY / "ray-aws.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    gpus = config["available_node_types"]["gpus"]["resources"]
    assert gpus["CPU"] >= gpus["GPU"] > 0  # a task that asks for a GPU asks for a processor too
    assert (DEPLOY / ".." / "constraints.txt").is_file()


def test_the_images_run_the_ray_that_the_project_is_tested_with() -> None:
    [pinned] = [
        line.removeprefix("ray==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("ray==")
    ]
    cluster = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert cluster["spec"]["rayVersion"] == pinned
    assert f"rayproject/ray:{pinned}-" in (DEPLOY / "Dockerfile").read_text()
    groups: list[Any] = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        assert container["envFrom"][0]["secretRef"]["optional"] is True
        assert group["rayStartParams"]["metrics-export-port"] == "8080"


@pytest.mark.parametrize("script", ["slurm-run.sh", "slurm-train.sh"])
def test_slurm_scripts_are_sound_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / script)], check=True)


SRUN = """#!/bin/bash
while true; do
    case "$1" in
        -w) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
exec "$@"
"""


def test_the_slurm_script_runs_a_command_on_the_ray_that_it_starts(pool: Path) -> None:
    """`srun` and `scontrol` are stand-ins: one node, this one."""
    from ray.util import get_node_ip_address

    tools = pool / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text("#!/bin/bash\necho here\n")
    (tools / "srun").write_text(SRUN)
    (tools / "hostname").write_text(f"#!/bin/bash\necho {get_node_ip_address()} fe80::1\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    command = ["bash", str(DEPLOY / "slurm-run.sh"), sys.executable, "-m", "pipelines", "run"]
    command += [str(pool / "mine.yaml"), "--input", str(pool / "in"), "--out", str(pool / "out")]
    log = (pool / "log").open("wb")
    job = subprocess.Popen(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(pool),  # where the token is kept
            "SLURM_JOB_NODELIST": "here",
            "SLURM_JOB_ID": str(os.getpid()),
        },
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        while job.poll() is None and not (pool / "out" / "report.html").is_file():
            time.sleep(0.2)
        job.wait(timeout=300)
    finally:
        end(job)
    assert job.returncode == 0, (pool / "log").read_text()[-3000:]
    record = orjson.loads((pool / "out" / "record.json").read_bytes())
    assert record["counts"]["rows_out"] == 60


def end(job: subprocess.Popen[Any]) -> None:
    """End what the job left in its session, as Slurm does."""
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and os.getsid(int(path.name)) == job.pid:
                os.kill(int(path.name), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue


def test_a_local_cluster_starts_runs_and_takes_itself_down(pool: Path) -> None:
    cluster = subprocess.Popen(
        [sys.executable, str(DEPLOY / "local_cluster.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert cluster.stdout is not None
        line = cluster.stdout.readline()
        assert "a head and 2 workers are up" in line
        nodes = [pid for pid in descendants(cluster.pid) if "raylet" in command_of(pid)]
        assert len([pid for pid in nodes if "/raylet" in command_of(pid).split(" ")[0]]) == 3
        command = [sys.executable, "-m", "pipelines", "run", str(pool / "mine.yaml")]
        command += ["--input", str(pool / "in"), "--out", str(pool / "out")]
        done = subprocess.run(
            [*command, "--cluster", line.split()[-1]], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "Ray dashboard: http://" in done.stderr
    finally:
        cluster.send_signal(signal.SIGINT)
        assert cluster.wait(timeout=300) == 0
    assert not [pid for pid in nodes if "/raylet" in command_of(pid)]
