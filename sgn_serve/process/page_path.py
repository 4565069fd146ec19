"""Name the path of the page, which the supervisor tells and the workers serve; http/paths.py has all others."""

PAGE = "/ui"
