"""Help that every package here needs, and no word of pictures or HTTP."""
