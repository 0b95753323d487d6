"""A simulated engine for tests and benchmarks.

It takes the time that a service curve gives it instead of running a model, makes its words up from
the upload's digest, remembers the requests it got, and misbehaves on demand. Its own HTTP layer is
deliberate: no web framework resets a connection at byte n, answers before the upload has been read
or carries the load of a benchmark at little cost.
"""
