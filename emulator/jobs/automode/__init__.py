"""AutoMode: automatic sweeps, from what is known of data and machine to one trial after the other."""
