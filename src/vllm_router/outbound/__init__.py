"""Every await on the outside world: engines, discovery, disk, worker processes."""
