"""`python -m benchmarks.faults`: many sessions on real servers, under load and faults; every answer is checked, to the last bit.

Clients open, feed, leave, resume, restore, fork, reset and close sessions at random over WebSockets and HTTP. They kill sockets,
send chunks twice, leave chunks out, send halves of requests, and do not read; servers are killed and stopped, and start again
from the store. For each session a stream in this process is fed the same, and every answer must be its answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

import throughtime as tt
from benchmarks.faults_clients import Client
from benchmarks.faults_connection import ANSWER_S, Crowd, Lost, Remote, Report

_SETTLED_S = 3.0  # after a restart, until waits are counted again
_DOOMED = 20  # sessions that are left alone until they expire


class Plan(NamedTuple):
    """What is done, and to what."""

    run: Path
    folder: Path  # for the store and the servers' logs
    sessions: int = 10_000
    seconds: float = 600.0
    clients: int = 64
    servers: int = 1
    store: str = "sqlite"  # or "valkey"
    kill_s: float = 45.0  # between two kills
    expire_s: float = 560.0
    max_live: int = 0  # 0: all sessions fit
    seed: int = 0


class Server:
    """A process of `throughtime serve`."""

    def __init__(self, plan: Plan, number: int, store: str) -> None:
        self.port, self.log = free_port(), plan.folder / f"server{number}.log"
        self.words = [
            sys.executable, "-m", "throughtime", "serve", plan.run, "--port", self.port, "--store", store, "--save-every", 1,
            "--max-live", plan.max_live or 2 * plan.sessions, "--expire-s", plan.expire_s, "--open-rate", 0,
            "--client-connections", 4 * plan.clients, "--max-connections", 4 * plan.clients,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(each) for each in self.words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + ANSWER_S
        while not await self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-2000:]}")
            await asyncio.sleep(0.05)

    async def stop(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        await asyncio.to_thread(self.process.wait, ANSWER_S)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.write(
            f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n".encode()
        )
        found = b""
        with contextlib.suppress(OSError):
            found = await reader.read(100)
        writer.close()
        return b" 200 " in found.partition(b"\r\n")[0]

    def memory(self) -> int:
        """Bytes in use."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class KeyServer:
    """A valkey-server or redis-server that writes every change to its disk before it answers."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        if program is None:
            raise SystemExit(
                "--store valkey needs valkey-server or redis-server: apt-get install valkey-server"
            )
        self.port = free_port()
        self.url = f"valkey://127.0.0.1:{self.port}/0"
        self.words = [
            program, "--port", self.port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes",
            "--appendfsync", "always", "--logfile", folder / "store.log",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([str(each) for each in self.words], stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(ANSWER_S)


class Result(NamedTuple):
    """What a run of faults showed."""

    plan: Plan
    report: Report
    seconds: float  # of load
    away: float  # seconds of them in which a server was down
    state: int  # bytes of a session's state
    memory: float  # bytes of a session in the server, its state included
    failures: list[str]  # in the servers' logs

    @property
    def good(self) -> bool:
        return not (self.report.mixed or self.report.lost or self.failures)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def measure(plan: Plan) -> Result:
    """Fill the servers with sessions, act for the plan's time, then feed every session once more."""
    key_server = KeyServer(plan.folder) if plan.store == "valkey" else None
    if key_server is not None:
        key_server.start()
    store = str(plan.folder / "sessions.db") if key_server is None else key_server.url
    servers = [Server(plan, number, store) for number in range(plan.servers)]
    trained = tt.load(plan.run)
    fresh = trained.stream()
    alphabet = "".join(
        each for each in fresh.processor.about()["symbols"] if len(each) == 1 and each.isprintable()
    )
    crowd = Crowd([each.port for each in servers], fresh, alphabet, plan.expire_s, plan.seed)
    clients = [Client(crowd, number) for number in range(plan.clients)]
    killer = None
    try:
        await asyncio.gather(*(each.start() for each in servers))
        for _ in range(20):  # memory that a server takes but once
            crowd.idle.append(await _opened(clients[0]))
        before = sum(each.memory() for each in servers)
        await asyncio.gather(*(_fill(each, plan.sessions) for each in clients))
        memory = (sum(each.memory() for each in servers) - before) / (len(crowd.idle) - 20)
        doomed = [await _opened(clients[0]) for _ in range(_DOOMED)]
        filled, start = crowd.report.chunks, time.monotonic()
        crowd.report.waits.clear()
        crowd.end = start + plan.seconds
        killer = asyncio.create_task(_kill(plan, crowd, servers, key_server))
        work = asyncio.gather(*(each.work() for each in clients))
        await asyncio.wait((work, killer), return_when=asyncio.FIRST_EXCEPTION)
        if killer.done() and killer.exception() is not None:  # a server that did not start again
            work.cancel()
            await killer
        await work
        seconds, away = time.monotonic() - start, await killer
        crowd.report.chunks -= filled
        chunks = crowd.report.chunks
        await asyncio.gather(*(_last(each) for each in clients))
        await asyncio.sleep(max(0.0, doomed[-1].touched + plan.expire_s + 0.5 - time.monotonic()))
        await _gone(clients[0], doomed)
        crowd.report.chunks = chunks
        for each in servers:
            await each.stop(signal.SIGTERM)
    finally:
        if killer is not None:
            killer.cancel()
        for each in servers:
            if each.process is not None:
                each.process.kill()
                each.process.wait(ANSWER_S)
        if key_server is not None:
            key_server.kill()
    state = sum(value.numel() * value.element_size() for value in _warm(fresh).state.values())
    failures = [
        line
        for each in servers
        for line in each.log.read_text().splitlines()
        if "Traceback" in line or "Error" in line
    ]
    return Result(plan, crowd.report, seconds, away, state, memory, failures)


