"""The commands behind every figure that the project states; ``make bench`` runs them all."""
