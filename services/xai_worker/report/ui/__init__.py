"""The front-end libraries of the page: source here, built once by `make ui` into `dist/`, which is not in git."""
