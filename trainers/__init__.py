"""Training and scoring. Knows nothing of the server; runs by hand with `python -m amlocal.trainers`."""
