"""One script per claim; each writes results/*.json, which the README's figures come from."""
