"""Campaigns: a matrix of cells, each one run of verify, explore or bench in a process of its own, kept and compared.

The room knows its cells by their command lines and their JSON alone: what a cell does is the business of its command.
"""
