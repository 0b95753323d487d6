"""Metrics, access log, traces and the engine table."""
