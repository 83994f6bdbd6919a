"""A server and a client of gRPC without any schema: messages are bytes.

server: prints {"port": N} when it listens, and ends when its standard input does.
client ADDRESS SCENARIO...: runs scenarios, and ends with status 0 if each went as it should.
"""

import asyncio
import json
import os
import sys

import grpc

SERVICE = "test.Calls"
LARGE = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


class Calls:
    def __init__(self):
        self.changed = asyncio.Condition()
        self.cancelled = 0
        self.waiting = 0
        self.open = 0

    async def tell(self, **changes):
        async with self.changed:
            for name, change in changes.items():
                setattr(self, name, getattr(self, name) + change)
            self.changed.notify_all()

    async def until(self, is_so):
        async with self.changed:
            await self.changed.wait_for(is_so)

    async def echo(self, request, context):
        """What was sent, and the metadata of its client behind and before it."""
        said = tuple((key, value) for key, value in context.invocation_metadata() if key.startswith("x-text") or key.startswith("x-some"))
        await context.send_initial_metadata(said)
        context.set_trailing_metadata(tuple(("trailing-" + key, value) for key, value in said))
        return request

    async def fail(self, request, context):
        code, details = request.decode().split(" ", 1)
        await context.abort(getattr(grpc.StatusCode, code), details, (("x-why", "because"),))

    async def count(self, request, context):
        for number in range(int(request)):
            yield str(number).encode()

    async def sum(self, requests, context):
        return str(sum([int(number) async for number in requests])).encode()

    async def chat(self, requests, context):
        async for request in requests:
            yield request

    async def time_left(self, request, context):
        return str(context.time_remaining()).encode()

    async def hang(self, request, context):
        """Never answers; who gives up is counted."""
        try:
            await self.tell(waiting=1)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asyncio.ensure_future(self.tell(cancelled=1))
            raise

    async def hang_in_a_stream(self, request, context):
        yield b"first"
        await self.hang(request, context)

    async def given_up(self, request, context):
        """Answers once so many calls have been given up."""
        await self.until(lambda: self.cancelled >= int(request))
        return str(self.cancelled).encode()

    async def gather(self, request, context):
        """Answers once so many calls are here at once."""
        await self.tell(open=1)
        await self.until(lambda: self.open >= int(request))
        return request


async def serve():
    calls = Calls()
    unary, stream_out = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    methods = {
        "Echo": unary(calls.echo),
        "Fail": unary(calls.fail),
        "Count": stream_out(calls.count),
        "Sum": grpc.stream_unary_rpc_method_handler(calls.sum),
        "Chat": grpc.stream_stream_rpc_method_handler(calls.chat),
        "TimeLeft": unary(calls.time_left),
        "Hang": unary(calls.hang),
        "HangInAStream": stream_out(calls.hang_in_a_stream),
        "GivenUp": unary(calls.given_up),
        "Gather": unary(calls.gather),
    }
    server = grpc.aio.server(options=LARGE)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"port": port}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


