"""A small DNS server over real UDP and TCP sockets, with answers to order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from dnslib import AAAA, CLASS, QTYPE, RCODE, RR, SRV, A, DNSRecord

_DATA = {"A": A, "AAAA": AAAA}


class DnsServer:
    """``records`` maps (name, type) to texts; names without any are NXDOMAIN.

    Attributes:
        failing: Questions answered with SERVFAIL.
        silent: Questions that get no answer.
        questions: What was asked, with the transport.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.failing: set[tuple[str, str]] = set()
        self.silent: set[tuple[str, str]] = set()
        self.questions: list[tuple[str, str, str]] = []
        self.ttl_s = 1
        self.has_additional = True
        self.additional_class = CLASS.IN
        self.udp_max_bytes = 1232
        self.port = 0

    def count(self, kind: str) -> int:
        return sum(asked == kind for _, asked, _ in self.questions)

    def answer(self, query: bytes, transport: str) -> bytes | None:
        request = DNSRecord.parse(query)
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        self.questions.append((name, kind, transport))
        reply = request.reply()
        if (name, kind) in self.silent:
            return None
        if (name, kind) in self.failing:
            reply.header.rcode = RCODE.SERVFAIL
            return bytes(reply.pack())
        for text in self.records.get((name, kind), ()):
            if kind == "SRV":
                priority, weight, port, target = text.split(" ")
                data = SRV(int(priority), int(weight), int(port), target)
                for address in self.records.get((target, "A"), ()) if self.has_additional else ():
                    rclass = self.additional_class
                    reply.add_ar(RR(target, QTYPE.A, rclass, self.ttl_s, A(address)))
            else:
                data = _DATA[kind](text)
            reply.add_answer(RR(name, request.q.qtype, rdata=data, ttl=self.ttl_s))
        if not any(known == name for known, _ in self.records):
            reply.header.rcode = RCODE.NXDOMAIN
        packed = bytes(reply.pack())
        if transport == "udp" and len(packed) > self.udp_max_bytes:
            cut = request.reply()
            cut.header.tc = 1
            return bytes(cut.pack())
        return packed

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = self.answer(await reader.readexactly(size), "tcp")
            if reply is not None:
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._server.answer(data, "udp")
        if reply is not None:
            self._transport.sendto(reply, addr)


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    server = DnsServer()
    tcp = await asyncio.start_server(server.serve_tcp, "127.0.0.1", 0)
    server.port = tcp.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    udp, _ = await loop.create_datagram_endpoint(
        lambda: _Udp(server), local_addr=("127.0.0.1", server.port)
    )
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()
