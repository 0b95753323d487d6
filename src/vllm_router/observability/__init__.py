"""Metrics, access log, traces and the table of engines."""
