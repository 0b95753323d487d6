"""Uploads in memory and on disk; each block has one owner."""
