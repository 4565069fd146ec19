"""Measurements beside the attacks that the checklist for gradient masking rests on."""
