"""Queue, fleet, capacity, balancing, outlier detection:
the only shared mutable state. No await, no clock of its own."""
