"""Reading what models answered: the rollouts of a run and stored samples, in the terminal and in
the browser.

It reads files only, so it costs a running recipe nothing, and it imports no torch.
"""
