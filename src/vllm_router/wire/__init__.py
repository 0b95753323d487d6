"""Pure readers and writers of formats: bytes in, values out; no await, no clock, no network."""
