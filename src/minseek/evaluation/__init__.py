"""Accuracy against the number of thoughts: tasks, checked answers, sweeps over strategies, intervals, a picture.

Nothing is imported here: the process that compares answers starts with this package and needs little of it.
"""
