"""Two servers, one store and a load balancer: servers are killed under load, and no session is lost.

Needs nginx, and valkey-server or redis-server (Debian: apt-get install nginx-light valkey-server); and the extras serve, valkey.

python examples/replicas/replicas.py RUN [--seconds 20] [--sessions 200]

RUN is a run of the task text. Clients open sessions through nginx and feed them text. Meanwhile one server is killed and started
again, and then the other one. Every answer is compared with that of a stream in this process, to the last bit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import throughtime as tt
from throughtime.serve import Client, RemoteSession
from throughtime.sessions import Stream

CLIENTS = 8
NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;

  upstream servers {{
    # A server that does not answer is left out for a second, then tried again.
    server 127.0.0.1:{ports[0]} max_fails=1 fail_timeout=1s;
    server 127.0.0.1:{ports[1]} max_fails=1 fail_timeout=1s;
  }}
  map $http_upgrade $connection_upgrade {{
    default upgrade;
    "" close;
  }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 2m;
    location / {{
      proxy_pass http://servers;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header Upgrade $http_upgrade;  # WebSockets
      proxy_set_header Connection $connection_upgrade;
      proxy_buffering off;  # completions are sent as they are written
      proxy_connect_timeout 2s;
      proxy_read_timeout 1h;
      # Chunks are numbered and read once, so one that a dead server may have read can be sent to the other, POST or not.
      proxy_next_upstream error timeout http_503 non_idempotent;
    }}
  }}
}}
"""


class Example:
    """The processes, in a folder with the store's file, the configuration of nginx and all logs."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.port, self.store_port, *self.ports = free_ports(4)
        self.url = f"http://127.0.0.1:{self.port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """All of them; ready when nginx answers from either server."""
        store = [
            program("valkey-server", "redis-server"), "--port", self.store_port, "--bind", "127.0.0.1", "--dir", self.folder,
            "--save", "", "--appendonly", "yes", "--appendfsync", "always",
        ]  # fmt: skip
        self.begin("store", store)
        for number in (0, 1):
            self.start_server(number)
        for port in self.ports:
            wait_for(f"http://127.0.0.1:{port}/healthz")
        config = self.folder / "nginx.conf"
        config.write_text(
            NGINX.format(folder=self.folder, ports=self.ports, port=self.port), encoding="utf-8"
        )
        self.begin(
            "nginx", [program("nginx"), "-c", config, "-p", self.folder, "-e", self.folder / "nginx.log"]
        )
        wait_for(f"{self.url}/healthz")

    def start_server(self, number: int) -> None:
        # All clients of this example come from one address, whose limits must hold for all of them.
        words = [
            sys.executable, "-m", "throughtime", "serve", self.run, "--port", self.ports[number],
            "--store", f"valkey://127.0.0.1:{self.store_port}/0", "--save-every", 1, "--open-rate", 0,
            "--client-connections", 1000,
        ]  # fmt: skip
        self.begin(f"server {number + 1}", words)

    def begin(self, name: str, words: list[object]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(each) for each in words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        """As a machine that loses its power."""
        process = self.processes[f"server {number + 1}"]
        process.send_signal(signal.SIGKILL)
        process.wait(30)

    def chunks(self, number: int) -> int:
        """How many chunks a server has read since its start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[number]}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            int(float(line.split()[-1])) for line in lines if line.startswith("throughtime_chunks_total")
        )

    def stop(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait(30)


class Load(threading.Thread):
    """A client with some sessions, which it feeds until the end, and the answers that it expects."""

    def __init__(self, url: str, fresh: Stream, sessions: int, until: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.url, self.until, self.draws = url, until, random.Random(seed)
        self.references = [fresh.fork() for _ in range(sessions)]
        self.answers = self.wrong = 0
        self.waits = [0.0]
        self.lost: dict[str, str] = {}  # why, by session

    def run(self) -> None:
        with Client(self.url) as client:
            sessions = [client.open() for _ in self.references]
            while time.monotonic() < self.until:
                self.feed(*self.draws.choice(list(zip(sessions, self.references, strict=True))))
            for pair in zip(sessions, self.references, strict=True):  # each is still there, where it was
                self.feed(*pair)

    def feed(self, session: RemoteSession, reference: Stream) -> None:
        text, began = "".join(self.draws.choices("abcdefgh ", k=self.draws.randint(1, 9))), time.monotonic()
        try:
            answer = session.feed(text)
        except tt.errors.ThroughtimeError as error:
            self.lost[session.id] = str(error)
            return
        self.waits.append(time.monotonic() - began)
        self.answers += 1
        self.wrong += answer != reference.feed(text)


def main() -> int:
    """Run it; the exit status is 1 where a session was lost or an answer was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--sessions", type=int, default=200)
    asked = parser.parse_args()
    with started(asked.run) as example:
        say(f"two servers behind {example.url}, with one store")
        fresh, until = tt.load(asked.run).stream(), time.monotonic() + asked.seconds
        share = -(-asked.sessions // CLIENTS)
        clients = [Load(example.url, fresh, share, until, seed) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        for number in (0, 1):
            time.sleep(asked.seconds / 5)
            say(f"server {number + 1}: {example.chunks(number):,} chunks; killed")
            example.kill(number)
            time.sleep(asked.seconds / 5)
            example.start_server(number)
            wait_for(f"http://127.0.0.1:{example.ports[number]}/healthz")
            say(f"server {number + 1}: started again")
        for client in clients:
            client.join(asked.seconds + 120)
        answers, wrong = sum(each.answers for each in clients), sum(each.wrong for each in clients)
        lost = [f"{id}: {why}" for each in clients for id, why in each.lost.items()]
        say(
            f"{CLIENTS * share} sessions, {answers:,} answers; the longest wait {max(max(each.waits) for each in clients):.1f} s"
        )
        say(f"answers that differ from those of a stream that nobody disturbed: {wrong}")
        say(f"sessions lost: {len(lost)}")
        for line in lost[:5]:
            say(line)
        hang = any(client.is_alive() for client in clients)
    return 1 if wrong or lost or hang or not answers else 0


@contextlib.contextmanager
def started(run: Path) -> Iterator[Example]:
    """All processes; they are stopped afterwards."""
    with tempfile.TemporaryDirectory(prefix="throughtime-replicas-") as name:
        example = Example(run, Path(name))
        try:
            example.start()
            yield example
        finally:
            example.stop()


def program(*names: str) -> str:
    """Where the first of some programs is that is installed."""
    for name in names:
        if found := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
            return found
    raise SystemExit(
        f"this example needs {' or '.join(names)}, which is not installed: apt-get install {names[0]}"
    )


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(url: str, seconds: float = 60.0) -> None:
    """Until a server answers."""
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                json.load(answer)
                return
        except (OSError, ValueError) as error:
            if time.monotonic() > until:
                raise SystemExit(f"{url} does not answer: {error}") from None
        time.sleep(0.1)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
