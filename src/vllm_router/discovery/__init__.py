"""Sources of engines: flags, a file, DNS and Kubernetes. Each is a stream of changes."""
