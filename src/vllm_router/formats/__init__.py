"""Transcripts and event streams, parsed and written. Pure: bytes in, values out."""
