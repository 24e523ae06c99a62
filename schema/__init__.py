"""JSON Schemas of everything that crosses a boundary; `python -m schema` writes them."""
