"""Train and judge the systems of a table side by side on the machines of a Ray cluster, as one machine does in turn."""
