"""Everything that needs torch: encoders, heads, the CNN, the stacker."""
