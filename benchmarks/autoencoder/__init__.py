"""Rank of the codes of autoencoders with linear layers between code and decoder: Jing, Zbontar & LeCun 2020."""
