"""Compiled code for what torch is slow at on a CPU."""
