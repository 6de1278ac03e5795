"""Unmasking policies: what decides which positions a step reveals."""
