"""Unmasking policies: what decides."""
