"""Peers that need an environment of their own, and how to ask them."""