class Client:
    def __init__(self, address):
        self.address = address
        self.channel = self.another()

    def another(self):
        """A channel with a connection of its own."""
        options = LARGE + [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        return grpc.aio.insecure_channel(self.address, options=options)

    def call(self, kind, method, channel=None):
        return getattr(channel or self.channel, kind)(f"/{SERVICE}/{method}")

    async def unary(self):
        metadata = (("x-text", "a b"), ("x-some-bin", bytes(range(256))))
        call = self.call("unary_unary", "Echo")(b"hello", metadata=metadata, timeout=20)
        assert await call == b"hello"
        initial, trailing = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
        assert initial["x-text"] == "a b" and initial["x-some-bin"] == bytes(range(256)), initial
        assert trailing["trailing-x-some-bin"] == bytes(range(256)), trailing
        assert await call.code() == grpc.StatusCode.OK
        assert await self.call("unary_unary", "Echo")(b"", timeout=20) == b""

    async def expect(self, call, code, details=None):
        try:
            await call
        except grpc.aio.AioRpcError as error:
            assert error.code() == code, (error.code(), error.details())
            assert details is None or error.details() == details, error.details()
            return error
        raise AssertionError(f"expected {code}")

    async def statuses(self):
        for code in ("NOT_FOUND", "RESOURCE_EXHAUSTED", "DATA_LOSS", "UNAUTHENTICATED"):
            call = self.call("unary_unary", "Fail")(f"{code} 100% gr\u00fcn".encode(), timeout=20)
            error = await self.expect(call, getattr(grpc.StatusCode, code), "100% gr\u00fcn")
            assert dict(error.trailing_metadata())["x-why"] == "because"
        await self.expect(self.call("unary_unary", "Nobody")(b"", timeout=20), grpc.StatusCode.UNIMPLEMENTED)

    async def streams(self):
        counted = [number async for number in self.call("unary_stream", "Count")(b"1000", timeout=20)]
        assert counted == [str(number).encode() for number in range(1000)]

        async def numbers():
            for number in range(1000):
                yield str(number).encode()

        assert await self.call("stream_unary", "Sum")(numbers(), timeout=20) == b"499500"
        # One after the other, so that each answer comes while the request goes on.
        chat = self.call("stream_stream", "Chat")(timeout=20)
        for number in range(100):
            message = str(number).encode() * 100
            await chat.write(message)
            assert await chat.read() == message
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() == grpc.StatusCode.OK

    async def large(self):
        message = os.urandom(8 << 20)
        assert await self.call("unary_unary", "Echo")(message, timeout=30) == message
        chat = self.call("stream_stream", "Chat")(timeout=30)
        sent = [os.urandom(1 << 20) for _ in range(8)]

        async def write():
            for part in sent:
                await chat.write(part)
            await chat.done_writing()

        writing = asyncio.ensure_future(write())
        assert [part async for part in chat] == sent
        await writing

    async def deadlines(self):
        left = float(await self.call("unary_unary", "TimeLeft")(b"", timeout=20))
        assert 5 < left <= 20, left
        await self.expect(
            self.call("unary_unary", "Hang")(b"", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED
        )
        assert await self.call("unary_unary", "GivenUp")(b"1", timeout=20) == b"1"

    async def cancellations(self):
        call = self.call("unary_stream", "HangInAStream")(b"", timeout=20)
        assert await call.read() == b"first"
        call.cancel()
        assert await self.call("unary_unary", "GivenUp")(b"1", timeout=20) == b"1"
        assert await call.code() == grpc.StatusCode.CANCELLED

    async def crowd(self):
        """A thousand at once, over ten connections."""
        channels = [self.another() for _ in range(10)]
        calls = [self.call("unary_unary", "Gather", channels[at % 10])(b"1000", timeout=30) for at in range(1000)]
        assert await asyncio.gather(*calls) == [b"1000"] * 1000

    async def quiet(self):
        """A call that says nothing for longer than any timeout of the gateway."""
        chat = self.call("stream_stream", "Chat")(timeout=30)
        await chat.write(b"a")
        assert await chat.read() == b"a"
        await asyncio.sleep(2.5)
        await chat.write(b"b")
        assert await chat.read() == b"b"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF

    # The cases of gRPC's own interoperability tests, by their names there, with bytes in place of their schema.

    async def empty_unary(self):
        assert await self.call("unary_unary", "Echo")(b"", timeout=20) == b""

    async def large_unary(self):
        assert await self.call("unary_unary", "Echo")(bytes(271828), timeout=20) == bytes(271828)

    async def client_streaming(self):
        async def sizes():
            for size in (27182, 8, 1828, 45904):
                yield b" " * (size - 1) + b"1"

        assert await self.call("stream_unary", "Sum")(sizes(), timeout=20) == b"4"

    async def server_streaming(self):
        assert len([one async for one in self.call("unary_stream", "Count")(b"4", timeout=20)]) == 4

    async def ping_pong(self):
        chat = self.call("stream_stream", "Chat")(timeout=20)
        for size in (27182, 8, 1828, 45904):
            await chat.write(bytes(size))
            assert await chat.read() == bytes(size)
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF

    async def empty_stream(self):
        chat = self.call("stream_stream", "Chat")(timeout=20)
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert await chat.code() == grpc.StatusCode.OK

    async def custom_metadata(self):
        await self.unary()

    async def status_code_and_message(self):
        await self.expect(
            self.call("unary_unary", "Fail")(b"UNKNOWN test status message", timeout=20),
            grpc.StatusCode.UNKNOWN,
            "test status message",
        )

    async def special_status_message(self):
        message = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
        call = self.call("unary_unary", "Fail")(f"UNKNOWN {message}".encode(), timeout=20)
        await self.expect(call, grpc.StatusCode.UNKNOWN, message)

    async def unimplemented_method(self):
        await self.expect(self.call("unary_unary", "Nobody")(b"", timeout=20), grpc.StatusCode.UNIMPLEMENTED)

    async def unimplemented_service(self):
        call = self.channel.unary_unary("/test.Nobody/Call")(b"", timeout=20)
        await self.expect(call, grpc.StatusCode.UNIMPLEMENTED)

    async def cancel_after_begin(self):
        call = self.call("stream_unary", "Sum")(timeout=20)
        call.cancel()
        assert await call.code() == grpc.StatusCode.CANCELLED

    async def cancel_after_first_response(self):
        chat = self.call("stream_stream", "Chat")(timeout=20)
        await chat.write(bytes(27182))
        assert await chat.read() == bytes(27182)
        chat.cancel()
        assert await chat.code() == grpc.StatusCode.CANCELLED

    async def timeout_on_sleeping_server(self):
        call = self.call("unary_unary", "Hang")(b"", timeout=0.2)
        await self.expect(call, grpc.StatusCode.DEADLINE_EXCEEDED)

    async def many_small_messages(self):
        """A thousand each way, of one byte, none of which waits for another."""
        chat = self.call("stream_stream", "Chat")(timeout=60)

        async def write():
            for _ in range(1000):
                await chat.write(b"x")
            await chat.done_writing()

        writing = asyncio.ensure_future(write())
        assert [one async for one in chat] == [b"x"] * 1000
        await writing

    async def refused(self, code, details=None):
        call = self.call("unary_unary", "Echo")(b"hello", timeout=20)
        await self.expect(call, getattr(grpc.StatusCode, code), details)


async def ask(address, scenarios):
    client = Client(address)
    for scenario in scenarios:
        name, *arguments = scenario.split(":")
        await getattr(client, name)(*arguments)
        print(f"{scenario}: well", flush=True)


if sys.argv[1] == "server":
    asyncio.run(serve())
else:
    asyncio.run(ask(sys.argv[2], sys.argv[3:]))
