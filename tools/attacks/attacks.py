"""Attacks a gateway on loopback, one way after the other, and tells what each costs it and its other clients.

attacks.py --gateway sockgate=PATH [--gateway haproxy] [--gateway nginx] [--only NAME,...] [--seconds N] [--connections N]

For each attack and gateway: the memory above what it had before (proportional set size of all its processes), its processor
time, and how long a bystander waits for an answer and for an echo on a WebSocket that was open before. `scripts/attacks`
builds and runs it; docs/hostile.md explains the table.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import ways
from peers import GATEWAYS

HERE = os.path.dirname(os.path.abspath(__file__))


def tree(pid):
    """A process and all below it."""
    pids, at = [pid], 0
    while at < len(pids):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pids[at]}/task"):
                with open(f"/proc/{pids[at]}/task/{task}/children") as children:
                    pids += [int(child) for child in children.read().split()]
        at += 1
    return pids


def memory(pids):
    """KiB, shared pages divided among those who share them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as lines:
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def processor(pids):
    """Seconds."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def alive(process):
    return process.poll() is None


async def sample(pids, peak):
    while True:
        peak[0] = max(peak[0], memory(pids))
        await asyncio.sleep(0.1)


class Server:
    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "backend.py")], stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Bystander:
    """A process of its own, so that what attacks does not slow what measures."""

    def __init__(self, port):
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "bystander.py"), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError("the bystander finds no way through the gateway")

    def end(self):
        out, _ = self.process.communicate(b"end\n", timeout=30)
        return json.loads(out)


async def attack(way, gateway, arguments):
    pids = tree(gateway.process.pid)
    idle, used = memory(pids), processor(pids)
    peak = [idle]
    bystander = Bystander(gateway.ports["http"])
    sampler = asyncio.create_task(sample(pids, peak))
    scene = ways.Scene(gateway.ports, arguments.connections, arguments.seconds)
    try:
        await way(scene)
    finally:
        sampler.cancel()
        scene.close()
    seen = await asyncio.to_thread(bystander.end)
    used = processor(tree(gateway.process.pid)) - used
    return {"idle": idle, "memory": peak[0] - idle, "cpu": used, "alive": alive(gateway.process), **scene.counts, **seen}


def show(value):
    if value is None:
        return "never"
    return f"{value * 1000:.0f} ms" if value < 10 else f"{value:.0f} s"


async def measure(arguments):
    names = arguments.only.split(",") if arguments.only else list(ways.WAYS)
    rows = []
    for name in names:
        for which in arguments.gateway:
            kind, _, program = which.partition("=")
            # All of them new for each attack: what one leaves behind is not counted for the next.
            with tempfile.TemporaryDirectory() as folder, Server() as server, Server() as quiet:
                with GATEWAYS[kind](program, folder, server.port, quiet.port) as gateway:
                    row = {"attack": name, "gateway": kind, **await attack(ways.WAYS[name], gateway, arguments)}
            rows.append(row)
            print(
                f"{name:22} {kind:9} {row['memory'] / 1024:7.1f} MiB {row['cpu']:6.2f} s"
                f"  request {show(row['request'])}, echo {show(row['echo'])}"
                f"  {row['opened']} opened, {row['sent'] >> 10} KiB sent"
                f"{'' if row['alive'] else '  DIED'}",
                flush=True,
            )
    return rows


def table(rows, gateways):
    """The rows as Markdown."""
    kinds = [which.partition("=")[0] for which in gateways]
    lines = ["| attack | " + " | ".join(kinds) + " |", "|---" * (1 + len(kinds)) + "|"]
    for name in dict.fromkeys(row["attack"] for row in rows):
        cells = []
        for kind in kinds:
            for row in rows:
                if (row["attack"], row["gateway"]) == (name, kind):
                    cells.append(
                        f"{row['memory'] / 1024:.1f} MiB, {row['cpu']:.1f} s; {show(row['request'])}, {show(row['echo'])}"
                    )
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", action="append", required=True)
    parser.add_argument("--only")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if not shutil.which("openssl"):
        parser.error("openssl is needed, for certificates and for what asks for new keys")
    rows = asyncio.run(measure(arguments))
    print("\n" + table(rows, arguments.gateway))
    if arguments.json:
        with open(arguments.json, "w") as out:
            json.dump(rows, out, indent=1)


if __name__ == "__main__":
    main()
