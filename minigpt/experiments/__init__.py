"""Many small runs that answer one question: sweeps, ablations, scaling laws."""
