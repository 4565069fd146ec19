"""The documentation: pages in Markdown, and the generator that fills in what follows from code and results."""
