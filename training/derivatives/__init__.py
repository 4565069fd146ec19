"""Derivatives that autograd lacks or computes slowly: second derivatives and smooth surrogates."""
