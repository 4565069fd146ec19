"""Send a server thousands of damaged and oversized picture files, and measure its memory and its time."""
