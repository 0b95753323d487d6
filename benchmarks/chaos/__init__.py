"""Faults of every kind against routers under load, with every request accounted for."""
