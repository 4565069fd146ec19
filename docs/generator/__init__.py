"""Fill in the parts of the documentation that follow from code, settings and committed results."""
