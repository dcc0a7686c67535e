"""A real S3 server on loopback for tests: SeaweedFS in one process, stopped by its pid."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ACCESS, SECRET = "test-access-key", "test-secret-key"
IDENTITIES = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on, all below 50000 (gRPC ports are these plus 10000)."""
    sockets, ports = [], []
    while len(ports) < number:
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        sockets.append(probe)
        if port < 50000:
            ports.append(port)
    for probe in sockets:
        probe.close()
    return ports


@dataclass
class S3Server:
    """Start with `start`, break with `kill`, start again on the same data and ports."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(4))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[3]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        config.write_text(json.dumps(IDENTITIES))
        master, volume, filer, s3 = self.ports
        command = [
            str(Path(sys.executable).with_name("weed")),
            "-logdir",
            str(self.folder),
            "server",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            "-master.volumeSizeLimitMB=256",
            f"-volume.port={volume}",
            "-volume.max=1000",
            f"-filer.port={filer}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
        ]
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115 - the server keeps it
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._await_ready()

    def client(self) -> object:
        config = Config(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=10)
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=config,
        )

    def _await_ready(self, *, seconds: float = 60) -> None:
        """Wait until the server stores and gives back an object."""
        deadline = time.monotonic() + seconds
        client = self.client()
        while True:
            with suppress(ClientError, BotoCoreError):  # it may be there from before a restart
                client.create_bucket(Bucket="probe")  # type: ignore[attr-defined]
            try:
                stamp = os.urandom(8)
                client.put_object(Bucket="probe", Key="k", Body=stamp)  # type: ignore[attr-defined]
                got = client.get_object(Bucket="probe", Key="k")  # type: ignore[attr-defined]
                if got["Body"].read() == stamp:
                    return
            except (ClientError, BotoCoreError) as error:
                last = error
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            if time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not answer: {last}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Stop it at once, as a crash would."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None
