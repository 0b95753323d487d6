"""Engines as peers: HTTP client, probes, metrics, learned capabilities."""
