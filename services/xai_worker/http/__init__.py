"""What every request passes through: request ids, limits, tokens, problems."""
