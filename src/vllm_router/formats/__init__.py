"""Transcripts and event streams, read and written. Pure: bytes in, values out."""
