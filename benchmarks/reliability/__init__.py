"""Campaigns of damaged files, kills and mutants."""