def _warm(fresh: Any) -> Any:
    stream = fresh.fork()
    stream.feed("a")
    return stream


async def _opened(client: Client) -> Remote:
    session = client.crowd.new()
    await client.open(session)
    await client.feed(session)
    return session


async def _fill(client: Client, sessions: int) -> None:
    crowd = client.crowd
    while len(crowd.idle) + crowd.report.did["opening"] < sessions:
        crowd.report.did["opening"] += 1
        session = await _opened(client)
        crowd.report.did["opening"] -= 1
        crowd.idle.append(session)


async def _last(client: Client) -> None:
    """Every session is there, where it should be."""
    while client.crowd.idle:
        session = client.crowd.idle.pop()
        try:
            await client.feed(session)
        except Lost as error:
            if client.cause != "expired" or time.monotonic() - session.touched < 0.8 * client.crowd.expire_s:
                client.crowd.report.lost.append(f"at the end: {error}")
    await client.leave()


async def _gone(client: Client, doomed: list[Remote]) -> None:
    """Sessions that nobody used have expired, and the server says so."""
    for session in doomed:
        session.seq += 1
        session.last = "x"
        answer = await client.ask(client.chunk(session))
        if answer.get("cause") != "expired":
            client.crowd.report.lost.append(f"a session left alone should have expired, got {answer}")
        client.crowd.report.did["expired"] += 1


