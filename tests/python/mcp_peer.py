"""A server, or many clients, of the Model Context Protocol by the official Python SDK, version 1 or 2.

`server ID` says {"port":...,"id":...} on stdout once it listens. `client URL SESSIONS` opens its sessions and says a line of JSON;
then each line `call` on stdin has all of them call the tool, with progress, and says what came of it. Both end with their stdin.
"""

import asyncio
import json
import socket
import sys
from contextlib import AsyncExitStack

try:
    from mcp.server.fastmcp import Context, FastMCP as Server
except ImportError:
    from mcp.server.mcpserver import Context, MCPServer as Server


def say(value):
    print(json.dumps(value), flush=True)


async def lines():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().strip()


async def serve(name):
    import uvicorn

    server = Server("server")

    @server.tool()
    async def who(context: Context) -> str:
        for step in (1, 2):
            await context.report_progress(step, 2)
        return name

    application = server.streamable_http_app()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(application, log_level="error"))
    serving = asyncio.create_task(running.serve([listening]))
    while not running.started:
        await asyncio.sleep(0.01)
    say({"port": listening.getsockname()[1], "id": name})
    async for _ in lines():
        pass
    running.force_exit = running.should_exit = True
    await asyncio.wait({serving}, timeout=1)


class Session:
    """One client in a task of its own, as the SDK wants it."""

    def __init__(self, url):
        self.url, self.server = url, None
        self.wanted, self.told = asyncio.Queue(), asyncio.Queue()
        self.running = asyncio.create_task(self.run())

    async def run(self):
        try:
            async with AsyncExitStack() as stack:
                await self.live(stack)
        except BaseException as fault:  # also a group of them
            await self.told.put(fault)

    async def live(self, stack):
        from mcp import ClientSession
        from mcp.client import streamable_http

        connect = getattr(streamable_http, "streamable_http_client", None) or streamable_http.streamablehttp_client
        streams = await stack.enter_async_context(connect(self.url))
        session = await stack.enter_async_context(ClientSession(streams[0], streams[1]))
        await session.initialize()
        await self.told.put("open")
        while await self.wanted.get() == "call":
            steps = []

            async def progress(*step):
                steps.append(step)

            answer = await session.call_tool("who", {}, progress_callback=progress)
            await self.told.put((answer.content[0].text, len(steps)))

    async def ask(self, what):
        await self.wanted.put(what)
        return await self.told.get()


async def clients(url, number):
    sessions = [Session(url) for _ in range(number)]
    opened = [await session.told.get() for session in sessions]
    say({"opened": opened.count("open"), "faults": [repr(fault) for fault in opened if fault != "open"]})
    async for line in lines():
        called = await asyncio.gather(*(session.ask(line) for session in sessions))
        faults = [repr(answer) for answer in called if not isinstance(answer, tuple)]
        called = [(session, answer) for session, answer in zip(sessions, called) if isinstance(answer, tuple)]
        moved = sum(session.server not in (None, name) for session, (name, _) in called)
        servers = {}
        for session, (name, _) in called:
            session.server = name
            servers[name] = servers.get(name, 0) + 1
        progress = sum(steps for _, (_, steps) in called)
        say({"called": len(called), "moved": moved, "progress": progress, "servers": servers, "faults": faults})
    sys.stdout.flush()
    import os

    os._exit(0)


if sys.argv[1] == "server":
    asyncio.run(serve(sys.argv[2]))
else:
    asyncio.run(clients(sys.argv[2], int(sys.argv[3])))
