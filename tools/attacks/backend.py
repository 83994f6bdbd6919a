"""The server behind the gateways: answers at once, late, much, never, or as a WebSocket that echoes. Prints its port."""

import asyncio
import base64
import hashlib
import itertools

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LARGE = 64 << 20


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lower = head.lower()
            path = head.split(b" ")[1]
            if b"\r\nupgrade: websocket" in lower:
                await echo(head, reader, writer)
                return
            if b"\r\ntransfer-encoding: chunked" in lower:
                while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    await reader.readexactly(size + 2)
                await reader.readuntil(b"\r\n")
            elif b"\r\ncontent-length:" in lower:
                await reader.readexactly(int(lower.split(b"\r\ncontent-length:")[1].split(b"\r\n")[0]))
            if path.startswith(b"/hold"):
                await asyncio.sleep(60)
            if path.startswith(b"/socket.io/") and b"sid=" in path:
                body = b'{"code":1,"message":"Session ID unknown"}'
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                continue
            if path.startswith(b"/large"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
                for _ in itertools.repeat(None, LARGE >> 16):
                    writer.write(bytes(1 << 16))
                    await writer.drain()
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        pass
    finally:
        writer.close()


async def echo(head, reader, writer):
    key = next(line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )
    while bytes_ := await reader.read(1 << 16):
        # Frames of the bystander's come whole, and what it looks at is its own text; others are no concern of ours.
        if bytes_[0] == 0x82 and len(bytes_) == 14:
            writer.write(b"\x82\x08" + bytes(byte ^ bytes_[2 + at % 4] for at, byte in enumerate(bytes_[6:])))
            await writer.drain()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
