"""How fast training is on this machine, beside what the machine could do and what a plain loop does."""
