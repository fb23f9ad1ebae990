"""The budgets of the design, measured on this machine as ratios within one run."""
