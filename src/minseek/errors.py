"""What minseek says when it is asked for something that cannot be done."""


class InputError(ValueError):
    """A request that cannot be honoured; its text is one sentence: what was wrong, the value, what to do."""


class MinseekWarning(UserWarning):
    """Something a user should know about a request that is honoured."""