async def _kill(plan: Plan, crowd: Crowd, servers: list[Server], key_server: KeyServer | None) -> float:
    """Kill and stop servers in turn, and the store; the seconds in which one was down."""
    away, turn = 0.0, 0
    while True:
        await asyncio.sleep(min(plan.kill_s, max(0.0, crowd.end - time.monotonic())))
        if time.monotonic() >= crowd.end:
            return away
        began = time.monotonic()
        crowd.disturbed = float("inf")
        if key_server is not None and turn % 3 == 2:
            key_server.kill()
            await asyncio.sleep(crowd.draws.uniform(0.0, 2.0))
            key_server.start()
            crowd.report.did["store killed"] += 1
        else:
            server, how = (
                servers[turn % len(servers)],
                (signal.SIGKILL, signal.SIGTERM)[turn // len(servers) % 2],
            )
            if len(servers) == 1:
                crowd.up.clear()
            await server.stop(how)
            await server.start()
            crowd.up.set()
            crowd.report.did["server killed" if how is signal.SIGKILL else "server stopped"] += 1
        away += time.monotonic() - began
        crowd.disturbed = time.monotonic() + _SETTLED_S
        turn += 1


def text(result: Result) -> str:
    """The report."""
    plan, report = result.plan, result.report
    waits = sorted(report.waits) or [float("nan")]
    quantile = {share: 1000 * waits[min(len(waits) - 1, int(share * len(waits)))] for share in (0.5, 0.99)}
    kib = [each / 1024 for each in (result.memory, result.state, result.memory - result.state)]
    rate, cores = report.chunks / result.seconds, len(os.sched_getaffinity(0))
    memory = f"memory of a session           {kib[0]:.1f} KiB: state {kib[1]:.1f}, the rest {kib[2]:.1f}"
    rows = [
        f"{plan.sessions:,} sessions, {plan.clients} clients, servers: {plan.servers}, store: {plan.store}, cores: {cores}",
        f"chunks answered and checked   {report.chunks:,} in {result.seconds:.0f} s, {rate:,.0f} a second; "
        f"a server was down for {result.away:.0f} s",
        f"answers of a wrong session    {len(report.mixed)}",
        f"sessions lost                 {len(report.lost)}",
        f"failures in the servers' logs {len(result.failures)}",
        f"time to an answer             median {quantile[0.5]:.1f} ms, 99 % within {quantile[0.99]:.1f} ms, of {len(waits):,}",
        *([memory] if plan.servers == 1 and not plan.max_live else []),
        "",
        *(f"{count:>9,}  {what}" for what, count in report.did.most_common() if count),
        "",
        "refused, which clients saw: "
        + ", ".join(f"{cause} {count:,}" for cause, count in report.refused.most_common()),
    ]
    rows += [f"WRONG  {each}" for each in (*report.mixed[:5], *report.lost[:5], *result.failures[:5])]
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit status is 1 where an answer was wrong or a session was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument(
        "--run", type=Path, help="a run of the task text; default: one is made, a GRU of two layers of 256"
    )
    parser.add_argument("--sessions", type=int, default=Plan._field_defaults["sessions"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=Plan._field_defaults["clients"])
    parser.add_argument("--servers", type=int, default=1, help="servers that share the store")
    parser.add_argument("--store", choices=("sqlite", "valkey"), default="sqlite")
    parser.add_argument("--kill-every", type=float, default=Plan._field_defaults["kill_s"], metavar="SECONDS")
    parser.add_argument(
        "--expire",
        type=float,
        default=Plan._field_defaults["expire_s"],
        metavar="SECONDS",
        help="of sessions",
    )
    parser.add_argument("--max-live", type=int, default=0, help="sessions in memory; default: all of them")
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="throughtime-faults-") as name:
        folder = Path(name)
        run = asked.run or train(folder / "run", 256, 2)
        plan = Plan(
            run, folder, asked.sessions, 60 * asked.minutes, asked.clients, asked.servers, asked.store, asked.kill_every,
            asked.expire, asked.max_live,
        )  # fmt: skip
        result = asyncio.run(measure(plan))
        print(text(result))
    return 0 if result.good else 1


def train(path: Path, hidden: int, layers: int) -> Path:
    """A run of the task text that was hardly trained: what it says does not matter here."""
    words = [
        "train",
        "text",
        "--cell",
        "gru",
        "--hidden",
        hidden,
        "--layers",
        layers,
        "--steps",
        5,
        "--no-baselines",
        "--out",
        path,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "throughtime", *(str(each) for each in words)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"no run could be made:\n{done.stderr}")
    return path


if __name__ == "__main__":
    sys.exit(main())
