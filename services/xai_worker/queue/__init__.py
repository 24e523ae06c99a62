"""The bounded, durable queue behind the worker's HTTP service."""
