"""Queue, fleet, capacity, balancing and outlier detection: the only shared mutable state.

Nothing here awaits or reads a clock.
"""
