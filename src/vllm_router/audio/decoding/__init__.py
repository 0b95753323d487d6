"""Decoder processes: any container to samples, voice activity detection, pieces."""
