"""What a node knows of its processes and of those on other nodes that care for them. Values in, signals out; no I/O."""
