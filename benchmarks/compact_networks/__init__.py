"""Compact networks that are expanded while they are trained: ExpandNets, Guo, Alvarez & Salzmann 2020."""
