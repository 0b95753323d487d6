"""Decoder processes: any container to samples, speech detection, pieces."""
