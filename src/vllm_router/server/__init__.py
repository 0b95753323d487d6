"""Client sockets:
HTTP/1.1 framing, uploads read in place, an ASGI bridge for every other route."""
