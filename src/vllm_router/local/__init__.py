"""A small engine with vLLM's audio API on the CPU, for trying the router out and for tests."""
