"""What the router knows of its engines: the only shared mutable state; no await, so no locks."""
