"""The socket towards clients: HTTP/1.1 framing, uploads read in place, everything else to ASGI."""
