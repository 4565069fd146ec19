"""Defences around a static network: inference rules that use its input gradients, and a control that uses none."""
