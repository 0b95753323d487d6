"""Sources of engines: flags, a file, DNS, Kubernetes. Each is a stream of changes."""
