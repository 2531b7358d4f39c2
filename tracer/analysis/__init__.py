"""Turns a trace into hazards and a verdict: operations -> overlapping pairs -> rules -> verdict."""
