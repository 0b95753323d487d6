"""Audio values: container hints, WAV, levels, speech spans, splitting.

Pure, except for `decoding`.
"""
