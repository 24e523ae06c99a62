"""Integrated gradients of five terms beside captum, on the 8M encoder with random weights.

The measurement is the explanations' own (services.xai_worker.bench.speed); here it is a row of the table.
"""
